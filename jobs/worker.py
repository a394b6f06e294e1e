"""One process beside the driver that holds the models: for small jobs, where starting Ray does not pay.

A row that ends the process costs that row: the driver starts another worker and sends the row again,
and the crash claims decide when it has died on it often enough.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.errors import FailureClass, RushesError
from jobs.worker_main import WorkerOrder

START_DEADLINE_S = 900.0
END_S = 10.0
# The claims stop a row in one stage at two deaths; this bounds deaths between the stages.
MAX_DEATHS = 5
MAX_FAILED_STARTS = 3
_ROOT = Path(__file__).parents[1]
logger = logging.getLogger(__name__)


class Worker:
    """Runs rows in its child process; a child that dies is replaced at the next row."""

    def __init__(self, spec_json: str, stages: Sequence[str], threads: int, log_path: Path) -> None:
        try:
            log_path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            # A full disk must not cost the work, only its log.
            logger.warning("no worker log in %s: %s", log_path.parent, error)
            log_path = Path(os.devnull)
        level = logging.getLogger("jobs").getEffectiveLevel()
        self.order = WorkerOrder(spec_json, tuple(stages), threads, str(log_path), level, os.getpid())
        self._failed_starts = 0
        self._process: Any = None
        self._link: Any = None

    @property
    def pid(self) -> int | None:
        """The child's process id; None before the first row and after its end."""
        return self._process.pid if self._process is not None else None

    def run(self, row: dict[str, Any]) -> dict[str, Any]:
        """The finished row; one that ends every worker comes back without an outcome.

        Raises `RushesError` when no worker gets to its first row.
        """
        for _ in range(MAX_DEATHS):
            try:
                self._running().send(row)
                return self._receive(None)
            except (EOFError, ConnectionError):
                logger.warning("the worker ended (%s) on %s; another one takes over", self._epitaph(), row["uri"])
        message = f"{MAX_DEATHS} workers died on it outside every stage: see {self.order.log_path}"
        error = {"failure": FailureClass.CRASH.value, "stage": "worker", "message": message}
        return {**row, "outcome": None, "error": error, "timings": []}

    def close(self) -> None:
        """End the child: asked first, then made to."""
        if self._process is not None:
            self._link.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
            self.kill()

    def kill(self) -> None:
        """End the child at once."""
        if self._process is not None:
            self._link.close()
            self._process.kill()
            self._process.wait()
            self._process = self._link = None

    def _running(self) -> Any:
        if self._process is None:
            self._start()
        return self._link

    def _start(self) -> None:
        self._link, theirs = multiprocessing.Pipe()
        with theirs:
            fd = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "jobs.worker_main", str(fd)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[fd],
                process_group=0,
                env=_environment(),
            )
        try:
            self._link.send(self.order)
            self._receive(START_DEADLINE_S)
        except (EOFError, ConnectionError) as error:
            self._failed_starts += 1
            if self._failed_starts < MAX_FAILED_STARTS:
                raise
            raise RushesError(
                f"{self._failed_starts} workers died while they loaded their models (the last by {self._epitaph()}): "
                f"see {self.order.log_path}; signal 9 is most often the end of the memory"
            ) from error
        self._failed_starts = 0

    def _receive(self, deadline_s: float | None) -> Any:
        if deadline_s is not None and not self._link.poll(deadline_s):
            self.kill()
            raise RushesError(f"no worker was ready after {deadline_s:.0f} s: see {self.order.log_path}")
        kind, value = self._link.recv()
        if kind == "refused":
            self.close()
            raise RushesError(value)
        return value

    def _epitaph(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        process = self._process
        self.kill()
        code = process.returncode
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _environment() -> dict[str, str]:
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{_ROOT}{os.pathsep}{path}" if path else str(_ROOT)}
