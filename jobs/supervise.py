"""A job followed to its end, and submitted again when it ended by something that may pass."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster.errors import RushesError, last_line
from jobs.ray_job_client import HeadAwayError, JobState, TakenError
from jobs.submission import Submission, attempt_of, job_id_of

# A head that restarts is back in minutes; a longer absence needs a person.
AWAY_S = 600.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 300.0
POLL_S = 1.0
# Done, usage, finished with failures, interrupted: the same command would end the same, or somebody wanted its end.
FINAL = frozenset({0, 2, 3, 130})

Say = Callable[[str], None]


class JobClient(Protocol):
    """What `RayJobClient` offers."""

    def submit(self, entrypoint: str, job_id: str, runtime_env: Mapping[str, Any]) -> None:
        """Begin a job."""

    def jobs(self) -> list[JobState]:
        """All jobs."""

    def find(self, job_id: str) -> JobState | None:
        """One job."""

    def logs(self, job_id: str) -> str | None:
        """What it printed."""

    def tail(self, job_id: str, show: Callable[[str], None]) -> None:
        """Show what it prints."""


class UnderWayError(RushesError):
    """The same selection is being worked on."""


@dataclass(frozen=True, slots=True)
class End:
    """How a job ended: its exit code as a shell would give it, and why.

    `told` says that the cause is in the words of the job or of Ray, and would be the same for the same fault; a job
    that was killed or forgotten leaves none.
    """

    code: int
    cause: str = ""
    told: bool = False

    @property
    def may_pass(self) -> bool:
        """Whether the same command may end better."""
        return self.code not in FINAL

    def repeats(self, before: End | None) -> bool:
        """Whether it ended like the one before it, ids, counts and times aside."""
        return before is not None and before.told and self.told and _alike(self.cause) == _alike(before.cause)


@dataclass(slots=True)
class Waits:
    """The times of a supervisor, and how it sleeps."""

    away_s: float = AWAY_S
    first_pause_s: float = FIRST_PAUSE_S
    longest_pause_s: float = LONGEST_PAUSE_S
    poll_s: float = POLL_S
    sleep: Callable[[float], None] = field(default=time.sleep)
    now: Callable[[], float] = field(default=time.monotonic)


def next_job_id(client: JobClient, key: str) -> str:
    """The id of the next attempt at a selection; `UnderWayError` while one waits or runs."""
    mine = [job for job in client.jobs() if attempt_of(job.job_id, key)]
    for job in mine:
        if job.active:
            raise under_way(job.job_id, job.state)
    return job_id_of(key, max((attempt_of(job.job_id, key) for job in mine), default=0) + 1)


def under_way(job_id: str, state: str) -> UnderWayError:
    """That the selection is worked on already."""
    return UnderWayError(f"this selection is {state} as {job_id}: nothing was submitted; {how_to(job_id)}")


def how_to(job_id: str) -> str:
    """How a person follows a job or ends it."""
    return f"follow it with `rushes runs logs {job_id} --follow`, end it with `rushes runs cancel {job_id}`"


def submit(client: JobClient, submission: Submission, job_id: str) -> None:
    """Begin the job; `UnderWayError` when somebody else did so a moment ago."""
    try:
        client.submit(submission.entrypoint, job_id, submission.runtime_env)
    except TakenError as error:
        raise under_way(job_id, "submitted") from error


def supervise(
    client: JobClient, submission: Submission, job_id: str, retries: int, show: Say, say: Say, waits: Waits
) -> int:
    """Follow a submitted job to its end and submit it again, `retries` times at most; the exit code of the last.

    `show` takes what the job prints, `say` what is said about it. It ends early when a job fails twice in a row
    with the same words.
    """
    before, tried = None, 0
    while True:
        end = follow(client, job_id, show, say, waits)
        if not end.may_pass:
            return end.code
        if end.repeats(before):
            say(f"{job_id} failed like the one before it ({end.cause}): mend that, then run the same command again")
            return end.code
        if tried == retries:
            say(f"{job_id} failed ({end.cause}), and was the last of {retries + 1} attempt(s)")
            return end.code
        before, tried = end, tried + 1
        pause_s = min(waits.longest_pause_s, waits.first_pause_s * 2 ** (tried - 1)) * random.uniform(0.5, 1)
        say(f"{job_id} failed ({end.cause}); attempt {tried + 1} of {retries + 1} in {pause_s:.0f} s")
        waits.sleep(pause_s)
        job_id = _again(client, submission, job_id, say, waits)


def _again(client: JobClient, submission: Submission, job_id: str, say: Say, waits: Waits) -> str:
    """Submit the next attempt, when the head answers."""

    def attempt() -> str:
        # Not an id that a head without memory would give out again.
        following = job_id_of(submission.key, attempt_of(job_id, submission.key) + 1)
        found = next_job_id(client, submission.key)
        chosen = max(found, following, key=lambda one: attempt_of(one, submission.key))
        submit(client, submission, chosen)
        return chosen

    chosen = _Patience(job_id, say, waits).until_answered(attempt)
    say(f"submitted as {chosen}")
    return chosen


def follow(client: JobClient, job_id: str, show: Say, say: Say, waits: Waits) -> End:
    """Show what the job prints until it ends, over lost connections; `HeadAwayError` when the head stays away."""
    tail, patience = _Tail(show), _Patience(job_id, say, waits)

    def look() -> JobState | None:
        found = client.find(job_id)
        if found is None or not found.active:
            return found
        tail.again()
        client.tail(job_id, tail.take)
        return client.find(job_id)

    while True:
        found = patience.until_answered(look)
        if found is None:
            return End(1, "lost with its cluster")
        if not found.active:
            # The line may have ended before the last words.
            tail.again()
            tail.take(patience.until_answered(lambda: client.logs(job_id)) or "")
            return _end(found, tail.last_words)
        waits.sleep(waits.poll_s)


def _end(job: JobState, last_words: str) -> End:
    if job.state in ("succeeded", "stopped"):
        return End(0 if job.state == "succeeded" else 130)
    code = job.exit_code
    if code is None:
        return End(1, last_line(job.message), told=True)
    code = 128 - code if code < 0 else code
    if code > 128:
        return End(code, f"its driver was ended by signal {code - 128}")
    return End(code or 1, last_words or last_line(job.message), told=True)


def _alike(cause: str) -> str:
    """A cause without ids, addresses, counts and times."""
    return re.sub(r"[0-9a-f]*\d[0-9a-f]*", "#", cause)


class _Tail:
    """Hands on what is new: a line that is taken up again begins with the first words."""

    def __init__(self, show: Say) -> None:
        self._show, self._shown, self._passed, self._line = show, 0, 0, ""
        self.last_words = ""

    def again(self) -> None:
        """What comes next begins at the beginning."""
        self._passed = 0

    def take(self, text: str) -> None:
        """Show what of the text was not shown yet."""
        known = max(0, self._shown - self._passed)
        self._passed += len(text)
        new = text[known:]
        if not new:
            return
        self._shown = max(self._shown, self._passed)
        self._show(new)
        *whole, self._line = (self._line + new).split("\n")
        for line in [*whole, self._line]:
            if line.startswith("error: ") or (line.strip() and not self.last_words.startswith("error: ")):
                self.last_words = line.strip()


class _Patience:
    """Asks again while the head is away, `away_s` at most."""

    def __init__(self, job_id: str, say: Say, waits: Waits) -> None:
        self._job_id, self._say, self._waits = job_id, say, waits

    def until_answered(self, ask: Callable[[], Any]) -> Any:
        """What `ask` gives once it is not refused by a head that is away."""
        began: float | None = None
        while True:
            try:
                answer = ask()
            except HeadAwayError as error:
                now = self._waits.now()
                if began is None:
                    began = now
                    self._say(f"{error}; waiting up to {self._waits.away_s:.0f} s for it")
                if now - began >= self._waits.away_s:
                    raise HeadAwayError(
                        f"{error} It was away for {now - began:.0f} s. The job may go on: {how_to(self._job_id)}. "
                        "If the head is lost, start it again and run the same command: what is committed is safe"
                    ) from error
                self._waits.sleep(self._waits.poll_s)
            else:
                return answer
