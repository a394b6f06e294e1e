"""Claims and commits over a database that comes and goes: every unit is done exactly once."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from cluster.db import ledger, spaces
from cluster.db.check import check_corpus
from cluster.db.patience import DatabaseAwayError, Session
from cluster.stage import run_stage
from cluster.types import COLUMNS
from jobs.claim import Claim
from jobs.commit import Commit
from tests.corpus_rows import LANES, PRINTS, claimed, computed_row, make_spaces, new_asset, new_run
from tests.pg_server import line_to

WAIT_S = 30.0
NOWHERE = "postgresql://127.0.0.1:1/corpus"


def as_table(rows):
    return pa.table({name: pa.array([row.get(name) for row in rows], COLUMNS[name]) for name in rows[0]})


def states(db):
    return Counter(db.execute("SELECT state FROM units").fetchall())


def row_counts(db):
    names = ("segments", "voices", "chunks", "voice_vectors_1", "text_vectors_2", "failures")
    return [db.execute(f"SELECT count(*) FROM {name}".encode()).fetchone()[0] for name in names]


@pytest.fixture
def one(db):
    made, run_id, asset_id = make_spaces(db), new_run(db), new_asset(db, "a.wav")
    ledger.ensure_units(db, [asset_id], PRINTS, list(PRINTS))
    return made, run_id, asset_id


def test_a_commit_whose_answer_is_lost_counts_as_done_once(db_url, db, one):
    made, run_id, asset_id = one
    row = computed_row(asset_id, claimed(db, run_id, asset_id))
    with line_to(db_url) as line:
        commit = Commit(Session(line.url, WAIT_S), run_id, made)
        line.lose(b"COMMIT\x00")
        assert commit.process(as_table([row]))["outcome"].to_pylist() == ["done"]
        commit.close()
        assert line.lost == 1
    assert states(db) == {("done",): 3}
    assert row_counts(db) == [4, 4, 1, 3, 1, 0]
    assert not any(check_corpus(db).values())


@pytest.mark.parametrize(
    ("failure", "outcome", "state"), [("bad_media", "failed", "failed"), ("transient", "retry", "pending")]
)
def test_a_failure_whose_answer_is_lost_is_charged_once(db_url, db, one, failure, outcome, state):
    made, run_id, asset_id = one
    row = computed_row(asset_id, claimed(db, run_id, asset_id))
    error = {"failure": failure, "stage": "decode", "message": "broken", "lanes": list(LANES), "attempts": 1}
    row |= {"segments": None, "voices": None, "chunks": None, "error": error}
    with line_to(db_url) as line:
        commit = Commit(Session(line.url, WAIT_S), run_id, made)
        line.lose(b"COMMIT\x00")
        assert commit.process(as_table([row]))["outcome"].to_pylist() == [outcome]
        commit.close()
        assert line.lost == 1
    speech = "SELECT state, attempts FROM units WHERE lane = 'speech'"
    assert db.execute(speech).fetchall() == [(state, 1)]
    assert row_counts(db) == [0, 0, 0, 0, 0, 1]


def test_a_commit_that_breaks_off_half_way_is_made_again_whole(db_url, db, one):
    made, run_id, asset_id = one
    row = computed_row(asset_id, claimed(db, run_id, asset_id))
    with line_to(db_url) as line:
        commit = Commit(Session(line.url, WAIT_S), run_id, made)
        line.lose(b"COPY 4\x00")
        assert commit.process(as_table([row]))["outcome"].to_pylist() == ["done"]
        commit.close()
        assert line.lost == 1
    assert row_counts(db) == [4, 4, 1, 3, 1, 0]
    assert not any(check_corpus(db).values())


def test_a_claim_whose_answer_is_lost_is_made_again_under_the_next_generation(db_url, db, one):
    made, run_id, asset_id = one
    asked = pa.table({"asset_id": [asset_id], "uri": ["/a"], "lanes": pa.array([list(LANES)], COLUMNS["lanes"])})
    with line_to(db_url) as line:
        claim = Claim(Session(line.url, WAIT_S), run_id, PRINTS)
        line.lose(b"UPDATE 3\x00")
        [units] = claim.process(asked)["units"].to_pylist()
        claim.close()
        assert line.lost == 1
    assert [(unit["lane"], unit["generation"]) for unit in units] == [(lane, 2) for lane in LANES]
    commit = Commit(Session(db_url, 0), run_id, made)
    rows = as_table([computed_row(asset_id, units)])
    assert commit.process(rows)["outcome"].to_pylist() == ["done"]
    commit.close()


def test_a_database_that_stays_away_fails_the_row_as_transient_and_loses_nothing(db_url, db, one, caplog):
    made, run_id, asset_id = one
    rows = as_table([computed_row(asset_id, claimed(db, run_id, asset_id))])
    with line_to(db_url) as line:
        commit = Commit(Session(line.url, 0.3), run_id, made)
        line.cut()
        with pytest.raises(DatabaseAwayError):
            commit.process(rows)
        assert len([record for record in caplog.records if "waiting up to" in record.getMessage()]) == 1
        full = {**computed_row(asset_id, rows["units"].to_pylist()[0]), "lanes": list(LANES)}
        [error] = run_stage(commit, as_table([full]))["error"].to_pylist()
        assert (error["failure"], error["stage"]) == ("transient", "commit")
        assert "does not answer" in error["message"]
        assert (states(db), row_counts(db)) == ({("running",): 3}, [0] * 6)
        line.open()
        assert commit.process(rows)["outcome"].to_pylist() == ["done"]
        commit.close()
    assert row_counts(db) == [4, 4, 1, 3, 1, 0]


def test_a_wait_between_two_commits_ends_with_the_database_back(db_url, db, one):
    made, run_id, asset_id = one
    rows = as_table([computed_row(asset_id, claimed(db, run_id, asset_id))])
    with line_to(db_url) as line:
        commit = Commit(Session(line.url, WAIT_S), run_id, made)
        commit.process(rows)
        line.cut()
        timer = threading.Timer(0.7, line.open)
        timer.start()
        assert commit.process(rows)["outcome"].to_pylist() == ["done"]
        timer.join()
        commit.close()
    assert row_counts(db) == [4, 4, 1, 3, 1, 0]


def test_an_interrupt_does_not_wait_for_a_database_that_is_away(db, one):
    made, run_id, asset_id = one
    commit = Commit(Session(NOWHERE, 120), run_id, made)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    began = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        commit.process(as_table([computed_row(asset_id, claimed(db, run_id, asset_id))]))
    assert time.monotonic() - began < 60
    timer.join()


def test_the_voice_cache_outlives_its_connection_and_closes(db_url, db, one):
    made, run_id, asset_id = one
    row = computed_row(asset_id, claimed(db, run_id, asset_id))
    commit = Commit(Session(db_url, 0), run_id, made)
    commit.process(as_table([row]))
    commit.close()
    with line_to(db_url) as line:
        cache = spaces.DatabaseVoiceCache(Session(line.url, WAIT_S), made["voice"])
        known = cache.lookup(row["audio_sha256"])
        line.cut()
        line.open()
        again = cache.lookup(row["audio_sha256"])
        assert {span: vector.tolist() for span, vector in again.items()} == {
            span: vector.tolist() for span, vector in known.items()
        }
        assert len(known) == 3
        here = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        assert db.execute(here).fetchone() != (0,)
        cache.close()
        deadline = time.monotonic() + 20
        while db.execute(here).fetchone() != (0,) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert db.execute(here).fetchone() == (0,)
        cache.close()


@pytest.mark.parametrize("broken", [0, 15])
def test_two_actors_over_the_same_assets_do_every_unit_once(db_url, db, broken):
    made, run_id = make_spaces(db), new_run(db)
    ids = [new_asset(db, f"{number}.wav") for number in range(50)]
    ledger.ensure_units(db, ids, PRINTS, list(PRINTS))
    begin, pids_of_actors = threading.Barrier(2), "application_name = 'rushes' AND pid <> pg_backend_pid()"

    def actor(seed):
        claim, commit = Claim(Session(db_url, WAIT_S), run_id, PRINTS), Commit(Session(db_url, WAIT_S), run_id, made)
        mine, outcomes = random.Random(seed).sample(ids, len(ids)), []
        begin.wait(20)
        for asset_id in mine:
            asked = pa.table(
                {"asset_id": [asset_id], "uri": ["/a"], "lanes": pa.array([list(LANES)], COLUMNS["lanes"])}
            )
            [units] = claim.process(asked)["units"].to_pylist()
            [outcome] = commit.process(as_table([computed_row(asset_id, units)]))["outcome"].to_pylist()
            outcomes.append((asset_id, outcome))
        claim.close()
        commit.close()
        return outcomes

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(actor, seed) for seed in (1, 2)]
        ended = 0
        while ended < broken and not all(future.done() for future in futures):
            query = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {pids_of_actors}"
            ended += len(db.execute(f"{query} AND datname = current_database() LIMIT 1".encode()).fetchall())
            time.sleep(0.05)
        outcomes = [pair for future in futures for pair in future.result(120)]
    assert ended >= min(broken, 1)
    assert Counter(asset_id for asset_id, outcome in outcomes if outcome == "done") == dict.fromkeys(ids, 1)
    assert {outcome for _, outcome in outcomes} <= {"done", "fenced", "taken"}
    assert states(db) == {("done",): 150}
    assert row_counts(db) == [200, 200, 50, 150, 50, 0]
    assert not any(check_corpus(db).values())
