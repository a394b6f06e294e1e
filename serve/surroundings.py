"""What Ray and Serve find around them: they read their environment when they are imported, so this comes before."""

from __future__ import annotations

import json
import os
import secrets
import socket
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from cluster.environment import MODEL_ENV
from cluster.errors import RushesError
from cluster.settings import Settings

DASHBOARD_PORT = 8265
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Replicas compete with whatever else the machine does as equals.
    "RAY_worker_niceness": "0",
}
# A service that ends drops what the load balancer could still send for half a minute.
HAPROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.1",
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1",
    # Nobody tries a request twice that may have written something.
    "RAY_SERVE_HAPROXY_RETRIES": "0",
}


def prepare_environment(settings: Settings, url: str, folder: Path, *, haproxy: bool, local: bool) -> None:
    """What Ray, its actors and its jobs inherit: the database's address and the cluster's token go no other way."""
    os.environ.update({**QUIET, **MODEL_ENV})
    if haproxy:
        os.environ.update({**HAPROXY, **_haproxy_places(folder)})
    if not local:
        return
    os.environ["RUSHES_DATABASE_URL"] = url
    os.environ["RUSHES_DATA_DIR"] = str(settings.data_dir.absolute())
    # Whoever reaches Ray's ports runs code as this user, and Ray opens them on every interface.
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(_token_file(settings.data_dir))}
    os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{_free_port(DASHBOARD_PORT)}"


def _haproxy_places(folder: Path) -> dict[str, str]:
    """Two services of one machine must not share files and ports; the ports are open on every interface."""
    return {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(_free_port(8404)),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(_free_port(9101)),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(_free_port(8500)),
    }


def _free_port(wanted: int) -> int:
    """`wanted`, or the next one that nobody listens at."""
    for port in range(wanted, wanted + 100):
        with closing(socket.socket()) as door, suppress(OSError):
            door.bind(("", port))
            return port
    raise RushesError(f"no port from {wanted} to {wanted + 99} is free")


def _token_file(data_dir: Path) -> Path:
    path = data_dir / "ray-token"
    data_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.touch(0o600)
        path.write_text(secrets.token_hex(32), "ascii")
    return path


def _service_file(data_dir: Path) -> Path:
    """Where a running service of this data directory says how it is reached."""
    return data_dir / "service.json"


def tell_service(data_dir: Path) -> None:
    """Say how the local service of this process is reached; one that runs on the same directory stays the one told."""
    if _told_service(data_dir) is None:
        dashboard, token = os.environ["RAY_API_SERVER_ADDRESS"], os.environ.get("RAY_AUTH_TOKEN_PATH")
        told = {"dashboard": dashboard, "token": token, "pid": os.getpid()}
        _service_file(data_dir).write_text(json.dumps(told), "utf-8")


def forget_service(data_dir: Path) -> None:
    """Take back what this process said; what another one said stays."""
    if (_told_service(data_dir) or {}).get("pid") == os.getpid():
        _service_file(data_dir).unlink(missing_ok=True)


def find_service(data_dir: Path) -> str | None:
    """The dashboard of the service that runs on this data directory, whose token is taken; None when none runs."""
    told = _told_service(data_dir)
    if told is None:
        return None
    if told["token"] is not None:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": told["token"]}
    return str(told["dashboard"])


def _told_service(data_dir: Path) -> dict[str, Any] | None:
    try:
        told = json.loads(_service_file(data_dir).read_text("utf-8"))
        os.kill(told["pid"], 0)
    except (OSError, ValueError):
        return None
    return told
