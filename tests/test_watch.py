"""While the driver waits for Ray, somebody looks after its connection."""

from __future__ import annotations

import time

import psycopg
import pytest

from cluster.db.patience import DatabaseAwayError, Session, take_lock
from cluster.db.watch import Watch
from cluster.errors import RushesError
from tests.pg_server import line_to, own_server

KEY = 7


def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def holder(db):
    row = db.execute(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND granted AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())",
        (KEY,),
    ).fetchone()
    return row and row[0]


def test_a_lock_lost_with_its_connection_is_taken_back_while_nobody_asks(db_url, db):
    session = Session(db_url, 30, on_connect=lambda conn: take_lock(conn, KEY))
    first = session.run(lambda conn: conn.info.backend_pid)
    with Watch(session, 0.05) as watch:
        assert holder(db) == first
        db.execute("SELECT pg_terminate_backend(%s, 10000)", (first,))
        until(lambda: holder(db) not in (None, first))
        watch.check()
    until(lambda: holder(db) is None)


def test_a_run_that_was_taken_over_is_said_to_the_driver(db_url, db):
    def hold(conn):
        take_lock(conn, KEY)
        if conn.execute("SELECT to_regclass('taken_over')").fetchone() != (None,):
            raise RushesError("taken over")

    session = Session(db_url, 30, on_connect=hold)
    first = session.run(lambda conn: conn.info.backend_pid)
    db.execute("CREATE TABLE taken_over ()")
    with Watch(session, 0.05) as watch:
        watch.check()
        db.execute("SELECT pg_terminate_backend(%s, 10000)", (first,))
        until(lambda: not watch._thread.is_alive())
        with pytest.raises(RushesError, match="taken over"):
            watch.check()
    assert holder(db) is None


def test_an_embedded_server_that_was_killed_comes_back_while_the_driver_is_busy():
    with own_server() as server, Watch(Session(server.url, 30), 0.05):
        psycopg.connect(server.url).close()
        killed = server.pid
        server.kill()
        until(lambda: answers(server.url) and server.pid != killed)


def answers(url):
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def test_driver_and_watch_take_turns_on_one_connection(db_url, db):
    session = Session(db_url, 30)

    def work(conn):
        with conn.transaction():
            conn.execute("CREATE TEMP TABLE IF NOT EXISTS mine (n int)")
            time.sleep(0.01)
            return conn.info.backend_pid

    with Watch(session, 0.001) as watch:
        assert len({session.run(work) for _ in range(30)}) == 1
        watch.check()


def test_leaving_does_not_wait_for_a_database_that_is_away(db_url):
    with line_to(db_url) as line:
        session = Session(line.url, 300)
        session.run(lambda conn: conn.execute("SELECT 1").fetchone())
        began = time.monotonic()
        with Watch(session, 0.01) as watch:
            line.cut()
            until(lambda: session._conn is None)
        assert time.monotonic() - began < 60
        with pytest.raises(DatabaseAwayError):
            watch.check()


def test_whatever_ends_the_watch_is_said_to_the_driver(db_url):
    session = Session(db_url, 30, on_connect=lambda conn: conn.execute("SELECT 1 FROM nowhere"))
    with Watch(session, 0.01) as watch:
        until(lambda: not watch._thread.is_alive())
        with pytest.raises(RushesError, match=r"cannot be held.*nowhere"):
            watch.check()
