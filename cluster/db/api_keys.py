"""Keys of the service: made once, kept only as hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg

from cluster.errors import UsageError

PREFIX = "rushes-"
MOST_NAME_CHARS = 200
Scope = Literal["read", "write"]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key as it is stored; `sha256` is of the whole key, which nobody has but its holder."""

    key_id: int
    name: str
    sha256: bytes
    scope: Scope
    created_at: datetime
    revoked_at: datetime | None

    @property
    def may_write(self) -> bool:
        """Whether its holder may change the corpus."""
        return self.scope == "write"


_SELECT = "SELECT key_id, name, sha256, scope, created_at, revoked_at FROM api_keys"


def create_key(conn: psycopg.Connection[Any], name: str, scope: Scope) -> str:
    """Make a key and return it: nobody can read it again. Raises `UsageError` for a name that is in use."""
    name = name.strip()
    if not 1 <= len(name) <= MOST_NAME_CHARS or not name.isprintable():
        raise UsageError(
            f"{name[:MOST_NAME_CHARS]!r} is no name for a key: give 1 to {MOST_NAME_CHARS} printable characters"
        )
    key = PREFIX + secrets.token_urlsafe(32)
    try:
        conn.execute("INSERT INTO api_keys (name, sha256, scope) VALUES (%s, %s, %s)", (name, digest(key), scope))
    except psycopg.errors.UniqueViolation as error:
        raise UsageError(f"there is a key {name!r} already: revoke it, or choose another name") from error
    return key


def find_key(conn: psycopg.Connection[Any], name: str) -> ApiKey:
    """The key in force of this name, whatever its case. Raises `UsageError` when there is none."""
    in_force = keys_in_force(conn)
    for key in in_force:
        if key.name.lower() == name.strip().lower():
            return key
    names = ", ".join(key.name for key in in_force)
    raise UsageError(f"no key in force has the name {name!r}; in force: {names or 'none'}")


def revoke_key(conn: psycopg.Connection[Any], name: str) -> None:
    """Let a key open nothing any more. Raises `UsageError` when no key in force has the name."""
    key = find_key(conn, name)
    conn.execute("UPDATE api_keys SET revoked_at = now() WHERE key_id = %s AND revoked_at IS NULL", (key.key_id,))


def list_keys(conn: psycopg.Connection[Any]) -> list[ApiKey]:
    """Every key, revoked ones too, oldest first."""
    return [ApiKey(*row) for row in conn.execute(f"{_SELECT} ORDER BY key_id".encode())]


def keys_in_force(conn: psycopg.Connection[Any]) -> list[ApiKey]:
    """The keys that open something, oldest first."""
    return [key for key in list_keys(conn) if key.revoked_at is None]


def digest(key: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def match_key(keys: Iterable[ApiKey], presented: str) -> ApiKey | None:
    """The key that was presented; every key is compared, each in constant time."""
    given, found = digest(presented), None
    for key in keys:
        if hmac.compare_digest(key.sha256, given):
            found = key
    return found
