"""What can be wrong with the database: reach, versions, schema, indexes, room for connections, clock.

It changes nothing. An embedded server that does not exist yet is tried in a temporary folder.
"""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from cluster.db.connect import (
    PGVECTOR_REFUSED_BELOW,
    PGVECTOR_WARNED_BELOW,
    POSTGRES_REFUSED_BELOW,
    describe_url,
    open_connection,
)
from cluster.db.embedded import start_embedded, stop_embedded
from cluster.db.migrate import applied, pending
from cluster.db.spaces import INDEX_FROM_ROWS, list_spaces
from cluster.doctor import Found, failure
from cluster.errors import RushesError
from cluster.plan import RESERVED_CONNECTIONS
from cluster.settings import Settings

QUERY_DEADLINE_MS = 10_000
SKEW_WARNED_ABOVE_S = 2.0
UPGRADE_PGVECTOR = "install pgvector 0.8.4 or later on the server, then `ALTER EXTENSION vector UPDATE`"


class DatabaseVisit:
    """One connection for all the checks, made by the first; `close` leaves everything as it was."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._conn: psycopg.Connection[Any] | None = None
        self._trial: Path | None = None

    def close(self) -> None:
        """Hang up; the trial server goes with its folder."""
        if self._conn is not None:
            self._conn.close()
        if self._trial is not None:
            stop_embedded(self._trial / "postgres")
            shutil.rmtree(self._trial, ignore_errors=True)

    def reach(self) -> Found:
        """Whether it answers, within the time that a connection may take."""
        place = self._settings.data_dir / "postgres"
        try:
            url, text = self._address(place)
            self._conn = open_connection(url)
        except RushesError as error:
            if self._settings.database_url is None:
                return failure(error)
            fix = "start the server, or check RUSHES_DATABASE_URL; unset it to use the embedded server"
            return Found("FAIL", str(error).partition("; ")[0], fix)
        self._conn.execute(f"SET statement_timeout = {QUERY_DEADLINE_MS}".encode())
        return Found("ok", text)

    def version(self) -> Found:
        """Whether the server is new enough."""
        number = self._connection().info.server_version
        text = f"PostgreSQL {number // 10_000}.{number % 10_000}"
        if number < POSTGRES_REFUSED_BELOW:
            return Found("FAIL", f"{text} is too old", "upgrade the server to PostgreSQL 15 or later")
        return Found("ok", text)

    def pgvector(self) -> Found:
        """Whether the extension is there and new enough."""
        row = self._connection().execute(
            "SELECT installed_version, default_version FROM pg_available_extensions WHERE name = 'vector'"
        ).fetchone()  # fmt: skip
        if row is None:
            return Found("FAIL", "the server has no pgvector", "install pgvector 0.8.4 or later on the server")
        text = f"pgvector {row[0]}" if row[0] else f"pgvector {row[1]}, made by `rushes db migrate`"
        version = tuple(int(part) for part in (row[0] or row[1]).split("."))
        if version < PGVECTOR_REFUSED_BELOW:
            return Found("FAIL", f"{text} is too old: iterative scans came with 0.8.0", UPGRADE_PGVECTOR)
        if version < PGVECTOR_WARNED_BELOW:
            return Found("warn", f"{text} has known index faults", UPGRADE_PGVECTOR)
        return Found("ok", text)

    def schema(self) -> Found:
        """Whether every migration is applied."""
        conn = self._connection()
        missing = pending(conn)
        if missing and self._settings.database_url is not None:
            names = ", ".join(f"{migration.version:04}" for migration in missing)
            return Found("FAIL", f"migration {names} not applied", "run `rushes db migrate`")
        if missing:
            return Found("ok", f"{len(missing)} migration(s) to come: the next command applies them by itself")
        return self._refusal() or Found("ok", f"version {max(applied(conn))}, up to date")

    def indexes(self) -> Found:
        """Whether every space that is large enough has its index, whole."""
        conn = self._connection()
        if conn.execute("SELECT to_regclass('spaces')").fetchone() == (None,):
            return Found("ok", "no embedding space yet")
        spaces = list_spaces(conn)
        lacking = [space.table_name for space in spaces if self._lacks_index(space.table_name)]
        if lacking:
            text = f"{', '.join(lacking)} without a whole HNSW index: search reads every vector"
            return Found("warn", text, "run `rushes db index`")
        return Found(
            "ok", f"{len(spaces)} embedding space(s), none lacks an index (needed from {INDEX_FROM_ROWS} rows)"
        )

    def connections(self, wanted: int) -> Found:
        """Whether a run with `wanted` connections finds room on the server."""
        row = self._connection().execute(
            "SELECT current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int,"
            " (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid())"
        ).fetchone()  # fmt: skip
        assert row is not None
        most, reserved, in_use = row
        text = f"the plan needs {wanted}; max_connections {most} - {reserved} reserved - {in_use} in use"
        fix = "raise max_connections of the server, or use fewer CPUs (RUSHES_CPUS)"
        if wanted + RESERVED_CONNECTIONS > most:
            return Found("FAIL", f"{text}; {RESERVED_CONNECTIONS} stay free for others", fix)
        free = most - reserved - in_use
        return Found("ok" if wanted <= free else "warn", f"{text} = {free} free", "" if wanted <= free else fix)

    def clock(self) -> Found:
        """Whether the server's clock and this machine's agree; ages and waits are computed from both."""
        before = datetime.now(UTC)
        row = self._connection().execute("SELECT clock_timestamp()").fetchone()
        after = datetime.now(UTC)
        assert row is not None
        skew_s = (row[0] - (before + (after - before) / 2)).total_seconds()
        if abs(skew_s) - (after - before).total_seconds() > SKEW_WARNED_ABOVE_S:
            way = "ahead of" if skew_s > 0 else "behind"
            return Found("warn", f"the database is {abs(skew_s):.1f} s {way} this machine", "run NTP on both machines")
        return Found("ok", f"database and machine agree to {max(abs(skew_s), 0.1):.1f} s")

    def _refusal(self) -> Found | None:
        """Why a run could not write: the server takes no writes, or not from this login."""
        row = self._connection().execute(
            "SELECT current_setting('transaction_read_only') = 'on', current_user,"
            " has_schema_privilege(current_schema(), 'CREATE') AND bool_and(has_table_privilege(name, 'INSERT')"
            "   AND has_table_privilege(name, 'UPDATE') AND has_table_privilege(name, 'DELETE'))"
            " FROM unnest(ARRAY['assets', 'sources', 'units', 'runs']) name"
        ).fetchone()  # fmt: skip
        assert row is not None
        read_only, user, may_write = row
        if read_only:
            return Found("FAIL", "the database is read-only", "name the primary server in RUSHES_DATABASE_URL")
        if not may_write:
            fix = "name the login that owns the tables in RUSHES_DATABASE_URL"
            return Found("FAIL", f"{user} may not write to the tables, or not make new ones", fix)
        return None

    def _address(self, place: Path) -> tuple[str, str]:
        if self._settings.database_url is not None:
            url = self._settings.database_url.get_secret_value()
            return url, describe_url(url)
        if (place / "PG_VERSION").is_file():
            return start_embedded(place), f"embedded server in {place}"
        if place.is_dir() and any(place.iterdir()):
            raise RushesError(f"{place} holds no whole database: move it away, or set RUSHES_DATA_DIR")
        # A socket path has at most 107 bytes, and the server may run as another user than this one.
        self._trial = Path(tempfile.mkdtemp(prefix="rushes-"))
        self._trial.chmod(0o755)
        return start_embedded(
            self._trial / "postgres"
        ), f"embedded server, made at first use in {place} (tried elsewhere)"

    def _connection(self) -> psycopg.Connection[Any]:
        assert self._conn is not None
        return self._conn

    def _lacks_index(self, table: str) -> bool:
        conn = self._connection()
        valid = conn.execute(
            "SELECT bool_or(indisvalid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " JOIN pg_am a ON a.oid = c.relam WHERE i.indrelid = to_regclass(%s) AND a.amname = 'hnsw'",
            (table,),
        ).fetchone()
        if valid == (True,):
            return False
        bounded = f'SELECT count(*) FROM (SELECT 1 FROM "{table}" LIMIT {INDEX_FROM_ROWS}) t'
        return conn.execute(bounded.encode()).fetchone() == (INDEX_FROM_ROWS,)
