"""The worker's own side: load the stages once, then run the blocks of rows that the driver sends.

Started by `jobs.worker` as `python -m jobs.worker_main PIPE_FD`; the first message is a `WorkerOrder`.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from cluster.errors import RushesError

PR_SET_PDEATHSIG = 1
STDOUT_FD, STDERR_FD = 1, 2


@dataclass(frozen=True, slots=True)
class WorkerOrder:
    """What a worker needs to start: one run's constants and where to write what libraries say."""

    spec_json: str
    stages: tuple[str, ...]
    threads: int
    log_path: str
    log_level: int
    parent: int


def serve(link: Connection) -> None:
    """Answer `("ready", None)` or `("refused", message)` once, then each block with its finished rows."""
    order: WorkerOrder = link.recv()
    _belong_to(order.parent)
    _speak(order)
    try:
        actor = _load(order)
    except RushesError as error:
        link.send(("refused", str(error)))
        return
    except Exception as error:
        logging.getLogger("jobs.worker").debug("the stages do not load", exc_info=True)
        link.send(("refused", f"the models do not load: {type(error).__name__}: {error}; see {order.log_path}"))
        raise
    link.send(("ready", None))
    _answer(link, actor)
    actor.close()


def _load(order: WorkerOrder) -> Any:
    os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")
    from jobs.stage_actor import StageActor

    return StageActor(order.spec_json, order.stages, order.threads, first=True, last=True)


def _answer(link: Connection, actor: Any) -> None:
    from cluster.types import rows_table

    while True:
        try:
            rows = link.recv()
        except EOFError:
            return
        link.send(("rows", actor(rows_table(rows)).to_pylist()))


def _belong_to(parent: int) -> None:
    """Die with the driver, even in the middle of a model call; leave Ctrl-C to it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _speak(order: WorkerOrder) -> None:
    """Our own messages go to the terminal, what libraries and a dying interpreter write goes to the log."""
    terminal = os.fdopen(os.dup(STDERR_FD), "w", buffering=1)
    log = os.open(order.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stderr.flush()
    os.dup2(log, STDOUT_FD)
    os.dup2(log, STDERR_FD)
    os.close(log)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    handler = logging.StreamHandler(terminal)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    for name in ("cluster", "actors", "jobs"):
        logger = logging.getLogger(name)
        logger.setLevel(order.log_level)
        logger.addHandler(handler)
        logger.propagate = False


if __name__ == "__main__":
    with suppress(ConnectionError, EOFError):
        # Under its own name, so that the driver's order is an instance of the same class.
        importlib.import_module("jobs.worker_main").serve(Connection(int(sys.argv[1])))
