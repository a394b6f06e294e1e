"""Jobs as processes of this machine, for a service without a cluster to send them to."""

from __future__ import annotations

import os
import queue
import secrets
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.settings import Settings
from serve.errors import BusyError, UnavailableError

WAITING = 32
REMEMBERED = 1_000
_TAIL_BYTES = 4_096
State = Literal["pending", "running", "succeeded", "failed", "stopped"]


@dataclass(slots=True)
class _Job:
    job_id: str
    words: list[str]
    log: Path
    state: State = "pending"
    message: str | None = None


def command(words: Sequence[str]) -> list[str]:
    """`rushes` with these words, in this interpreter."""
    return [sys.executable, "-m", "jobs.cli.main", *words]


class LocalJobs:
    """One job at a time, `waiting` more in line. What a job prints lies in `runs/JOB_ID/job.log` of the data directory.

    A job that runs when the service ends goes on; those in line are not begun. States are known to this process
    alone; what jobs do is recorded as runs.
    """

    def __init__(
        self, settings: Settings, *, waiting: int = WAITING, environment: Mapping[str, str] | None = None
    ) -> None:
        self._folder = settings.data_dir.absolute() / "runs"
        own = {"RUSHES_DATA_DIR": str(settings.data_dir.absolute())}
        self._environment = {**os.environ, **own, **(environment or {})}
        self._line: queue.Queue[_Job] = queue.Queue(waiting)
        self._jobs: OrderedDict[str, _Job] = OrderedDict()
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None

    async def submit(self, entrypoint: Sequence[str]) -> str:
        """Put `rushes` with these words in line; `BusyError` when the line is full."""
        job_id = f"rushes-{secrets.token_hex(16)}"
        job = _Job(job_id, list(entrypoint), self._folder / job_id / "job.log")
        with self._lock:
            if self._worker is None:
                # A daemon: the service does not wait for its jobs when it ends.
                self._worker = threading.Thread(target=self._work, name="jobs", daemon=True)
                self._worker.start()
            try:
                self._line.put_nowait(job)
            except queue.Full:
                raise BusyError(f"{self._line.maxsize} jobs wait already", retry_after_s=30) from None
            self._jobs[job_id] = job
            while len(self._jobs) > REMEMBERED:
                self._jobs.popitem(last=False)
        return job_id

    async def state(self, job_id: str) -> dict[str, str | None] | None:
        """How the job is; None for an id that this process did not give."""
        job = self._jobs.get(job_id)
        return None if job is None else {"state": job.state, "message": job.message}

    def _work(self) -> None:
        while True:
            job = self._line.get()
            try:
                self._run(job)
            except Exception as error:  # noqa: BLE001 - the jobs in line behind it still get their turn
                job.message, job.state = f"it could not be begun: {error}", "failed"

    def _run(self, job: _Job) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.state = "running"
        with job.log.open("wb") as log:
            done = subprocess.run(
                command(job.words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=Path(__file__).parents[1],
                start_new_session=True,
                check=False,
            )
        if done.returncode != 0:
            job.message = _last_line(job.log) or f"exit code {done.returncode}"
        job.state = "succeeded" if done.returncode == 0 else "stopped" if done.returncode < 0 else "failed"


class NoJobs:
    """For a service that begins no jobs: `reason` says why, and what to do instead."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def submit(self, entrypoint: Sequence[str]) -> str:
        """Refuse."""
        raise UnavailableError(f"{self._reason}: `rushes {' '.join(entrypoint)}` does it on the command line")

    async def state(self, job_id: str) -> None:
        """There is none."""
        return


def _last_line(log: Path) -> str | None:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else None
