"""A death in a stage is charged to the row that caused it, and to nobody else."""

from __future__ import annotations

import threading
from contextlib import closing
from uuid import uuid4

import pytest

from cluster.db import crash_claims, runs
from cluster.db.patience import Session
from cluster.db.results import commit_row
from cluster.errors import HangError, ProcessDiedError
from cluster.stage import run_stage
from cluster.types import rows_table
from jobs.commit import MAX_DEATHS, Commit
from jobs.guard import CrashGuard
from tests.corpus_rows import LANES, claimed, computed_row, make_spaces, new_asset, new_run
from tests.pg_server import line_to
from tests.test_commit_patience import as_table
from tests.test_stage import Double


def rows(ids):
    return rows_table([{"asset_id": i, "uri": f"/{i}", "duration_ms": 1000, "lanes": ["speech"]} for i in ids])


@pytest.fixture
def guard(db, db_url):
    with closing(Session(db_url, 0)) as session:
        yield CrashGuard(session, new_run(db), base_s=60.0, s_per_hour=0.0)


def die(db, guard, asset_id, stage="double", times=1):
    """What a process leaves behind that dies inside the stage."""
    for _ in range(times):
        crash_claims.open_claim(db, guard._run_id, uuid4(), stage, [asset_id], 60.0)


def open_claims(db):
    return db.execute("SELECT asset_id, stage FROM crash_claims ORDER BY 1").fetchall()


def test_a_claim_stands_while_the_stage_runs_and_ends_with_it(db, guard):
    seen = []

    class Watching(Double):
        def process(self, table):
            seen.extend(open_claims(db))
            return super().process(table)

    run_stage(Watching(), rows([7]), guard)
    assert seen == [(7, "double")]
    assert open_claims(db) == []


def test_an_ordinary_exception_closes_the_claim(db, guard):
    out = run_stage(Double(bad=[7]), rows([7]), guard)
    assert out["error"][0].as_py()["failure"] == "bad_media"
    assert open_claims(db) == []


def test_one_death_is_forgiven_two_are_a_crash(db, guard):
    die(db, guard, 7)
    assert run_stage(Double(), rows([7]), guard)["error"][0].as_py() is None
    die(db, guard, 7)
    stage = Double()
    error = run_stage(stage, rows([7]), guard)["error"][0].as_py()
    assert (error["failure"], error["stage"], error["attempts"]) == ("crash", "double", 2)
    assert "died in double" in error["message"]
    assert stage.batches == []


def test_deaths_in_another_stage_or_on_another_asset_are_not_counted(db, guard):
    die(db, guard, 7, stage="other", times=2)
    die(db, guard, 8, times=2)
    assert run_stage(Double(), rows([7]), guard)["error"][0].as_py() is None


def test_deaths_of_another_run_are_not_counted(db, guard):
    other = new_run(db)
    for _ in range(2):
        crash_claims.open_claim(db, other, uuid4(), "double", [7], 60.0)
    assert run_stage(Double(), rows([7]), guard)["error"][0].as_py() is None
    runs.release_units(db, other)
    assert open_claims(db) == []


def test_what_went_down_with_its_node_is_not_charged_until_the_third_node_does(db, guard):
    guard.gone = lambda nodes: [node for node in nodes if node.startswith("lost")]

    def leave(node):
        crash_claims.open_claim(db, guard._run_id, uuid4(), "double", [7], 60.0, node=node)

    def failure():
        error = run_stage(Double(), rows([7]), guard)["error"][0].as_py()
        return error and (error["failure"], error["attempts"])

    leave("lost-1")
    leave("lost-2")
    assert failure() is None
    leave("here")
    assert failure() is None
    leave("lost-3")
    assert failure() == ("crash", 2)


def test_two_deaths_on_living_nodes_are_a_crash_whatever_nodes_were_lost(db, guard):
    guard.gone = lambda nodes: ["lost"]
    for node in ("lost", "here", "there"):
        crash_claims.open_claim(db, guard._run_id, uuid4(), "double", [7], 60.0, node=node)
    assert run_stage(Double(), rows([7]), guard)["error"][0].as_py()["attempts"] == 2


def test_an_overdue_claim_is_a_timeout_at_once(db, guard):
    claim_id = uuid4()
    crash_claims.open_claim(db, guard._run_id, claim_id, "double", [7], 3.0)
    crash_claims.mark_overdue(db, guard._run_id, claim_id)
    with pytest.raises(HangError, match="longer than its deadline of 3 s"), guard.watch("double", rows([7])):
        pass
    die(db, guard, 8, times=2)
    with pytest.raises(ProcessDiedError), guard.watch("double", rows([8])):
        pass


def test_work_that_passes_its_deadline_marks_its_claim_and_ends_the_process(db, guard, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr("jobs.guard.os._exit", lambda code: ended.set())
    hurried = CrashGuard(guard._session, guard._run_id, base_s=0.05, s_per_hour=0.0)

    class Slow(Double):
        def process(self, table):
            assert ended.wait(20)
            assert db.execute("SELECT asset_id, overdue FROM crash_claims").fetchall() == [(7, True)]
            return super().process(table)

    assert run_stage(Slow(), rows([7]), hurried)["error"][0].as_py() is None


def test_in_a_batch_only_the_row_that_kills_is_charged(db, guard):
    """A batch of which every row holds a claim runs row by row the next time."""
    for _ in range(2):
        crash_claims.open_claim(db, guard._run_id, uuid4(), "double", [10], 60.0)
    crash_claims.open_claim(db, guard._run_id, uuid4(), "double", [11, 12, 13], 60.0)
    stage = Double()
    out = run_stage(stage, rows([10, 11, 12, 13]), guard)
    assert stage.batches == [[11], [12], [13]]
    assert [error and error["failure"] for error in out["error"].to_pylist()] == ["crash", None, None, None]


def test_the_commit_settles_the_claims_of_its_row(db, guard):
    asset_id = new_asset(db, "claims")
    die(db, guard, asset_id)
    units = claimed(db, guard._run_id, asset_id)
    assert commit_row(db, guard._run_id, computed_row(asset_id, units), make_spaces(db)) == "done"
    assert open_claims(db) == []


def test_a_commit_leaves_the_claims_of_the_assets_other_row_alone(db, guard):
    """Sound and pictures of a film are at work at once: a death among the pictures is charged all the same."""
    film, run_id = new_asset(db, "film", media_kind="video"), guard._run_id
    looking = rows_table([{"asset_id": film, "uri": "/film", "duration_ms": 1000, "root": "frames"}])
    for stage in ("commit", "commit", "pictures", "pictures"):
        crash_claims.open_claim(db, run_id, uuid4(), stage, [film], 60.0, "frames")
    row = computed_row(film, claimed(db, run_id, film)) | {"lanes": list(LANES), "root": "speech"}
    out = run_stage(Commit(guard._session, run_id, make_spaces(db)), as_table([row]), guard)
    assert out["outcome"].to_pylist() == ["done"]
    assert db.execute("SELECT count(*), min(root) FROM crash_claims").fetchall() == [(4, "frames")]
    with pytest.raises(ProcessDiedError), guard.watch("pictures", looking):
        pass


def test_the_deadline_follows_the_length_of_the_media(db_url, db):
    made = CrashGuard(Session(db_url, 0), new_run(db), base_s=10.0, s_per_hour=3600.0)
    lengths = [{"asset_id": 1, "duration_ms": 1_800_000}, {"asset_id": 2, "duration_ms": None}]
    assert made._deadline_s(rows_table(lengths)) == 10.0 + 1800.0 + 3600.0


@pytest.mark.parametrize(("deaths", "outcome"), [(1, "done"), (2, "failed"), (MAX_DEATHS, None)])
def test_rows_that_kill_their_commit_fail_without_it(db, guard, deaths, outcome):
    asset_id, made = new_asset(db, "commit"), make_spaces(db)
    row = computed_row(asset_id, claimed(db, guard._run_id, asset_id)) | {"lanes": list(LANES)}
    die(db, guard, asset_id, stage="commit", times=deaths)
    out = run_stage(Commit(guard._session, guard._run_id, made), as_table([row]))
    assert out["outcome"].to_pylist() == [outcome]
    assert (out["error"][0].as_py() is not None) == (outcome is None)
    failures = db.execute("SELECT lane, failure, stage FROM failures").fetchall()
    assert failures == ([("speech", "crash", "commit")] if outcome == "failed" else [])
    assert (open_claims(db) == []) == (outcome is not None)


def test_a_database_that_was_away_is_charged_to_nobody(db, db_url):
    asset_id, run_id, made = new_asset(db, "away"), new_run(db), make_spaces(db)
    for _ in range(4):
        row = {**computed_row(asset_id, claimed(db, run_id, asset_id)), "lanes": list(LANES), "duration_ms": 1}
        with line_to(db_url) as line, closing(Session(line.url, 0)) as away:
            line.cut()
            out = run_stage(Double(), as_table([row]), CrashGuard(away, run_id, 60.0, 0.0))
        [error] = out["error"].to_pylist()
        assert (error["failure"], error["attempts"]) == ("transient", 0)
        assert commit_row(db, run_id, {**row, "error": error}, made, 0.01) == "retry"
    assert db.execute("SELECT DISTINCT attempts FROM units").fetchall() == [(0,)]


def test_a_place_whose_processes_keep_dying_while_they_load_is_given_up(db, guard):
    with guard.loading(None):
        assert open_claims(db) == []
    die(db, guard, -5, stage="loading", times=2)
    with guard.loading(-5):
        assert len(open_claims(db)) == 3
    assert open_claims(db) == []
    die(db, guard, -5, stage="loading", times=3)
    with pytest.raises(RuntimeError, match="3 processes died"), guard.loading(-5):
        pass
    with guard.loading(-6):
        pass
