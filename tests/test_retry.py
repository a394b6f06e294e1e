"""Which failures are tried again, how often, and after how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.db import ledger
from cluster.db.results import commit_row
from cluster.errors import FailureClass
from cluster.retry import LONGEST_DELAY_S, MAX_ATTEMPTS, next_try_s
from tests.corpus_rows import LANES, PRINTS, claimed, computed_row, make_spaces, new_asset, new_run

TABLE = {"bad_media": 1, "bug": 1, "crash": 2, "transient": 3, "resource": 3, "timeout": 3}


def failing(asset_id, units, failure, lanes=LANES, attempts=1):
    error = {"failure": failure, "stage": "s", "message": "m", "lanes": list(lanes), "attempts": attempts}
    return {**computed_row(asset_id, units), "error": error}


def states(db, asset_id):
    query = "SELECT lane, state, attempts FROM units WHERE asset_id = %s ORDER BY lane"
    return {lane: (state, attempts) for lane, state, attempts in db.execute(query, (asset_id,))}


def test_every_class_has_its_number_of_attempts():
    assert {str(failure): count for failure, count in MAX_ATTEMPTS.items()} == TABLE
    assert set(MAX_ATTEMPTS) == set(FailureClass)


@given(
    failure=st.sampled_from(FailureClass),
    attempts=st.integers(1, 50),
    base_s=st.floats(0.01, 60),
    jitter=st.floats(0, 0.999),
)
def test_delays_double_up_to_a_bound_and_jitter_takes_off_at_most_half(failure, attempts, base_s, jitter):
    delay = next_try_s(failure, attempts, base_s, jitter)
    if attempts >= MAX_ATTEMPTS[failure]:
        assert delay is None
        return
    longest = min(base_s * 2 ** (attempts - 1), LONGEST_DELAY_S)
    assert delay is not None
    assert longest / 2 < delay <= longest


@pytest.mark.parametrize(("failure", "limit"), TABLE.items())
def test_a_unit_returns_to_pending_until_its_attempts_are_spent(db, failure, limit):
    asset_id, run_id, spaces = new_asset(db, failure), new_run(db), make_spaces(db)
    for attempt in range(1, limit + 1):
        units = claimed(db, run_id, asset_id)
        outcome = commit_row(db, run_id, failing(asset_id, units, failure), spaces, retry_base_s=60.0)
        assert outcome == ("failed" if attempt == limit else "retry")
        state = "failed" if attempt == limit else "pending"
        child = ("skipped", 0) if attempt == limit else ("pending", 0)
        assert states(db, asset_id) == {"speech": (state, attempt), "voices": child, "texts": child}
    history = db.execute("SELECT attempt, failure FROM failures ORDER BY attempt").fetchall()
    assert history == [(number, failure) for number in range(1, limit + 1)]
    assert db.execute("SELECT count(*) FROM segments").fetchone() == (0,)


def test_a_postponed_unit_says_when_it_is_due_and_a_claim_ends_the_wait(db):
    asset_id, run_id = new_asset(db, "later"), new_run(db)
    commit_row(db, run_id, failing(asset_id, claimed(db, run_id, asset_id), "transient"), make_spaces(db), 60.0)
    [row], _ = ledger.pending_rows(db, ledger.Selection([asset_id]), PRINTS, LANES)
    assert row.lanes[0] == "speech"
    assert set(row.lanes) == set(LANES)
    assert 20 < row.due_in_s <= 60
    claimed(db, run_id, asset_id)
    assert db.execute("SELECT count(*) FROM units WHERE not_before IS NOT NULL").fetchone() == (0,)


def test_only_the_failing_lane_waits_and_success_clears_its_attempts(db):
    asset_id, run_id, spaces = new_asset(db, "one-lane"), new_run(db), make_spaces(db)
    row = failing(asset_id, claimed(db, run_id, asset_id), "transient", ["voices"])
    assert commit_row(db, run_id, row, spaces, 0.01) == "retry"
    assert states(db, asset_id) == {"speech": ("done", 0), "voices": ("pending", 1), "texts": ("done", 0)}
    units = claimed(db, run_id, asset_id, ("voices",))
    assert commit_row(db, run_id, computed_row(asset_id, units), spaces) == "done"
    assert states(db, asset_id)["voices"] == ("done", 0)


def test_an_error_that_stands_for_two_attempts_is_charged_twice(db):
    asset_id, run_id, spaces = new_asset(db, "twice"), new_run(db), make_spaces(db)
    row = failing(asset_id, claimed(db, run_id, asset_id), "crash", attempts=2)
    assert commit_row(db, run_id, row, spaces) == "failed"
    assert states(db, asset_id)["speech"] == ("failed", 2)


@pytest.mark.parametrize(("failure", "outcome"), [("bug", "failed"), ("transient", "retry")])
def test_a_failure_whose_answer_was_lost_is_recorded_once(db, failure, outcome):
    asset_id, run_id, spaces = new_asset(db, "lost"), new_run(db), make_spaces(db)
    row = failing(asset_id, claimed(db, run_id, asset_id), failure, ["texts"])
    assert [commit_row(db, run_id, row, spaces, 60.0) for _ in range(2)] == [outcome, outcome]
    assert db.execute("SELECT count(*) FROM failures").fetchone() == (1,)
    assert states(db, asset_id)["texts"][1] == 1


def test_two_lanes_that_fail_for_different_reasons_keep_them(db):
    asset_id, run_id, spaces = new_asset(db, "two"), new_run(db), make_spaces(db)
    row = failing(asset_id, claimed(db, run_id, asset_id), "bug", ["voices"])
    row["error"]["later"] = [
        {"failure": "transient", "stage": "t", "message": "n", "lanes": ["voices", "texts"], "attempts": 1}
    ]
    assert commit_row(db, run_id, row, spaces, 60.0) == "failed"
    assert states(db, asset_id) == {"speech": ("done", 0), "voices": ("failed", 1), "texts": ("pending", 1)}
    rows = db.execute("SELECT lane, failure, stage FROM failures ORDER BY lane").fetchall()
    assert rows == [("texts", "transient", "t"), ("voices", "bug", "s")]


def test_retrying_touches_exactly_what_was_named(db):
    run_id, spaces = new_run(db), make_spaces(db)
    ids = [new_asset(db, name) for name in ("a", "b")]
    for asset_id in ids:
        commit_row(db, run_id, failing(asset_id, claimed(db, run_id, asset_id), "bug", ["voices"]), spaces)
    ledger.retry_units(db, {(ids[0], "voices")}, PRINTS)
    assert states(db, ids[0])["voices"] == ("pending", 0)
    assert states(db, ids[1])["voices"] == ("failed", 1)


def test_a_failure_is_tried_again_while_a_child_of_its_lane_or_the_lane_itself_is_off(db):
    run_id, asset_id = new_run(db), new_asset(db, "a.jpg", media_kind="image", audio_stream=None)
    units = claimed(db, run_id, asset_id, ("frames", "images"), {"frames": "f1", "images": "i1"})
    assert commit_row(db, run_id, failing(asset_id, units, "bug", ["frames"]), {}) == "failed"
    ledger.retry_units(db, {(asset_id, "frames"), (asset_id, "images")}, {"frames": "f1"})
    found = states(db, asset_id)
    assert (found["frames"], found["images"][0]) == (("pending", 0), "skipped")
