"""The embedded server may be stopped or killed under a command, and may have been killed before it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from cluster.db import embedded
from cluster.db.connect import find_database
from cluster.db.patience import DatabaseAwayError, Session
from cluster.errors import RushesError
from cluster.settings import load_settings
from tests.pg_server import own_server
from tests.test_patience import WAIT_S, later, pid_of, warnings_of


def test_a_server_that_is_stopped_and_started_is_waited_for(caplog):
    with own_server() as server:
        session = Session(server.url, WAIT_S)
        first = session.run(pid_of)
        server.disown()
        server.stop()
        timer = later(1.0, server.start)
        assert session.run(pid_of) != first
        timer.join()
        session.close()
        assert len(warnings_of(caplog)) == 2


def test_a_killed_server_is_started_again_by_the_process_that_uses_it():
    with own_server() as server:
        session, idle = Session(server.url, WAIT_S), Session(server.url, WAIT_S)
        idle.run(pid_of)
        session.run(lambda conn: conn.execute("CREATE TABLE kept AS SELECT 1 AS n") and None)
        killed = server.pid

        def work(conn):
            pids.append(pid_of(conn))
            with conn.transaction():
                conn.execute("INSERT INTO kept VALUES (2)")
                if len(pids) == 1:
                    server.kill()
                    conn.execute("SELECT pg_sleep(20)")

        pids: list[int] = []
        session.run(work)
        assert server.pid != killed
        assert len(pids) == 2
        assert idle.run(lambda conn: conn.execute("SELECT array_agg(n) FROM kept").fetchone()) == ([1, 2],)
        session.close()
        idle.close()


def test_a_server_of_another_process_is_waited_for_not_started():
    with own_server() as server:
        server.disown()
        server.kill()
        with pytest.raises(DatabaseAwayError):
            Session(server.url, 0.5).run(pid_of)
        server.start()
        assert Session(server.url, 0).run(pid_of)


def test_a_pid_file_whose_number_went_to_another_process_stops_nobody(tmp_path):
    with own_server() as server:
        server.stop()
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        try:
            lines = [str(other.pid), str(server.folder), "1", "5432", str(server.folder), "", "0 0", "ready"]
            (server.folder / "postmaster.pid").write_text("\n".join(lines) + "\n")
            server.start()
            assert server.pid != other.pid
            assert Session(server.url, 0).run(pid_of)
        finally:
            other.kill()
            other.wait()


def test_a_running_server_keeps_its_pid_file():
    with own_server() as server:
        before = server.pid
        embedded._drop_stale_pid_file(server.folder)
        server.start()
        assert server.pid == before


def test_a_command_that_was_killed_leaves_no_server_running_behind_the_next(tmp_path):
    with own_server() as server:
        users = server.folder / ".handle_pids.json"
        gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
        users.write_text(json.dumps([*json.loads(users.read_text()), int(gone.stdout)]))
        server.start()
        server.handle.cleanup()
        assert not (server.folder / "postmaster.pid").exists()


def test_an_embedded_server_that_cannot_start_says_where_to_look(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "postgres").write_text("a file")
    with pytest.raises(RushesError, match="does not start"):
        find_database(load_settings(data_dir=tmp_path / "data"))
