"""Server-sent events: how far a run is, told as it changes, to many who watch at once.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cluster.errors import RushesError
from serve.errors import BusyError

EVERY_S = 1.0
HEARTBEAT_S = 15.0
RETRY_MS = 3_000
MOST_STREAMS = 64
# A driver that lost its connection takes its lock back sooner, or its run is dead.
GONE_AFTER_S = 60.0
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class Look:
    """What is known now as JSON, whether anything follows, and whether somebody is at work on it."""

    data: str
    is_over: bool
    is_driven: bool


class Streams:
    """The streams in progress. Those that watch one thing share each look at it."""

    def __init__(self, most: int = MOST_STREAMS, every_s: float = EVERY_S, heartbeat_s: float = HEARTBEAT_S) -> None:
        self.most, self.every_s, self.heartbeat_s = most, every_s, heartbeat_s
        self.watching: Counter[str] = Counter()
        self._locks: dict[str, asyncio.Lock] = {}
        self._seen: dict[str, tuple[float, Look]] = {}

    def enter(self, key: str) -> None:
        """Take a place; `BusyError` when there is none."""
        if self.watching.total() >= self.most:
            raise BusyError(f"{self.most} streams are open already: read the run itself instead", retry_after_s=10)
        self.watching[key] += 1

    def leave(self, key: str) -> None:
        """Give the place back."""
        self.watching[key] -= 1
        if not self.watching[key]:
            del self.watching[key]
            self._locks.pop(key, None)
            self._seen.pop(key, None)

    async def look(self, key: str, look: Callable[[], Awaitable[Look]]) -> Look:
        """What `look()` says, or said to another watcher within the last round."""
        async with self._locks.setdefault(key, asyncio.Lock()):
            at, found = self._seen.get(key, (0.0, None))
            if found is None or time.monotonic() - at > self.every_s / 2:
                found = await look()
                self._seen[key] = (time.monotonic(), found)
            return found


class EventStream(Response):
    """The answer that goes on until what is watched is over, or its client leaves."""

    media_type = "text/event-stream"

    def __init__(self, streams: Streams, key: str, look: Callable[[], Awaitable[Look]]) -> None:
        super().__init__()
        self.streams, self.key, self.look = streams, key, look

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The place is taken here and given back here, however the stream ends."""
        self.streams.enter(self.key)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            async with aclosing(tell(self.streams, self.key, self.look)) as told:
                async for text in told:
                    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self.streams.leave(self.key)


async def tell(streams: Streams, key: str, look: Callable[[], Awaitable[Look]]) -> AsyncGenerator[str, None]:
    """`progress` on every change, `away` when the corpus cannot be asked, `done` or `lost` at the end.

    `lost`: nobody has been at work on it for a minute, and nothing tells when somebody will be. Events have
    numbers, but none is ever needed again: whoever comes back gets the present state first.
    """
    yield f"retry: {RETRY_MS}\n\n"
    number, told, spoke, driven = 0, "", time.monotonic(), time.monotonic()
    while True:
        kind, found = await _next(streams, key, look)
        now = time.monotonic()
        driven = now if not isinstance(found, Look) or found.is_driven else driven
        if isinstance(found, Look) and not found.is_over and now - driven > GONE_AFTER_S:
            kind = "lost"
        data = found.data if isinstance(found, Look) else found
        if kind + data != told:
            number, told, spoke = number + 1, kind + data, now
            yield f"id: {number}\nevent: {kind}\ndata: {data}\n\n"
        elif now - spoke >= streams.heartbeat_s:
            spoke = now
            yield ": still here\n\n"
        if kind in ("done", "lost"):
            return
        await asyncio.sleep(streams.every_s)


async def _next(streams: Streams, key: str, look: Callable[[], Awaitable[Look]]) -> tuple[str, Look | str]:
    try:
        found = await streams.look(key, look)
    except RushesError:
        return "away", '{"message": "the database is away or busy; it is asked again every second"}'
    return ("done" if found.is_over else "progress"), found
