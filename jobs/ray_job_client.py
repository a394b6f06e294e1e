"""The jobs of a Ray cluster, through its dashboard: every answer in time, every refusal in one line."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cluster.errors import RushesError, UsageError, first_line
from cluster.reach import knock

CONNECT_S, ANSWER_S = 10.0, 120.0
# A line that is silent for so long may be cut: the job is asked after.
SILENCE_S = 15.0
ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
ACTIVE = ("pending", "running")


class HeadAwayError(RushesError):
    """The dashboard does not answer now."""


class TakenError(RushesError):
    """The cluster has a job with this submission id already."""


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as the cluster knows it; times are seconds since the epoch, `exit_code` is its driver's."""

    job_id: str
    state: str
    exit_code: int | None = None
    message: str = ""
    entrypoint: str = ""
    started_s: float | None = None
    ended_s: float | None = None

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ACTIVE


def dashboard_address(asked: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The dashboard of `--address` or of Ray's own variables, None without any.

    `UsageError` for an `--address` that is none, and for a first variable that is none.
    """
    named = next((name for name in ADDRESSES if environment.get(name)), None)
    address = asked or (environment[named] if named else None)
    if address is None:
        return None
    if not address.startswith(("http://", "https://")):
        raise UsageError(
            f"{address!r} ({'--address' if asked else named}) is not the address of a dashboard: write http://HEAD:8265"
        )
    return address.rstrip("/")


class RayJobClient:
    """Submits to the dashboard at `address`, such as `http://127.0.0.1:8265`, with Ray's own client.

    Raises `HeadAwayError` where nothing answers in time, and `RushesError` where a token is wrong or missing, or the
    cluster runs another version of Ray. The token is Ray's affair: RAY_AUTH_MODE with RAY_AUTH_TOKEN or
    RAY_AUTH_TOKEN_PATH.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._client: Any = None

    def submit(self, entrypoint: str, job_id: str, runtime_env: Mapping[str, Any]) -> None:
        """Begin a job; `TakenError` when the cluster has one with this id."""
        with self._asked() as client:
            try:
                client.submit_job(entrypoint=entrypoint, submission_id=job_id, runtime_env=dict(runtime_env))
            except RuntimeError as error:
                if "already exists" in str(error):
                    raise TakenError(f"the cluster has a job {job_id} already") from error
                raise

    def jobs(self) -> list[JobState]:
        """Every submitted job that the cluster remembers."""
        with self._asked() as client:
            return [_state(found) for found in client.list_jobs() if found.submission_id is not None]

    def find(self, job_id: str) -> JobState | None:
        """The job; None for one that the cluster does not know."""
        with self._asked() as client:
            return self._found(lambda: _state(client.get_job_info(job_id)))

    def logs(self, job_id: str) -> str | None:
        """All it printed so far; None for one that the cluster does not know."""
        with self._asked() as client:
            return self._found(lambda: str(client.get_job_logs(job_id)))

    def stop(self, job_id: str) -> bool:
        """Ask it to end, as Ctrl-C would; False for one that has ended."""
        with self._asked() as client:
            return bool(client.stop_job(job_id))

    def tail(self, job_id: str, show: Callable[[str], None]) -> None:
        """Show what it prints, from its first line, until the line ends or the job does."""
        with self._asked() as client:
            asyncio.run(self._tail(client, job_id, show))

    async def _tail(self, client: Any, job_id: str, show: Callable[[str], None]) -> None:
        pieces = client.tail_job_logs(job_id)
        following: asyncio.Task[str] = asyncio.ensure_future(anext(pieces))
        try:
            while True:
                await asyncio.wait([following], timeout=SILENCE_S)
                if following.done():
                    show(following.result())
                    following = asyncio.ensure_future(anext(pieces))
                    continue
                found = await asyncio.to_thread(self.find, job_id)
                if found is None or not found.active:
                    return
        except StopAsyncIteration:
            return
        finally:
            following.cancel()

    def _found(self, look: Callable[[], Any]) -> Any:
        try:
            return look()
        except RuntimeError as error:
            if "code 404" in str(error):
                return None
            raise

    @contextmanager
    def _asked(self) -> Iterator[Any]:
        """Ray's client; what goes wrong inside the block is said in our words."""
        try:
            if self._client is None:
                self._client = _connect(self.address)
            yield self._client
        except (RushesError, BrokenPipeError):
            raise
        except Exception as error:
            # Three libraries answer here, each with errors of its own.
            raise _told(self.address, error) from error


def _connect(address: str) -> Any:
    try:
        knock(address)
    except RushesError as error:
        raise HeadAwayError(_nobody(address)) from error
    # They outrank the address that Ray's client is given.
    for name in ADDRESSES:
        os.environ.pop(name, None)
    import ray
    from ray.job_submission import JobSubmissionClient

    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Bounded(JobSubmissionClient):
        """Ray's own waits for an answer for ever."""

        def _do_request(self, method: str, endpoint: str, **more: Any) -> Any:
            return super()._do_request(method, endpoint, timeout=(CONNECT_S, ANSWER_S), **more)

    client = Bounded(address)
    theirs = client._server_ray_version
    if theirs != ray.__version__:
        raise RushesError(
            f"the cluster at {address} runs Ray {theirs}, and this is Ray {ray.__version__}: install the version of "
            "requirements.lock on both"
        )
    return client


def _told(address: str, error: Exception) -> RushesError:
    from aiohttp import ClientError
    from ray.exceptions import AuthenticationError
    from requests import JSONDecodeError, RequestException

    said = str(error)
    if isinstance(error, AuthenticationError) or (isinstance(error, ClientError) and re.match("40[13]\\b", said)):
        return RushesError(_locked(address, said))
    if isinstance(error, JSONDecodeError | KeyError) or "Version check returned 404" in said:
        return RushesError(f"what answers at {address} is no Ray dashboard: check --address")
    if isinstance(error, RequestException | ClientError | OSError):
        return HeadAwayError(f"{_nobody(address)} ({first_line(error)})")
    away = isinstance(error, RuntimeError) and re.search("No available agent|WebSocket|status code 5", said)
    kind = HeadAwayError if away else RushesError
    return kind(f"the cluster at {address}: {first_line(error)}")


def _nobody(address: str) -> str:
    return f"no dashboard answers at {address}: is the cluster up, and the tunnel to it (`ray dashboard FILE`)?"


def _locked(address: str, said: str) -> str:
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return (
            f"the cluster at {address} asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to its file"
        )
    if "403" in said or "invalid" in said.lower():
        return f"the cluster at {address} refuses this token: check RAY_AUTH_TOKEN or the file of RAY_AUTH_TOKEN_PATH"
    return "RAY_AUTH_MODE=token, but there is no token: set RAY_AUTH_TOKEN_PATH to its file, or RAY_AUTH_TOKEN"


def _state(found: Any) -> JobState:
    return JobState(
        job_id=found.submission_id,
        state=str(found.status.value).lower(),
        exit_code=found.driver_exit_code,
        message=found.message or "",
        entrypoint=found.entrypoint,
        started_s=_seconds(found.start_time),
        ended_s=_seconds(found.end_time),
    )


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000
