"""Numbered SQL files, applied once each, in order, under a lock.

A file whose first line is `-- no-transaction` runs outside a transaction (CREATE INDEX
CONCURRENTLY). An applied file that changed since, or a schema newer than this program, is refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from cluster.db.connect import check_versions, register_vectors
from cluster.errors import RushesError

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK_KEY = 0x5275_7368_6573
_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version int PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file: `0001_name.sql`."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file's text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations(folder: Path = MIGRATIONS) -> list[Migration]:
    """Every migration of the program, in order."""
    found = []
    for path in sorted(folder.glob("[0-9]*.sql")):
        number, _, name = path.stem.partition("_")
        found.append(Migration(int(number), name, path.read_text("utf-8")))
    return found


def applied(conn: psycopg.Connection[Any]) -> dict[int, str]:
    """Version -> checksum of what the database has; empty for a fresh one."""
    if conn.execute("SELECT to_regclass('schema_migrations')").fetchone() == (None,):
        return {}
    return dict(conn.execute("SELECT version, checksum FROM schema_migrations").fetchall())


def pending(conn: psycopg.Connection[Any], known: list[Migration] | None = None) -> list[Migration]:
    """What is still to be applied; raises when the database and the program disagree."""
    known = migrations() if known is None else known
    have = applied(conn)
    unknown = sorted(set(have) - {migration.version for migration in known})
    if unknown:
        raise RushesError(f"the database has schema version {unknown[-1]}, this program knows {len(known)}: upgrade it")
    for migration in known:
        if have.get(migration.version, migration.checksum) != migration.checksum:
            raise RushesError(f"migration {migration.version:04} was edited after it was applied: restore the file")
    return [migration for migration in known if migration.version not in have]


def migrate(conn: psycopg.Connection[Any], known: list[Migration] | None = None) -> list[Migration]:
    """Bring the schema up to date; returns what was applied. `conn` must be in autocommit mode."""
    if not pending(conn, known):
        return []
    check_versions(conn)
    conn.execute("SELECT pg_advisory_lock(%s)", (LOCK_KEY,))
    try:
        conn.execute(_TABLE)
        todo = pending(conn, known)
        for migration in todo:
            _apply(conn, migration)
    finally:
        conn.execute("SELECT pg_advisory_unlock(%s)", (LOCK_KEY,))
    register_vectors(conn)
    return todo


def _apply(conn: psycopg.Connection[Any], migration: Migration) -> None:
    record = "INSERT INTO schema_migrations (version, name, checksum) VALUES (%s, %s, %s)"
    values = (migration.version, migration.name, migration.checksum)
    if migration.sql.startswith("-- no-transaction"):
        for statement in filter(str.strip, migration.sql.split(";\n")):
            conn.execute(statement.encode())
        conn.execute(record, values)
        return
    with conn.transaction():
        conn.execute(migration.sql.encode())
        conn.execute(record, values)
