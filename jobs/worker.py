"""One process beside the driver that holds the models: for small jobs, where starting Ray does not pay.

A row that ends the process costs that row: the driver starts another worker and sends the rows of the block
again, one by one, and the crash claims decide when it has died on one often enough.
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

from cluster.environment import child_environment
from cluster.errors import FailureClass, RushesError
from cluster.types import error_record
from jobs.guard import LOAD_DEADLINE_S
from jobs.worker_main import WorkerOrder

END_S = 10.0
# The claims stop a row in one stage at two deaths; this bounds deaths between the stages.
MAX_DEATHS = 5
# A worker that ends while it loads may have met a bad moment, a third time is no moment.
MAX_STARTS = 3
# A line that breaks in the middle of a message is an OSError of no particular kind.
_ENDED = (EOFError, OSError)
logger = logging.getLogger(__name__)


class WorkerEndedError(Exception):
    """The worker ended before it answered."""


class Worker:
    """Runs rows in its child process; a child that dies is replaced at the next rows."""

    def __init__(self, spec_json: str, stages: Sequence[str], threads: int, log_path: Path) -> None:
        level = logging.getLogger("jobs").getEffectiveLevel()
        self.order = WorkerOrder(spec_json, tuple(stages), threads, str(log_path), level, os.getpid())
        self._process: Any = None
        self._link: Any = None

    @property
    def pid(self) -> int | None:
        """The child's process id; None before the first row and after its end."""
        return self._process.pid if self._process is not None else None

    def run(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The finished rows of a block; one that ends every worker comes back without an outcome.

        Raises `RushesError` when no worker gets to its first rows.
        """
        if len(rows) > 1:
            with suppress(WorkerEndedError):
                return self._answer(rows)
        return [self._run_alone(row) for row in rows]

    def _run_alone(self, row: dict[str, Any]) -> dict[str, Any]:
        for _ in range(MAX_DEATHS):
            with suppress(WorkerEndedError):
                return self._answer([row])[0]
        message = f"{MAX_DEATHS} workers died on it outside every stage: see {self.order.log_path}"
        error = error_record(FailureClass.CRASH, "worker", message, None)
        return {**row, "outcome": None, "error": error, "timings": []}

    def _answer(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            self._running().send(list(rows))
            return self._receive(None)
        except _ENDED as error:
            more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
            logger.warning(
                "the worker ended (%s) on %s%s; another one takes over", self._epitaph(), rows[0]["uri"], more
            )
            raise WorkerEndedError from error

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
        """Start a worker that is ready; `RushesError` when the models end one after the other."""
        epitaph = ""
        for _ in range(MAX_STARTS):
            try:
                self._launch()
                self._link.send(self.order)
                self._receive(LOAD_DEADLINE_S)
                return
            except _ENDED:
                epitaph = self._epitaph()
                logger.warning("the worker ended (%s) while it loaded the models", epitaph)
        raise RushesError(
            f"the models do not load: {MAX_STARTS} workers ended while they loaded them, the last with {epitaph}; "
            f"see {self.order.log_path}; signal 9 is most often the end of the memory"
        )

    def _launch(self) -> None:
        self._link, theirs = multiprocessing.Pipe()
        with theirs:
            fd = theirs.fileno()
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "jobs.worker_main", str(fd)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[fd],
                    process_group=0,
                    env=child_environment(),
                )
            except OSError as error:
                self._link.close()
                raise RushesError(f"no worker starts: {error}") from error

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
        code = self._process.poll()
        self.kill()
        if code is None:
            return "it hung up and stayed"
        return f"signal {-code}" if code < 0 else f"exit code {code}"
