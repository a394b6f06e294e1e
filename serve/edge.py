"""The edge: what happens to every request before and after its route.

A request gets an id, is admitted, is read within its limits, ends with its time-out or with its client, and
every failure leaves in one shape. Plain ASGI: a response streams through untouched.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.settings import ServeSettings
from serve.errors import ApiError, BusyError, DeadlineError, TooLargeError, TooSlowError, envelope
from serve.faults import told
from serve.service import Service

# A client that sends nothing for so long has gone, or holds a place on purpose.
IDLE_S = 20.0
# Work that does not end when it is told to is left behind.
END_S = 5.0
# Of each replica of the audio model: what it hears, what waits for it, and what is on its way here. Every recording
# takes its size of the disk twice.
UPLOADS_PER_REPLICA = 16
_ID = re.compile(r"[\w.-]{1,128}", re.ASCII)
_UPLOADS = ("/v1/audio/",)

logger = logging.getLogger("rushes.serve")


class HungUpError(Exception):
    """The client went away before it had its answer."""


@dataclass(slots=True)
class Exchange:
    """One request and what has become of it."""

    request_id: str
    began_s: float = field(default_factory=time.perf_counter)
    status: int = 0
    cause: str | None = None
    # what models and the corpus took, by name, in seconds
    spent_s: dict[str, float] = field(default_factory=dict)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What every answer carries: the id, where the time went, and that its type is what it says."""
        total_s = time.perf_counter() - self.began_s
        parts = {"total": total_s, **self.spent_s}
        timing = ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in parts.items())
        return [
            (b"x-request-id", self.request_id.encode()),
            (b"server-timing", timing.encode()),
            (b"x-content-type-options", b"nosniff"),
        ]


class Edge:
    """The middleware of the service."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection; what is no HTTP request passes through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(_request_id(scope))
        self.service.meter.began()
        scope.setdefault("state", {})["exchange"] = exchange
        outgoing = _Outgoing(send, exchange)
        try:
            await self._serve(scope, receive, outgoing)
        except HungUpError:
            exchange.cause = "hung_up"
        finally:
            self._count(scope, exchange)

    async def _serve(self, scope: Scope, receive: Receive, outgoing: _Outgoing) -> None:
        limits = self.service.settings.serve
        is_upload = scope["path"].startswith(_UPLOADS)
        incoming = _Incoming(receive, _most_bytes(scope["method"], limits, is_upload))
        try:
            incoming.check_length(scope)
            scope["state"]["key"] = await self.service.access.admit(scope)
            if is_upload:
                with self._upload():
                    await self._within(limits.audio_timeout_s, scope, incoming, outgoing)
            else:
                await self._within(limits.timeout_s, scope, incoming, outgoing)
        except HungUpError:
            raise
        except Exception as error:
            if outgoing.began:
                raise
            await self._refuse(scope, outgoing, told(error))

    @contextmanager
    def _upload(self) -> Iterator[None]:
        """A place for a recording, before anything of it is read; `BusyError` when there is none."""
        most = UPLOADS_PER_REPLICA * self.service.settings.serve.max_replicas
        if self._uploads >= most:
            raise BusyError(f"{self._uploads} recordings are sent or heard, {most} at most", retry_after_s=10)
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    async def _within(self, limit_s: float, scope: Scope, incoming: _Incoming, outgoing: _Outgoing) -> None:
        """The route, until it ends, its time is over or its client goes; the time ends where its answer begins."""
        route = asyncio.ensure_future(self.app(scope, incoming.receive, outgoing.send))
        pump = asyncio.ensure_future(incoming.pump())
        answered = asyncio.ensure_future(outgoing.started.wait())
        try:
            await asyncio.wait({route, pump, answered}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            if not route.done() and not pump.done() and not answered.done():
                raise DeadlineError(f"the request took longer than {limit_s:g} s and was ended")
            await asyncio.wait({route, pump}, return_when=asyncio.FIRST_COMPLETED)
            if not route.done():
                if not outgoing.began:
                    pump.result()
                raise HungUpError
            await route
        finally:
            await _end(route, pump, answered)

    async def _refuse(self, scope: Scope, outgoing: _Outgoing, error: ApiError) -> None:
        outgoing.exchange.cause = error.code
        # What is left of the body is not read: the connection cannot be used again.
        headers = {"connection": "close"} if error.status in (408, 413) else None
        await envelope(error, headers)(scope, _nothing, outgoing.send)

    def _count(self, scope: Scope, exchange: Exchange) -> None:
        seconds = time.perf_counter() - exchange.began_s
        route = getattr(scope.get("route"), "path", None) or "unknown"
        cause = exchange.cause or scope["state"].get("cause")
        self.service.meter.request(route, scope["method"], exchange.status, seconds, cause, exchange.spent_s)
        logger.debug(
            "request_id=%s method=%s route=%s status=%d cause=%s ms=%.1f",
            exchange.request_id, scope["method"], route, exchange.status, cause, seconds * 1000,
        )  # fmt: skip


class _Incoming:
    """The body, bounded in bytes and in idle time."""

    def __init__(self, receive: Receive, most_bytes: int) -> None:
        self._receive, self._most_bytes, self._got_bytes = receive, most_bytes, 0
        self._messages: asyncio.Queue[Message] = asyncio.Queue(4)

    def check_length(self, scope: Scope) -> None:
        """Raise `TooLargeError` before anything is read, when the client says how much it sends."""
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length) > self._most_bytes:
            raise self._too_large(int(length))

    async def receive(self) -> Message:
        return await self._messages.get()

    async def pump(self) -> None:
        """Read on until the client goes. Raises `TooSlowError` and `TooLargeError`, whoever waits for the body."""
        more = True
        while more:
            try:
                # not wait_for: until Python 3.12 it loses a cancellation that comes at the wrong moment
                async with asyncio.timeout(IDLE_S):
                    message = await self._receive()
            except TimeoutError as error:
                raise TooSlowError(f"nothing of the body came for {IDLE_S:g} s") from error
            self._got_bytes += len(message.get("body", b""))
            if self._got_bytes > self._most_bytes:
                raise self._too_large(self._got_bytes)
            more = message["type"] == "http.request" and message.get("more_body", False)
            await self._messages.put(message)
        while message["type"] != "http.disconnect":
            message = await self._receive()

    def _too_large(self, size_bytes: int) -> TooLargeError:
        return TooLargeError(f"the body has {size_bytes} bytes or more, {self._most_bytes} are taken")


class _Outgoing:
    """The answer, with the headers that every one has."""

    def __init__(self, send: Send, exchange: Exchange) -> None:
        self._send, self.exchange = send, exchange
        self.started = asyncio.Event()

    @property
    def began(self) -> bool:
        return self.started.is_set()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.exchange.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self.exchange.headers()]
            self.started.set()
        await self._send(message)


async def _end(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    done, _ = await asyncio.wait(tasks, timeout=END_S)
    for task in done:
        if not task.cancelled():
            task.exception()


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _most_bytes(method: str, limits: ServeSettings, is_upload: bool) -> int:
    # No route reads a body here, and one that nobody reads would hide that its client goes.
    if method in ("GET", "HEAD"):
        return 0
    return limits.max_audio_bytes if is_upload else limits.max_body_bytes


def _request_id(scope: Scope) -> str:
    given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    return given if _ID.fullmatch(given) else uuid.uuid4().hex
