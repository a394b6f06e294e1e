"""A run on Ray may be interrupted or killed: what is committed stays, the next run does the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cluster.db.check import check_corpus
from cluster.db.connect import open_connection
from tests.archive import read_call, run
from tests.media_factory import write_wav

pytestmark = pytest.mark.ray_process
ROOT = Path(__file__).parents[1]
FILES = 6
PATIENCE_S = 180
# Sound alone has no pictures.
HEARD = "FROM units WHERE lane <> 'frames'"


@pytest.fixture
def files(tmp_path):
    call, folder = read_call(), tmp_path / "media"
    folder.mkdir()
    for number in range(FILES):
        start = (6 + 2 * number) * 16_000
        write_wav(folder / f"{number}.wav", call[start : start + 10 * 16_000], 16_000)
    return folder


def start(url, folder, runner="ray"):
    variables = {**os.environ, "RUSHES_DATABASE_URL": url, "RUSHES_RUNNER": runner, "RUSHES_CPUS": "2"}
    words = [sys.executable, "-m", "jobs.cli.main", "ingest", str(folder)]
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_commits(process, url, count):
    deadline = time.monotonic() + PATIENCE_S
    with open_connection(url) as conn:
        while time.monotonic() < deadline and process.poll() is None:
            done = conn.execute("SELECT count(*) FROM units WHERE lane = 'speech' AND state = 'done'").fetchone()[0]
            if done >= count:
                assert conn.execute("SELECT state FROM runs").fetchall() == [("running",)]
                return done
            time.sleep(0.05)
    pytest.fail(f"no {count} commits in {PATIENCE_S} s: {process.communicate(timeout=10)}")


def finish(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)


def assert_the_rest_is_done(url, folder, before):
    summary = run(url, [str(folder)])
    assert summary.exit_code == 0
    assert summary.ok <= FILES - before
    with open_connection(url) as conn:
        assert conn.execute(f"SELECT state, count(*) {HEARD} GROUP BY state").fetchall() == [("done", 3 * FILES)]
        assert not any(check_corpus(conn).values())


def test_an_interrupt_ends_the_run_in_order(db_url, files):
    process = start(db_url, files)
    try:
        done = wait_for_commits(process, db_url, 1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, (out, err)
        assert "Traceback" not in err
        assert " ok · 0 failed · " in out.splitlines()[-1]
    finally:
        finish(process)
    with open_connection(db_url) as conn:
        assert conn.execute("SELECT state FROM runs").fetchall() == [("interrupted",)]
        assert conn.execute("SELECT count(*) FROM units WHERE state = 'running'").fetchone() == (0,)
    assert_the_rest_is_done(db_url, files, done)


@pytest.mark.parametrize("runner", ["inline", "ray"])
def test_a_killed_driver_loses_nothing(runner, db_url, files):
    process = start(db_url, files, runner)
    try:
        done = wait_for_commits(process, db_url, 2)
    finally:
        finish(process)
    assert_the_rest_is_done(db_url, files, done)
    with open_connection(db_url) as conn:
        assert sorted(conn.execute("SELECT state FROM runs").fetchall()) == [("dead",), ("done",)]


@pytest.mark.parametrize("runner", ["worker", "ray"])
def test_an_interrupt_waits_for_the_commit_in_progress(runner, db, db_url, tmp_path):
    """Past the gate and held up by a lock; whoever ends the actor first takes its work along."""
    folder = tmp_path / "one"
    folder.mkdir()
    write_wav(folder / "a.wav", read_call()[3 * 16_000 :][: 5 * 16_000], 16_000)
    process, deadline = start(db_url, folder, runner), time.monotonic() + PATIENCE_S
    try:
        with open_connection(db_url) as blocker, blocker.transaction():
            until(db, process, "SELECT 1 FROM units WHERE state = 'running'", deadline)
            blocker.execute("LOCK TABLE segments IN ACCESS EXCLUSIVE MODE")
            until(db, process, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'", deadline)
            process.send_signal(signal.SIGINT)
            time.sleep(1.5)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, "Traceback" in err) == (130, False), (out, err)
    finally:
        finish(process)
    assert db.execute(f"SELECT DISTINCT state {HEARD}").fetchall() == [("done",)]


def until(db, process, query, deadline):
    while db.execute(query).fetchone() is None:
        assert (process.poll(), time.monotonic() < deadline) == (None, True), query
        time.sleep(0.02)
