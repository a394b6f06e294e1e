"""Jobs sent to a Ray cluster, by entry-point string: they run on its head node and outlive the service."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shlex
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from cluster.errors import first_line, last_line
from serve.errors import UnavailableError

T = TypeVar("T")
logger = logging.getLogger("rushes.serve")
_STATES = {
    "PENDING": "pending",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "stopped",
}


class RayJobs:
    """Submits to the dashboard at `address`, such as `http://127.0.0.1:8265`.

    Settings and secrets are those of the head node, in its environment or settings file: nothing of them stands in a
    job, which everybody who sees the dashboard can read. `working_dir` is the package address that the
    service itself runs from, where the code is not installed on the head node; `python` its interpreter.
    """

    def __init__(self, address: str, *, working_dir: str | None = None, python: str = sys.executable) -> None:
        self._address, self._python = address, python
        self._runtime = None if working_dir is None else {"working_dir": working_dir}
        self._client: Any = None
        # Its own: the client has no time-outs, and a dashboard that hangs must not take the threads of others.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="ray-jobs")

    async def submit(self, entrypoint: Sequence[str]) -> str:
        """Begin `rushes` with these words; `UnavailableError` where the cluster takes no jobs now."""
        line = shlex.join([self._python, "-m", "jobs.cli.main", *entrypoint])
        # Who knows an id may read the job's state: it cannot be guessed.
        job_id = f"rushes-{secrets.token_hex(16)}"

        def begin(client: Any) -> str:
            return client.submit_job(
                entrypoint=line, submission_id=job_id, runtime_env=self._runtime, entrypoint_num_cpus=0
            )

        return await self._in_thread(begin)

    async def state(self, job_id: str) -> dict[str, str | None] | None:
        """How the job is; None for one that the cluster does not know."""
        if not job_id.startswith("rushes-"):
            return None

        def look(client: Any) -> dict[str, str | None] | None:
            try:
                found = client.get_job_info(job_id)
            except RuntimeError as error:
                if "404" in str(error):
                    return None
                raise
            state = _STATES[str(found.status.value)]
            return {"state": state, "message": last_line(found.message) if state == "failed" else None}

        return await self._in_thread(look)

    async def _in_thread(self, work: Callable[[Any], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._asked, work)

    def _asked(self, work: Callable[[Any], T]) -> T:
        from requests import RequestException

        try:
            if self._client is None:
                from ray.job_submission import JobSubmissionClient

                self._client = JobSubmissionClient(self._address)
            return work(self._client)
        except (ConnectionError, RuntimeError, RequestException) as error:
            logger.warning("no answer about jobs from %s: %s", self._address, first_line(error))
            # The client learns nothing of the cluster's insides.
            raise UnavailableError("the cluster takes no jobs just now", retry_after_s=5) from error
