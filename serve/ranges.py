"""Parts of a content over HTTP, after RFC 9110: one range, entity tags, and bytes that are read off the loop."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cluster.media.original import Bytes
from serve.errors import ApiError, ErrorEnvelope

PIECE_BYTES = 1 << 19
# Content under an address that names it never becomes another.
FOREVER = "private, max-age=31536000, immutable"
_RANGE = re.compile(r"bytes=[ \t]*(\d*)-(\d*)[ \t]*", re.IGNORECASE)
# More digits name no byte of any file; Python would spend long on turning them into a number.
_MOST_DIGITS = 18

Read = Callable[[Callable[[], bytes]], Awaitable[bytes]]


class RangeError(ApiError):
    """416: the content has no such bytes."""

    status, kind, code = 416, "invalid_request_error", "range_not_satisfiable"

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"Range: the content has {size_bytes} bytes", param="Range")
        self.size_bytes = size_bytes

    @property
    def headers(self) -> dict[str, str]:
        """How much there is."""
        return {"content-range": f"bytes */{self.size_bytes}", "accept-ranges": "bytes"}


def documented_content(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route that answers with parts of a content of these types."""
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media_types}
    return {
        200: {"description": "The content.", "content": content},
        206: {"description": "The part of it that `Range` names.", "content": content},
        304: {"description": "The client has it already (`If-None-Match`)."},
        416: {"description": "The content has no such bytes.", "model": ErrorEnvelope},
    }


def parse_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """(first byte, number of bytes) that a `Range` asks for; None for the whole.

    Several ranges, other units and what makes no sense count as none, as RFC 9110 lets a server do. Raises
    `RangeError` for a range that begins after the end.
    """
    found = _RANGE.fullmatch(header) if header else None
    if found is None or not any(found.groups()) or max(map(len, found.groups())) > _MOST_DIGITS:
        return None
    first, last = (int(text) if text else None for text in found.groups())
    if first is None:
        length = min(last or 0, size_bytes)
        if not length:
            raise RangeError(size_bytes)
        return size_bytes - length, length
    if last is not None and last < first:
        return None
    if first >= size_bytes:
        raise RangeError(size_bytes)
    return first, (size_bytes if last is None else min(last + 1, size_bytes)) - first


def is_known(request: Request, etag: str) -> bool:
    """Whether the client has this content already (`If-None-Match`)."""
    tags = request.headers.get("if-none-match", "")
    return tags.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in tags.split(","))


def unchanged(etag: str, cache_control: str = FOREVER) -> Response:
    """304: what the client has is right."""
    return Response(None, 304, {"etag": etag, "cache-control": cache_control})


def ranged(
    request: Request, content: Bytes, read: Read, *, etag: str, media_type: str, headers: Mapping[str, str]
) -> Response:
    """The content or the part that is asked for. `read` runs a blocking read in a thread.

    Raises `RangeError`. A range counts for GET alone, and under `If-Range` only when that names this content.
    """
    if is_known(request, etag):
        return unchanged(etag, headers.get("cache-control", FOREVER))
    wanted = request.headers.get("range") if request.method == "GET" else None
    if request.headers.get("if-range", etag).strip() != etag:
        wanted = None
    part = parse_range(wanted, content.size_bytes)
    told = {"etag": etag, "accept-ranges": "bytes", **headers}
    first, length = part or (0, content.size_bytes)
    if part is not None:
        told["content-range"] = f"bytes {first}-{first + length - 1}/{content.size_bytes}"
    status = 200 if part is None else 206
    return _Pieces(content, read, (first, length), status, {**told, "content-length": str(length)}, media_type)


class _Pieces(Response):
    """Reads a piece when the client has taken the one before."""

    def __init__(
        self, content: Bytes, read: Read, part: tuple[int, int], status: int, headers: dict[str, str], media_type: str
    ) -> None:
        super().__init__(None, status, headers, media_type)
        self._content, self._read, self._part = content, read, part

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        at, left = self._part
        if scope["method"] == "HEAD":
            left = 0
        # The first piece comes before the status: what cannot be read is told as an error.
        piece = await self._next(at, left)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        while left > len(piece):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            at, left = at + len(piece), left - len(piece)
            piece = await self._next(at, left)
        await send({"type": "http.response.body", "body": piece, "more_body": False})

    async def _next(self, at: int, left: int) -> bytes:
        size = min(left, PIECE_BYTES)
        return await self._read(lambda: self._content.read(at, size)) if size else b""
