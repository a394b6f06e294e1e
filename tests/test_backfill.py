"""A backfill on a head with token authentication: submitted, followed, refused twice, cancelled, resumed."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cluster.db.connect import open_connection
from tests.archive import read_call
from tests.conftest import clone_database
from tests.media_factory import write_wav

pytestmark = pytest.mark.ray_process
ROOT = Path(__file__).parents[1]
PATIENCE_S = 120


@pytest.fixture(scope="module")
def corpus_of_head(server_url):
    yield from clone_database(server_url, "template_corpus")


@pytest.fixture(scope="module")
def head(corpus_of_head):
    """The address of a head of its own, and the environment of those who hold its token."""
    # Socket paths have at most 107 bytes; the home keeps Ray's token file away from the person's own.
    folder = Path(tempfile.mkdtemp(prefix="r-"))
    token = folder / "token"
    token.write_text(secrets.token_hex(16))
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RUSHES_", "RAY_"))},
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RUSHES_DATABASE_URL": corpus_of_head,
        "RUSHES_DATA_DIR": str(folder / "data"),
    }
    port = free_port()
    process = subprocess.Popen(
        [
            *("ray", "start", "--head", "--block", "--num-cpus=2", "--object-store-memory=100000000"),
            *(f"--port={free_port()}", f"--dashboard-port={port}", f"--ray-client-server-port={free_port()}"),
            *("--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"),
            *("--dashboard-host=127.0.0.1", f"--temp-dir={folder / 't'}"),
        ],
        env=env, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        client = env | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}"}
        deadline = time.monotonic() + PATIENCE_S
        while rushes(client, "runs", "list").stderr:
            assert (process.poll(), time.monotonic() < deadline) == (None, True)
            time.sleep(0.5)
        yield client
    finally:
        kill_all(process.pid)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def kill_all(pid):
    """The process and what it started; Ray's own end waits for half a minute."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        for one in [*top.children(recursive=True), top]:
            with suppress(psutil.NoSuchProcess):
                one.kill()


def rushes(env, *words):
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli.main", *words], env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@contextmanager
def backfill(env, *words):
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli.main", "backfill", *words],
        env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_no_token_and_a_wrong_token_are_one_line_each(head):
    wrong = {**head, "RAY_AUTH_TOKEN": "0" * 32}
    wrong.pop("RAY_AUTH_TOKEN_PATH")
    for env, message in (
        (wrong, "refuses this token"),
        ({**head, "RAY_AUTH_TOKEN_PATH": "/none"}, "there is no token"),
        ({**head, "RAY_AUTH_MODE": "disabled"}, "asks for a token"),
    ):
        done = rushes(env, "backfill", "/x", "--lanes", "speech")
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1
        assert message in done.stderr


def test_the_exit_code_is_that_of_the_driver(head, tmp_path):
    (tmp_path / "broken.wav").write_text("this is no sound")
    done = rushes(head, "backfill", str(tmp_path), "--lanes", "speech")
    assert done.returncode == 3
    assert "bad_media" in done.stdout
    gone = rushes(head, "backfill", "/no/such/place", "--lanes", "speech", "--working-dir", "none")
    assert (gone.returncode, gone.stdout.splitlines()[-1]) == (2, "error: '/no/such/place' does not exist")
    assert "attempt" not in gone.stderr


BEGUN = (
    "SELECT run_id::text, job FROM runs WHERE state = 'running' AND EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)"
)
ENDING = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


def test_a_backfill_is_submitted_once_cancelled_after_its_commits_and_resumed(head, tmp_path):
    for number in range(6):
        write_wav(tmp_path / f"{number}.wav", read_call()[(6 + 3 * number) * 16_000 :][: 4 * 16_000], 16_000)
    words, url = (str(tmp_path), "--lanes", "speech"), head["RUSHES_DATABASE_URL"]
    with open_connection(url) as db, open_connection(url) as blocker, backfill(head, *words) as process:
        with blocker.transaction():
            # The first commits wait here, until the driver has seen that its end was asked for.
            blocker.execute("LOCK TABLE segments IN ACCESS EXCLUSIVE MODE")
            run_id, job = until(lambda: db.execute(BEGUN).fetchone(), process)
            again = rushes(head, "backfill", *words)
            assert (again.returncode, f"this selection is running as {job}" in again.stderr) == (1, True)
            assert f"{job}  running" in rushes(head, "runs", "list").stdout
            assert rushes(head, "runs", "cancel", job, "--yes").returncode == 0
            until(lambda: db.execute(ENDING).fetchone(), process)
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130, (out, err)
        assert out.startswith("RAY_API_SERVER_ADDRESS=http://127.0.0.1:")
        assert f"submitted as {job}" in err
        assert "cancelled: somebody asked" in out
        assert db.execute("SELECT state FROM runs WHERE run_id = %s", (run_id,)).fetchone() == ("interrupted",)
        states = db.execute(
            "SELECT state, count(*) FROM units WHERE lane = 'speech' AND outputs IS NOT NULL GROUP BY 1"
        )
        ((state, done),) = states.fetchall()
        assert (state, 0 < done < 6) == ("done", True)
        rest = rushes(head, "backfill", *words)
        assert rest.returncode == 0, rest
        assert f" {6 - done} ok " in rest.stdout.splitlines()[-1]
        assert f"submitted as {job[:-1]}2" in rest.stderr
        assert f"job: {job[:-1]}2, succeeded" in rushes(head, "runs", "show", f"{job[:-1]}2").stdout
        assert rest.stdout.endswith(rushes(head, "runs", "logs", f"{job[:-1]}2").stdout)


def until(look, process):
    deadline = time.monotonic() + PATIENCE_S
    while (found := look()) is None:
        assert (process.poll(), time.monotonic() < deadline) == (None, True), process.communicate(timeout=10)
        time.sleep(0.05)
    return found
