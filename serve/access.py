"""Who may do what: keys for everything that writes, and for all but health on any address but loopback."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from starlette.types import Scope

from cluster.db.api_keys import ApiKey, keys_in_force, match_key
from cluster.db.connect import RefusedError
from cluster.db.patience import DatabaseAwayError
from cluster.db.pool import Corpus, PoolBusyError
from serve.errors import ForbiddenError, NoKeyError, UnavailableError

# A revoked key opens nothing after so long.
REFRESH_S = 5.0
# Every request waits while keys are read: a pool that is full, or a server that hangs, must not stop them all.
READ_S = 2.0
OPEN_PATHS = frozenset({"/health/live", "/health/ready"})
_WRONG_KEY = "this API key is unknown or revoked"
_NO_KEY = "give an API key: `Authorization: Bearer KEY` (`rushes keys create`)"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a service that is bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Keys:
    """The keys in force, read from the corpus every few seconds; a database that is away or busy leaves those known."""

    def __init__(self, corpus: Corpus, refresh_s: float = REFRESH_S) -> None:
        self._corpus, self._refresh_s = corpus, refresh_s
        self._known: list[ApiKey] | None = None
        self._read_s = 0.0
        self._one = asyncio.Lock()

    async def find(self, presented: str) -> ApiKey | None:
        """The key in force that was presented; `UnavailableError` when none could be read yet."""
        async with self._one:
            if self._known is None or time.monotonic() - self._read_s > self._refresh_s:
                await self._read()
        return match_key(self._known or (), presented)

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(READ_S):
                self._known = await self._corpus.run(keys_in_force)
        except (DatabaseAwayError, RefusedError, PoolBusyError, TimeoutError) as error:
            if self._known is None:
                raise UnavailableError("keys cannot be checked: the database is away or busy") from error
        self._read_s = time.monotonic()


@dataclass(frozen=True, slots=True)
class Access:
    """The rule for one service; `open_reads` where only this machine reaches it."""

    keys: Keys
    open_reads: bool

    async def admit(self, scope: Scope) -> ApiKey | None:
        """The key of a request, None for one that may come without.

        Raises `NoKeyError` for a key that is missing or opens nothing, `ForbiddenError` for a name that is not
        this machine's: a page from elsewhere that a browser here was talked into reading.
        """
        if scope["path"] in OPEN_PATHS:
            return None
        headers = dict(scope["headers"])
        presented = _presented(headers)
        key = await self.keys.find(presented) if presented is not None else None
        if key is not None:
            return key
        if not self.open_reads:
            raise NoKeyError(_NO_KEY if presented is None else _WRONG_KEY)
        # A client that must send some key, as OpenAI's does, reads here with any.
        if not is_loopback(_host_name(headers.get(b"host", b"").decode("latin-1"))):
            raise ForbiddenError("without a key this service answers to the names of this machine only")
        return None


def _presented(headers: dict[bytes, bytes]) -> str | None:
    scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get(b"x-api-key", b"").decode("latin-1") or None


def _host_name(host: str) -> str:
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return name.removeprefix("[").removesuffix("]").lower()


# For the document, whose page then sends a key: the edge has looked at it already.
BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="key",
    description="`rushes keys create NAME --scope write`; where only this machine gets in, reading takes none.",
)


def writer(request: Request, _: Annotated[object, Depends(BEARER)]) -> ApiKey:
    """The key of a request that writes; its name goes into the history. `NoKeyError`, `ForbiddenError` without."""
    key: ApiKey | None = request.scope.get("state", {}).get("key")
    if key is None:
        if _presented(dict(request.scope["headers"])) is not None:
            raise NoKeyError(_WRONG_KEY)
        raise NoKeyError(
            "writing takes an API key: `Authorization: Bearer KEY` (`rushes keys create NAME --scope write`)"
        )
    if not key.may_write:
        raise ForbiddenError(f"the key {key.name!r} may only read: writing takes one with the scope write")
    return key


Writer = Annotated[ApiKey, Depends(writer)]
