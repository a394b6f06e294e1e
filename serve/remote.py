"""Models behind Ray Serve: few calls, each with the waiting items of all requests, because a call has its price.

A call through a handle takes milliseconds, as much as a short text's vector. So at most a few are under way for a
role, and what comes in meanwhile rides together in the next one; nothing waits for a timer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from serve.engines.base import Answers
from serve.errors import ApiError, BusyError, UnavailableError
from serve.models import Heard, HearRequest, Timing

# One computes, the items of the next are there when it ends.
CALLS_PER_REPLICA = 2
# A small request waits for the call that it rides in: seconds of work at most.
ITEMS_PER_CALL = {"text": 128, "image": 32, "reranker": 64}
RECORDINGS_PER_REPLICA = 8
PROBE_S = 5.0
PROBES_KEPT_S = 1.0

Send = Callable[[list[Any]], Awaitable[Answers]]
Probe = Callable[[], Awaitable[Any]]
logger = logging.getLogger("rushes.serve")


@dataclass(slots=True, eq=False)
class _Request:
    """Items of one caller; `sent` of them are under way or answered."""

    items: Sequence[Any]
    answered: asyncio.Future[Answers]
    sent: int = 0
    parts: dict[int, Answers] = field(default_factory=dict)
    asked_s: float = field(default_factory=time.perf_counter)


# A request, and which of its items: from, to.
_Slice = tuple[_Request, int, int]


class Coalescer:
    """Answers requests by at most `calls` calls of `send` at once, each with at most `items_per_call` items."""

    def __init__(self, send: Send, *, calls: int, items_per_call: int) -> None:
        self._send, self._most_calls, self._most_items = send, calls, items_per_call
        self._waiting: deque[_Request] = deque()
        self._calls: dict[asyncio.Task[None], list[_Slice]] = {}

    async def run(self, items: Sequence[Any]) -> Answers:
        """The answers, in the order of the items. What a call raises goes to every request that has items in it.

        Items of a caller that was cancelled are not sent; a call in which nobody has a part any more is cancelled.
        """
        loop = asyncio.get_running_loop()
        request = _Request(items, loop.create_future())
        self._waiting.append(request)
        # What else this turn of the loop brings rides along.
        loop.call_soon(self._begin_calls)
        try:
            return await request.answered
        finally:
            self._let_go()

    def _begin_calls(self) -> None:
        while len(self._calls) < self._most_calls and (load := self._take()):
            call = asyncio.ensure_future(self._call(load))
            self._calls[call] = load
            call.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Task[None]) -> None:
        del self._calls[call]
        self._begin_calls()

    def _take(self) -> list[_Slice]:
        load: list[_Slice] = []
        room = self._most_items
        while self._waiting and room:
            request = self._waiting[0]
            if request.answered.done() or request.sent == len(request.items):
                self._waiting.popleft()
                continue
            stop = min(request.sent + room, len(request.items))
            load.append((request, request.sent, stop))
            room -= stop - request.sent
            request.sent = stop
        # Of a list that did not fit the rest comes after those who wait behind it.
        self._waiting.rotate(-1)
        return load

    async def _call(self, load: list[_Slice]) -> None:
        items = [item for request, start, stop in load for item in request.items[start:stop]]
        sent_s = time.perf_counter()
        try:
            answers = checked(await self._send(items), len(items))
        except BaseException as error:
            _fail(load, error)
            if not isinstance(error, Exception):
                raise
            return
        offset = 0
        for request, start, stop in load:
            count = stop - start
            if not request.answered.done():
                request.parts[start] = _cut(answers, offset, count, sent_s - request.asked_s)
                if sum(len(part.tokens) for part in request.parts.values()) == len(request.items):
                    request.answered.set_result(_joined(request.parts))
            offset += count

    def _let_go(self) -> None:
        for call, load in self._calls.items():
            if all(request.answered.done() for request, _, _ in load):
                call.cancel()


def _fail(load: Sequence[_Slice], error: BaseException) -> None:
    if not isinstance(error, ApiError):
        if isinstance(error, Exception):
            logger.error("a call of a model failed", exc_info=error)
        error = UnavailableError("the model did not answer this request")
    for request, _, _ in load:
        if not request.answered.done():
            request.answered.set_exception(error)


def checked(answers: Answers, count: int) -> Answers:
    """The answers, when there is one for each of `count` items; `UnavailableError` when there is not."""
    if len(answers.values) == count == len(answers.tokens):
        return answers
    raise UnavailableError(f"the model gave {len(answers.values)} answers for {count} items")


def _cut(answers: Answers, offset: int, count: int, waited_s: float) -> Answers:
    numbers = range(offset, offset + count)
    return Answers(
        answers.values[offset : offset + count],
        answers.tokens[offset : offset + count],
        {number - offset: said for number, said in answers.errors.items() if number in numbers},
        {number - offset: status for number, status in answers.statuses.items() if number in numbers},
        Timing(waited_s + answers.timing.queue_s, answers.timing.model_s),
    )


def _joined(parts: Mapping[int, Answers]) -> Answers:
    """The parts of a request, by the number of their first item, as one."""
    ordered = sorted(parts.items())
    if len(ordered) == 1:
        return ordered[0][1]
    timings = [part.timing for _, part in ordered]
    return Answers(
        np.concatenate([part.values for _, part in ordered]),
        [tokens for _, part in ordered for tokens in part.tokens],
        {start + number: said for start, part in ordered for number, said in part.errors.items()},
        {start + number: status for start, part in ordered for number, status in part.statuses.items()},
        # Its parts wait side by side and are computed one after the other.
        Timing(max(one.queue_s for one in timings), sum(one.model_s for one in timings)),
    )


async def ask(role: str, method: Any, *args: Any, attempts: int = 1) -> Any:
    """What a replica of `role` answers; a caller that is cancelled cancels its work there.

    A replica that dies leaves the call to another one, `attempts` times in all: nothing is written by it.
    Raises the `ApiError` that the replica raised, `BusyError` and `UnavailableError`.
    """
    for _ in range(attempts):
        response = method.remote(*args)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except RayTaskError as error:
            if isinstance(error.cause, ApiError):
                raise error.cause from None
            raise
        except BackPressureError as error:
            raise BusyError(f"the {role} model has more calls waiting than it takes") from error
        except (RayActorError, DeploymentUnavailableError) as error:
            logger.warning("a %s replica went away under a call: %s", role, type(error).__name__)
        except RayError as error:
            raise UnavailableError(f"the {role} model cannot be asked: {type(error).__name__}") from error
    raise UnavailableError(f"the {role} model went away under this request and is being replaced")


def item_caller(role: str, handle: DeploymentHandle, replicas: int) -> Callable[[Sequence[Any]], Awaitable[Answers]]:
    """`run` over the replicas of a role, of which there are `replicas` at most."""

    async def send(items: list[Any]) -> Answers:
        return await ask(role, handle.run, items, attempts=2)

    calls = CALLS_PER_REPLICA * replicas
    return Coalescer(send, calls=calls, items_per_call=ITEMS_PER_CALL[role]).run


@dataclass(frozen=True, slots=True)
class Recording:
    """A media file on its way to a replica: its path on the node `node_id`, or `content`, which goes anywhere."""

    node_id: str
    path: str
    content: bytes | None = None


def hearing_caller(handle: DeploymentHandle, replicas: int) -> Callable[[str, HearRequest], Awaitable[Heard]]:
    """`hear` over the replicas: one on this node reads the file itself, another one is sent its bytes."""
    node_id = ray.get_runtime_context().get_node_id()
    most, begun = RECORDINGS_PER_REPLICA * replicas, 0

    async def hear(path: str, asked: HearRequest) -> Heard:
        nonlocal begun
        if begun >= most:
            raise BusyError(f"{begun} recordings are being heard or wait for it", retry_after_s=10)
        begun += 1
        try:
            heard = await ask("audio", handle.hear, Recording(node_id, path), asked)
            if heard is None:
                content = await asyncio.to_thread(Path(path).read_bytes)
                heard = await ask("audio", handle.hear, Recording("", path, content), asked)
            if isinstance(heard, ApiError):
                raise heard
            return heard
        finally:
            begun -= 1

    return hear


class Watch:
    """Whether each role works; asked at most once in `PROBES_KEPT_S`, however many ask."""

    def __init__(self, probes: Mapping[str, tuple[Sequence[str], Probe]], wait_s: float = PROBE_S) -> None:
        self._probes, self._wait_s = probes, wait_s
        self._found: dict[str, str] = {}
        self._found_s = -PROBES_KEPT_S
        self._one = asyncio.Lock()

    async def troubles(self) -> dict[str, str]:
        """What `Models.troubles` gives; `probes` maps a role to the roles of its cards and to the question."""
        async with self._one:
            if time.monotonic() - self._found_s >= PROBES_KEPT_S:
                said = await asyncio.gather(*(self._ask(probe) for _, probe in self._probes.values()))
                named = zip(self._probes.values(), said, strict=True)
                self._found = {name: trouble for (names, _), trouble in named if trouble for name in names}
                self._found_s = time.monotonic()
        return self._found

    async def _ask(self, probe: Probe) -> str | None:
        try:
            await asyncio.wait_for(probe(), self._wait_s)
        except TimeoutError:
            return f"no replica answered within {self._wait_s:g} s"
        except ApiError as error:
            return error.message
        except Exception as error:  # noqa: BLE001 - whatever it is, the model does not work
            return f"its model does not work: {type(error).__name__}"
        return None
