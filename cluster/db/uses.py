"""What a working job holds on to: `rushes db gc` leaves alone what any living session has named here.

A name is a fingerprint or the config hash of a space. The locks are shared and go with the session, so
a job that died holds nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import psycopg


def hold(conn: psycopg.Connection[Any], names: Iterable[str]) -> None:
    """Name what this session works with, for as long as `conn` lives; waits for a sweep in progress."""
    for name in sorted(set(names)):
        conn.execute("SELECT pg_advisory_lock_shared(%s)", (_key(name),))


def take_unused(conn: psycopg.Connection[Any], name: str) -> bool:
    """Whether no session holds `name`; then none can until the transaction ends."""
    return conn.execute("SELECT pg_try_advisory_xact_lock(%s)", (_key(name),)).fetchone() == (True,)


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"use {name}".encode()).digest()[:8], "big", signed=True)
