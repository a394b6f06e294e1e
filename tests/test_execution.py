"""The passes of a run: what comes back without a true answer is counted by the ledger."""

from __future__ import annotations

from contextlib import closing

import pytest

from cluster.db import ledger
from cluster.db.connect import Database
from cluster.db.patience import Session
from cluster.db.register import add_source
from cluster.db.results import commit_row
from cluster.settings import load_settings
from jobs.claim import Claim
from jobs.cli.progress import LineReporter
from jobs.commit import Commit
from jobs.execution import Execution
from jobs.job import IngestOptions, Job
from jobs.summary import Summary
from tests.corpus_rows import LANES, PRINTS, computed_row, make_spaces, new_asset, new_run
from tests.test_commit_patience import as_table


class Passes:
    """One run over one asset; `step(row)` stands for a runner and says what came back."""

    def __init__(self, db, db_url, session, monkeypatch, step):
        self.db, self.made, self.run_id = db, make_spaces(db), new_run(db)
        self.asset_id = new_asset(db, "a.wav")
        ledger.ensure_units(db, [self.asset_id], PRINTS, list(PRINTS))
        settings = load_settings(None, database_url=db_url)
        self.summary, reporter = Summary(), LineReporter(quiet=True, verbose=False)
        database = Database(db_url, embedded=False)
        job = Job(settings, IngestOptions(lanes=LANES), reporter, database, session, self.run_id, PRINTS, self.summary)
        self.execution = Execution(job, self.made, lambda: None, lambda: None)
        self.sent = []

        def stream(rows, work):
            for row in rows:
                self.sent.append(row)
                asset = {"asset_id": row.asset_id, "uri": row.uri, "duration_ms": row.duration_ms, "root": row.root}
                self.execution._count({**asset, "timings": [], "error": {"message": "m"}, "outcome": step(self, row)})

        monkeypatch.setattr(self.execution, "_stream", stream)

    def run(self, found=()):
        rows, _ = ledger.pending_rows(self.db, ledger.Selection([self.asset_id], found=found), PRINTS, LANES)
        self.execution.run(rows)
        return self.summary

    def commit(self, row, failure=None, run_id=None, lanes=LANES):
        units = ledger.claim_units(self.db, run_id or self.run_id, row.asset_id, row.lanes, PRINTS)
        computed = computed_row(row.asset_id, units)
        if failure is not None:
            error = {"failure": failure, "stage": "s", "message": "m", "lanes": list(lanes), "attempts": 1}
            computed["error"] = error
        return commit_row(self.db, run_id or self.run_id, computed, self.made, 0.01)


@pytest.fixture
def passes(db, db_url, monkeypatch):
    with closing(Session(db_url, 0)) as session:
        yield lambda step: Passes(db, db_url, session, monkeypatch, step)


def counts(summary):
    return summary.ok, summary.failed, summary.skipped


@pytest.mark.parametrize(("failure", "counted"), [(None, (1, 0, 0)), ("bug", (0, 1, 0))])
def test_a_row_sent_again_after_its_commit_counts_as_what_it_became(passes, db_url, failure, counted):
    """The process died between its commit and its answer, so that the claim finds nothing any more."""

    def step(run, row):
        run.commit(row, failure)
        with closing(Session(db_url, 0)) as session:
            asked = as_table([{"asset_id": row.asset_id, "uri": row.uri, "lanes": list(row.lanes), "error": None}])
            claimed = Claim(session, run.run_id, PRINTS).process(asked)
            [outcome] = Commit(session, run.run_id, run.made).process(claimed)["outcome"].to_pylist()
            return outcome

    run = passes(step)
    assert counts(run.run()) == counted
    assert run.summary.elsewhere == {}


def test_a_lane_that_failed_unheard_outweighs_the_others(passes):
    def step(run, row):
        run.commit(row, "bug", lanes=["texts"])
        return "done"

    assert counts(passes(step).run()) == (0, 1, 0)


def test_a_commit_that_landed_while_the_database_went_away_is_not_missing(passes):
    def step(run, row):
        run.commit(row)
        return None

    run = passes(step)
    assert counts(run.run()) == (1, 0, 0)
    assert run.summary.lost == {}


def test_a_row_that_another_run_takes_while_it_waits_is_left_to_it(passes, db):
    def step(run, row):
        outcome = run.commit(row, "transient")
        assert run.commit(row, run_id=new_run(db)) == "done"
        return outcome

    run = passes(step)
    assert counts(run.run()) == (0, 0, 1)
    assert list(run.summary.elsewhere) == [run.asset_id]


def test_a_row_that_never_comes_back_is_missing(passes):
    run = passes(lambda run, row: None)
    assert counts(run.run()) == (0, 0, 0)
    assert len(run.sent) == 3
    assert list(run.summary.lost) == [(run.asset_id, "speech")]


def test_a_later_attempt_reads_the_source_that_was_named(passes, db):
    run = passes(lambda run, row: run.commit(row, "transient"))
    add_source(db, "/media/a copy seen later", run.asset_id, 10, 1, None)
    run.run(found=["/media/a.wav"])
    assert [row.uri for row in run.sent] == ["/media/a.wav"] * 3
