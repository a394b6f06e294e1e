"""What jobs do, without a cluster to send them to: each runs to its end, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from serve.errors import UnavailableError


class LocalJobs:
    """A `Submitter` that runs what it is given at once; `environment` is set over this process's own."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {**os.environ, **environment}
        self._ended: list[subprocess.CompletedProcess[str]] = []

    async def submit(self, entrypoint: Sequence[str]) -> str:
        command = [sys.executable, "-m", "jobs.cli.main", *entrypoint]
        options = {"capture_output": True, "text": True, "env": self._environment, "cwd": Path(__file__).parents[1]}
        self._ended.append(await asyncio.to_thread(subprocess.run, command, **options))
        return f"job-{len(self._ended)}"

    async def state(self, job_id: str) -> dict[str, str | None] | None:
        done = self._ended[int(job_id.removeprefix("job-")) - 1]
        return {"state": "failed" if done.returncode else "succeeded", "message": done.stderr or None}


class NoJobs:
    """A `Submitter` where no job can be begun."""

    async def submit(self, entrypoint: Sequence[str]) -> str:
        raise UnavailableError(f"no job begins here; `rushes {' '.join(entrypoint)}` does it")

    async def state(self, job_id: str) -> None:
        return None
