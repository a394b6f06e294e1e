"""`rushes runs`, and the commands of a backfill before anything is sent."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from functools import partial

import pytest

from cluster.db import runs
from cluster.db.connect import open_connection
from cluster.db.watch import Watch
from jobs.cli.progress import LineReporter
from jobs.interrupt import commit_first, interrupt_main, stoppable
from jobs.run_files import run_log
from tests.archive import read_call, run
from tests.media_factory import write_wav
from tests.test_cli import rushes

JOB = "rushes-0123456789ab-1"


def begun(db, kind="ingest", job=None):
    run_id = uuid.uuid4()
    runs.start_run(db, run_id, kind, {"language": "en", "lanes": ["speech"]}, job)
    return str(run_id)


def test_a_run_is_listed_and_shown_with_its_job_and_its_settings(db, db_url):
    run_id = begun(db, job=JOB)
    summary = {"predicted_hours_per_hour": 30.0, "hours_per_hour": 20.0, "ok": 1, "failed": 0}
    runs.finish_run(db, uuid.UUID(run_id), "done", summary)
    listed = rushes("runs", "list", url=db_url).stdout
    assert run_id[:8] in listed
    assert JOB in listed
    found = json.loads(rushes("runs", "list", "--json", url=db_url).stdout)
    assert [(one["job"], one["job_state"]) for one in found["runs"]] == [(JOB, None)]
    for name in (run_id[:8], JOB):
        shown = rushes("runs", "show", name, url=db_url).stdout
        assert "hours per hour: 30.0 predicted, 20.0 measured" in shown
        assert f"job: {JOB}" in shown
        assert "  language = en" in shown
    assert json.loads(rushes("runs", "show", JOB, "--json", url=db_url).stdout)["config"]["language"] == "en"


def test_a_job_without_a_run_is_named_as_a_job(db, db_url):
    shown = rushes("runs", "show", JOB, url=db_url)
    assert shown.returncode == 2
    assert f"job {JOB} has no run in this corpus" in shown.stderr


def test_a_dashboard_of_the_environment_that_is_away_costs_a_note_and_one_that_is_named_an_error(db, db_url):
    run_id = begun(db, job=JOB)
    away = "http://127.0.0.1:1"
    listed = rushes("runs", "list", url=db_url, RAY_API_SERVER_ADDRESS=away)
    assert (listed.returncode, run_id[:8] in listed.stdout) == (0, True)
    assert "without the cluster's jobs: no dashboard answers" in listed.stderr
    assert rushes("runs", "list", "--address", away, url=db_url).returncode == 1
    assert rushes("runs", "list", "--address", "auto", url=db_url).returncode == 2


def test_logs_are_those_of_this_machine_or_the_job_they_are_of_is_named(db, db_url, tmp_path):
    mine, theirs = begun(db), begun(db, job=JOB)
    run_log(tmp_path / "data", mine, "worker.log").write_text("a model said so\n")
    assert "a model said so" in rushes("runs", "logs", mine[:8], url=db_url).stdout
    away = rushes("runs", "logs", theirs, url=db_url)
    assert (away.returncode, f"it is the job {JOB}" in away.stderr) == (1, True)
    assert rushes("runs", "logs", JOB, url=db_url).returncode == 2
    assert rushes("runs", "logs", "ffff", url=db_url).returncode == 2


def test_only_a_run_whose_driver_looks_for_it_can_be_cancelled(db, db_url):
    with open_connection(db_url) as other:
        gone = begun(other)
    ended, running, deaf = begun(db), begun(db), begun(db, "speakers")
    runs.finish_run(db, uuid.UUID(ended), "done", {})
    for run_id, message in ((gone, "driver of run"), (ended, "has ended (done)"), (deaf, "a speakers run")):
        done = rushes("runs", "cancel", run_id, "--yes", url=db_url)
        assert (done.returncode, message in done.stderr) == (1, True), done.stderr
    unasked = rushes("runs", "cancel", running, url=db_url)
    assert (unasked.returncode, "add --yes" in unasked.stderr) == (2, True)
    asked = db.execute("SELECT count(*) FROM runs WHERE cancel_asked_at IS NOT NULL").fetchone()
    assert asked == (0,)
    assert rushes("runs", "cancel", running, "--yes", url=db_url).returncode == 0
    assert runs.is_cancelled(db, uuid.UUID(running))
    assert " ending " in rushes("runs", "list", url=db_url).stdout
    assert "name the cluster" in rushes("runs", "cancel", "rushes-ffffffffffff-1", "--yes", url=db_url).stderr


class Ends(LineReporter):
    """Asks for the end of the run after its first file, and waits for it there."""

    def __init__(self, ask):
        super().__init__(quiet=True, verbose=False)
        self._ask = ask

    def finished(self, row, summary):
        self._ask(summary.run_id)
        time.sleep(60)


def test_a_run_that_is_cancelled_or_terminated_ends_like_an_interrupted_one(db, db_url, tmp_path, monkeypatch):
    monkeypatch.setattr("jobs.ingest.Watch", partial(Watch, every_s=0.05))
    for number in range(3):
        write_wav(tmp_path / f"{number}.wav", read_call()[(6 + 3 * number) * 16_000 :][: 5 * 16_000], 16_000)

    def cancel(run_id):
        assert rushes("runs", "cancel", run_id[:8], "--yes", url=db_url).returncode == 0

    for ask, note in ((cancel, "cancelled: somebody asked"), (lambda _: os.kill(os.getpid(), signal.SIGTERM), "")):
        summary = run(db_url, [str(tmp_path)], reporter=Ends(ask), lanes=("speech",))
        assert (summary.exit_code, summary.ok, summary.state) == (130, 1, "interrupted")
        assert note in "".join(summary.notes)
        state = "SELECT state, finished_at IS NOT NULL FROM runs WHERE run_id = %s"
        assert db.execute(state, (summary.run_id,)).fetchone() == ("interrupted", True)
        assert db.execute("SELECT count(*) FROM units WHERE state = 'running'").fetchone() == (0,)
    assert run(db_url, [str(tmp_path)], lanes=("speech",)).ok == 1


@pytest.mark.parametrize("end", [lambda: os.kill(os.getpid(), signal.SIGTERM), interrupt_main])
def test_sigterm_waits_for_the_commit_and_goes_back_to_whom_it_was_of(end):
    before, reached = signal.getsignal(signal.SIGTERM), []

    def work():
        with stoppable(), commit_first():
            end()
            time.sleep(0.01)
            reached.append("commit")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["commit"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_dry_run_prints_a_line_for_a_shell_and_needs_no_cluster(tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text('inputs = ["/archive"]\nlanes = "speech,texts"\nlimit = 9\nnodes = "cpu:2"\n[prices]\ncpu = 0.1\n')
    done = rushes("backfill", "-f", str(plan), "--limit", "3", "--dry-run", RUSHES_LANGUAGE="de")
    words = shlex.split(done.stdout)
    entry = words[words.index("--") + 1 :]
    assert entry == ["python", "-m", "jobs.cli.main", "ingest", "--limit=3", "--lanes=speech,texts", *entry[-3:]]
    assert entry[-3:] == ["--address=auto", "--", "/archive"]
    env = json.loads(words[words.index("--runtime-env-json") + 1])["env_vars"]
    assert env["RUSHES_LANGUAGE"] == "de"
    assert json.loads(env["RUSHES_PLAN"]) == {"groups": [], "nodes": "cpu:2", "prices": {"cpu": 0.1}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/a"], "no cluster is named"),
        (["/a", "--dry-run", "--force", "--only-missing"], "exclude each other"),
        (["/a", "--dry-run", "--since", "yesterday"], "--since 'yesterday'"),
        (["/a", "--dry-run", "--lanes", "smell"], "unknown lane 'smell'"),
        (["/a", "--dry-run", "-f", "{plan}"], "limit = 'three': write a whole number"),
        (["/a", "--dry-run", "--address", "ray://h:1"], "is not the address of a dashboard"),
        (["postgresql://me:hidden@h/d", "--dry-run"], "holds a password or a key"),
        (["/a", "--dry-run", "--working-dir", "/tmp"], "is no checkout of rushes"),
    ],
)
def test_a_backfill_that_makes_no_sense_is_refused_before_anything_is_sent(words, message, tmp_path):
    (tmp_path / "plan.toml").write_text('limit = "three"\n')
    done = rushes("backfill", *(word.format(plan=tmp_path / "plan.toml") for word in words))
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "hidden" not in done.stderr


def test_inputs_may_come_from_a_list_on_standard_input(tmp_path):
    words = ["-m", "jobs.cli.main", "backfill", "-", "--dry-run", "--working-dir", "none"]
    done = subprocess.run(
        [sys.executable, *words], input="/a.wav\n/b.wav\n", capture_output=True, text=True, check=False
    )
    assert shlex.split(done.stdout)[-3:] == ["--", "/a.wav", "/b.wav"]
