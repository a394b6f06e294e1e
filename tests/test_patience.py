"""A database that is away for a while costs time, not work; one that stays away is one clear error."""

from __future__ import annotations

import logging
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from cluster.db.connect import UnreachableError, open_connection
from cluster.db.patience import DatabaseAwayError, Session, take_lock
from cluster.errors import FailureClass, RushesError, classify
from cluster.settings import load_settings
from tests.pg_server import own_server

WAIT_S = 30.0


@pytest.fixture
def table(db):
    db.execute("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    db.execute("INSERT INTO t (id) VALUES (1), (2)")
    return db


@pytest.fixture
def session(db_url):
    session = Session(db_url, WAIT_S)
    yield session
    session.close()


def pid_of(conn):
    return conn.execute("SELECT pg_backend_pid()").fetchone()[0]


def terminate(db, pid):
    """End a backend and wait until it is gone."""
    assert db.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,)).fetchone() == (True,)


def later(delay_s, work, *args):
    timer = threading.Timer(delay_s, work, args)
    timer.start()
    return timer


def numbers(db):
    return [n for (n,) in db.execute("SELECT n FROM t ORDER BY id")]


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_connection_lost_between_two_works_is_made_again(session, table):
    first = session.run(pid_of)
    assert session.run(pid_of) == first
    terminate(table, first)
    assert session.run(pid_of) != first


def test_a_connection_lost_inside_a_transaction_repeats_it_from_its_beginning(session, table, caplog):
    pids = []

    def work(conn):
        with conn.transaction():
            conn.execute("UPDATE t SET n = n + 1 WHERE id = 1")
            pids.append(pid_of(conn))
            if len(pids) == 1:
                terminate(table, pids[0])
            conn.execute("UPDATE t SET n = n + 1 WHERE id = 2")
        return "done"

    assert session.run(work) == "done"
    assert len(set(pids)) == 2
    assert numbers(table) == [1, 1]
    began, ended = warnings_of(caplog)
    assert "closed the connection" in began
    assert f"waiting up to {WAIT_S:g} s" in began
    assert "is back after" in ended


def test_a_connection_lost_in_the_middle_of_a_copy_repeats_it(session, table):
    pids = []

    def work(conn):
        pids.append(pid_of(conn))
        with conn.transaction(), conn.cursor() as cursor, cursor.copy("COPY t (id) FROM STDIN") as copy:
            for number in range(10, 4010):
                copy.write_row((number,))
                if number == 2000 and len(pids) == 1:
                    terminate(table, pids[0])

    session.run(work)
    assert len(pids) == 2
    assert table.execute("SELECT count(*) FROM t").fetchone() == (4002,)


def test_an_error_about_the_data_passes_at_once_and_the_session_stays_usable(session, table, caplog):
    calls = []

    def work(conn):
        calls.append(1)
        with conn.transaction():
            conn.execute("UPDATE t SET n = 7 WHERE id = 2")
            conn.execute("INSERT INTO t (id) VALUES (1)")

    pid = session.run(pid_of)
    with pytest.raises(psycopg.errors.UniqueViolation):
        session.run(work)
    assert (len(calls), warnings_of(caplog)) == (1, [])
    assert session.run(pid_of) == pid
    assert numbers(table) == [0, 0]


def test_a_failed_transaction_that_was_left_open_is_never_used_again(session, table):
    def work(conn):
        conn.execute("BEGIN")
        conn.execute("UPDATE t SET n = 1 WHERE id = 1")
        raise KeyError("ours")

    pid = session.run(pid_of)
    with pytest.raises(KeyError):
        session.run(work)
    assert session.run(pid_of) != pid
    assert numbers(table) == [0, 0]


def test_a_mistake_of_ours_inside_an_open_transaction_is_no_lost_connection(session, table, caplog):
    def work(conn):
        conn.execute("BEGIN")
        conn.execute("SELECT %s, %s", (1,))

    with pytest.raises(psycopg.ProgrammingError, match="placeholders"):
        session.run(work)
    assert warnings_of(caplog) == []


def test_work_that_forgets_to_commit_is_told_so(session, table):
    with pytest.raises(AssertionError, match="left its transaction open"):
        session.run(lambda conn: conn.execute("BEGIN").execute("UPDATE t SET n = 1") and None)
    session.run(lambda conn: conn.execute("UPDATE t SET n = n + 1 WHERE id = 1") and None)
    assert numbers(table) == [1, 0]


def test_two_sessions_in_a_deadlock_both_get_through(db_url, table):
    meet, attempts = threading.Barrier(2), []

    def work(first, second):
        def once(conn):
            attempts.append(first)
            with conn.transaction():
                conn.execute("UPDATE t SET n = n + 1 WHERE id = %s", (first,))
                if attempts.count(first) == 1:
                    meet.wait(20)
                conn.execute("UPDATE t SET n = n + 1 WHERE id = %s", (second,))
            return pid_of(conn)

        session = Session(db_url, 0)
        pids = session.run(pid_of), session.run(once)
        session.close()
        return pids

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(work, 1, 2), pool.submit(work, 2, 1)]
        for future in futures:
            before, after = future.result(60)
            assert before == after  # the loser keeps its connection
    assert numbers(table) == [2, 2]
    assert len(attempts) == 3


def test_conflicts_without_end_pass_through(session, table, monkeypatch):
    monkeypatch.setattr("cluster.db.patience.CONFLICT_PAUSE_S", 0)
    calls = []

    def work(conn):
        calls.append(1)
        with conn.transaction():
            conn.execute("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$")

    with pytest.raises(psycopg.errors.SerializationFailure):
        session.run(work)
    assert len(calls) == 11


def read_only(db, value):
    name = db.execute("SELECT current_database()").fetchone()[0]
    db.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}".encode())


def test_a_read_only_database_is_waited_for(db_url, table, caplog):
    read_only(table, "on")
    # Sessions keep what they began with, as they keep talking to the old primary.
    table.execute("SET default_transaction_read_only = off")
    session = Session(db_url, WAIT_S)
    timer = later(0.7, read_only, table, "off")
    session.run(lambda conn: conn.execute("UPDATE t SET n = 1 WHERE id = 1") and None)
    timer.join()
    session.close()
    assert numbers(table) == [1, 0]
    assert "takes no writes" in warnings_of(caplog)[0]


def test_a_full_disk_is_waited_for(session, table, caplog):
    table.execute(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$"
    )
    table.execute("CREATE TRIGGER refuse BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION full_disk()")
    timer = later(0.7, table.execute, "DROP TRIGGER refuse ON t")
    session.run(lambda conn: conn.execute("INSERT INTO t (id) VALUES (3)") and None)
    timer.join()
    assert numbers(table) == [0, 0, 0]
    assert "has a full disk" in warnings_of(caplog)[0]


def test_a_disk_that_is_really_full_is_waited_for(caplog):
    with own_server() as server, small_disk(server) as disk:
        with open_connection(server.url) as conn:
            conn.execute(f"CREATE TABLESPACE small LOCATION '{disk}'".encode())
            conn.execute("CREATE TABLE big (filler text) TABLESPACE small")
            conn.execute("ALTER TABLE big ALTER filler SET STORAGE EXTERNAL")
        ballast = disk / "ballast"
        with ballast.open("wb") as file, suppress(OSError):
            while True:
                file.write(bytes(2**16))
        session = Session(server.url, WAIT_S)
        timer = later(0.7, ballast.unlink)
        session.run(lambda conn: conn.execute("INSERT INTO big SELECT repeat('x', 1000000)") and None)
        timer.join()
        assert session.run(lambda conn: conn.execute("SELECT length(filler) FROM big").fetchall()) == [(1_000_000,)]
        for what in ("TABLE big", "TABLESPACE small"):
            session.run(lambda conn, what=what: conn.execute(f"DROP {what}".encode()) and None)
        session.close()
    assert "has a full disk (could not extend file" in warnings_of(caplog)[0]


@contextmanager
def small_disk(server):
    disk = server.top / "small"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no small file system can be mounted here: {made.stderr.strip()}")
    try:
        shutil.chown(disk, server.handle.system_user)
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_database_without_free_connections_is_waited_for(db_url, table, caplog):
    name = table.execute("SELECT current_database()").fetchone()[0]
    table.execute("CREATE ROLE guest LOGIN")
    try:
        table.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 1".encode())
        url = db_url.replace("postgres:@", "guest:@")
        with pytest.raises(UnreachableError, match="too many connections"):
            open_connection(url)
        timer = later(0.7, table.execute, f"ALTER DATABASE {name} CONNECTION LIMIT -1".encode())
        session = Session(url, WAIT_S)
        assert session.run(lambda conn: conn.execute("SELECT 1").fetchone()) == (1,)
        timer.join()
        session.close()
        assert "has too many connections" in warnings_of(caplog)[0]
    finally:
        table.execute("DROP ROLE guest")


def test_what_an_address_gets_wrong_is_said_at_once(db_url, tmp_path):
    with own_server() as server:
        with open_connection(server.url) as conn:
            conn.execute("CREATE ROLE guest LOGIN PASSWORD 'right'")
        hba = server.folder / "pg_hba.conf"
        hba.write_text("local all guest scram-sha-256\n" + hba.read_text())
        with open_connection(server.url) as conn:
            conn.execute("SELECT pg_reload_conf()")
        guest = server.url.replace("postgres:@", "guest:{}@")
        wrong = {
            guest.format("wrong"): "password authentication failed",
            guest.format(""): "no password supplied",
            server.url.replace("/postgres?", "/nowhere?"): '"nowhere" does not exist',
            server.url.replace("postgres:@", "nobody:@"): '"nobody" does not exist',
            "postgresql://h:port/x": "port",
            "not an address": "is not a PostgreSQL address",
        }
        began = time.monotonic()
        for url, message in wrong.items():
            with pytest.raises(RushesError, match=message) as caught:
                Session(url, 300).run(pid_of)
            assert not isinstance(caught.value, UnreachableError | DatabaseAwayError)
            assert "'wrong'" not in str(caught.value)
        assert time.monotonic() - began < 60
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:  # the reload takes effect a moment after it is asked for
            try:
                assert Session(guest.format("right"), 0).run(pid_of)
                break
            except RushesError:
                time.sleep(0.1)


def test_when_the_time_is_spent_the_error_says_what_and_how_long_and_what_next(caplog):
    url = "postgresql://me:secret@127.0.0.1:1/corpus"
    with pytest.raises(DatabaseAwayError) as caught:
        Session(url, 0.5).run(pid_of)
    message = str(caught.value)
    assert "the database corpus at 127.0.0.1 does not answer" in message
    assert "refused" in message
    assert "RUSHES_DATABASE_WAIT_S" in message
    assert "What was committed is safe" in message
    assert "secret" not in message + caplog.text
    assert isinstance(caught.value, RushesError)
    assert classify(caught.value) is FailureClass.TRANSIENT
    assert len(warnings_of(caplog)) == 1


def test_without_patience_the_first_failure_is_the_last(caplog):
    with pytest.raises(DatabaseAwayError, match=r"does not answer .*: mend it, or check RUSHES_DATABASE_URL"):
        Session("postgresql://127.0.0.1:1/corpus", 0).run(pid_of)
    assert warnings_of(caplog) == []


def test_each_work_has_the_whole_wait_again(caplog):
    session = Session("postgresql://127.0.0.1:1/corpus", 0.3)
    for works in (1, 2):
        began = time.monotonic()
        with pytest.raises(DatabaseAwayError):
            session.run(pid_of)
        assert time.monotonic() - began >= 0.3
        assert len(warnings_of(caplog)) == works


def test_every_connection_begins_with_what_the_session_holds(db_url, table):
    def hold(conn):
        take_lock(conn, 42)
        held.append(pid_of(conn))

    held: list[int] = []
    session = Session(db_url, WAIT_S, on_connect=hold)
    session.run(pid_of)
    with pytest.raises(psycopg.errors.LockNotAvailable):
        take_lock(table, 42)
    terminate(table, held[0])
    # Meanwhile someone else has it for a moment: the session waits.
    take_lock(table, 42)
    timer = later(0.5, table.execute, "SELECT pg_advisory_unlock(42)")
    assert session.run(pid_of) == held[1]
    timer.join()
    session.close()
    assert len(held) == 2


def test_what_a_session_refuses_on_connecting_is_final(db_url):
    def refuse(conn):
        pids.append(pid_of(conn))
        raise RushesError("the run was taken over")

    pids: list[int] = []
    session = Session(db_url, WAIT_S, on_connect=refuse)
    for _ in range(2):
        with pytest.raises(RushesError, match="taken over"):
            session.run(pid_of)
    assert len(set(pids)) == 2  # the refused connection did no work


def test_both_ends_notice_a_peer_that_vanished(db_url):
    with open_connection(db_url) as conn:
        given = {o.keyword.decode(): o.val for o in conn.pgconn.info}
        assert (given["tcp_user_timeout"], given["keepalives_idle"]) == (b"30000", b"15")
        applied = conn.execute(
            "SELECT count(*) FROM pg_settings WHERE name LIKE 'tcp%' AND source = 'session'"
        ).fetchone()
        assert applied == (4,)
    with open_connection(db_url + "&keepalives_idle=99") as conn:
        assert {o.keyword: o.val for o in conn.pgconn.info}[b"keepalives_idle"] == b"99"


def test_the_wait_is_a_setting(tmp_path: Path):
    assert load_settings().database_wait_s == 60
    assert load_settings(database_wait_s=0).database_wait_s == 0
    with pytest.raises(RushesError, match="database_wait_s"):
        load_settings(database_wait_s=-1)
