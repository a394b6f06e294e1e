"""Whether anything listens where a Ray cluster should be."""

from __future__ import annotations

import socket

from cluster.errors import RushesError

KNOCK_S = 10.0


def knock(address: str) -> None:
    """Ask whether anything listens at `HOST:PORT`; Ray itself would wait for minutes. Raises `RushesError`."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), KNOCK_S).close()
    except OSError as error:
        raise RushesError(_absent(address)) from error


def no_cluster(address: str) -> str:
    """That there is none; where `knock` met somebody at HOST:PORT, that it is none that takes this process."""
    if address.rpartition("://")[2].rpartition(":")[2].isdigit():
        return (
            f"what listens at {address} is no Ray cluster that takes this process: give the port of its control plane "
            "(6379), and its token in ~/.ray/auth_token or by RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token"
        )
    return _absent(address)


def _absent(address: str) -> str:
    return f"no Ray cluster at {address}: start one, or leave --address out"
