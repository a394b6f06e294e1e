"""Migrations apply once, in order, and refuse what would go wrong silently."""

from __future__ import annotations

import psycopg
import pytest

from cluster.db import migrate as m
from cluster.db.connect import open_connection
from cluster.errors import RushesError
from tests.conftest import database_url


@pytest.fixture
def empty(server_url):
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute("CREATE DATABASE empty_one")
    with open_connection(database_url(server_url, "empty_one")) as conn:
        yield conn
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute("DROP DATABASE empty_one WITH (FORCE)")


def test_a_fresh_database_is_migrated_once(empty):
    assert [migration.version for migration in m.migrate(empty)] == [x.version for x in m.migrations()]
    assert m.migrate(empty) == []
    assert m.pending(empty) == []


def test_an_edited_migration_is_refused(db):
    first = m.migrations()[0]
    edited = [m.Migration(first.version, first.name, first.sql + "\n-- changed"), *m.migrations()[1:]]
    with pytest.raises(RushesError, match="edited after it was applied"):
        m.pending(db, edited)


def test_a_newer_schema_is_refused(db):
    db.execute("INSERT INTO schema_migrations (version, name, checksum) VALUES (9999, 'later', 'x')")
    with pytest.raises(RushesError, match="9999"):
        m.pending(db)


def test_a_failing_migration_leaves_nothing(db):
    broken = [*m.migrations(), m.Migration(9000, "broken", "CREATE TABLE half (x int); SELECT 1 / 0;")]
    with pytest.raises(psycopg.errors.DivisionByZero):
        m.migrate(db, broken)
    assert db.execute("SELECT to_regclass('half')").fetchone() == (None,)
    assert [migration.version for migration in m.pending(db, broken)] == [9000]


def test_a_no_transaction_migration_may_build_an_index_concurrently(db):
    extra = m.Migration(9001, "index", "-- no-transaction\nCREATE INDEX CONCURRENTLY later ON units (state);\n")
    assert m.migrate(db, [*m.migrations(), extra]) == [extra]
    assert db.execute("SELECT to_regclass('later')").fetchone() != (None,)
