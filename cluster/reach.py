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
        raise RushesError(no_cluster(address)) from error


def no_cluster(address: str) -> str:
    """That there is none."""
    return f"no Ray cluster at {address}: start one, or leave --address out"
