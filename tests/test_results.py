"""One transaction per row: all of it, once, or nothing."""

from __future__ import annotations

import psycopg
import pytest

from cluster.db import ledger, report, runs, spaces
from cluster.db.check import check_corpus
from cluster.db.connect import open_connection
from cluster.db.patience import Session
from cluster.db.results import commit_row
from cluster.errors import RushesError
from tests.corpus_rows import LANES, PRINTS, claimed, computed_row, make_spaces, new_asset, new_run


def counts(conn):
    tables = (
        "segments",
        "local_speakers",
        "voices",
        "chunks",
        "voice_vectors_1",
        "text_vectors_2",
        "voice_cache_1",
    )
    return {name: conn.execute(f"SELECT count(*) FROM {name}".encode()).fetchone()[0] for name in tables}


@pytest.mark.parametrize("version", ["db_url", "db_url_16"])
def test_a_row_is_committed_whole(version, request):
    with open_connection(request.getfixturevalue(version)) as conn:
        made, run_id, asset_id = make_spaces(conn), new_run(conn), new_asset(conn, "a.wav")
        row = computed_row(asset_id, claimed(conn, run_id, asset_id))
        assert commit_row(conn, run_id, row, made) == "done"
        assert counts(conn) == {
            "segments": 4, "local_speakers": 2, "voices": 4, "chunks": 1,
            "voice_vectors_1": 3, "text_vectors_2": 1, "voice_cache_1": 3,
        }  # fmt: skip
        assert not any(check_corpus(conn).values())
        assert ledger.count_states(conn, [asset_id], PRINTS, LANES) == {"done": 1}


def test_a_second_commit_of_the_same_generation_counts_as_done_and_writes_nothing(db):
    made, run_id, asset_id = make_spaces(db), new_run(db), new_asset(db, "a.wav")
    row = computed_row(asset_id, claimed(db, run_id, asset_id))
    commit_row(db, run_id, row, made)
    before = db.execute("SELECT min(segment_id) FROM segments").fetchone()
    assert commit_row(db, run_id, row, made) == "done"
    assert db.execute("SELECT min(segment_id) FROM segments").fetchone() == before


def test_an_older_generation_writes_nothing(db):
    made, run_id, asset_id = make_spaces(db), new_run(db), new_asset(db, "a.wav")
    late = computed_row(asset_id, claimed(db, run_id, asset_id), text="late")
    runs.release_units(db, run_id)
    fresh = computed_row(asset_id, claimed(db, run_id, asset_id), text="fresh")
    assert commit_row(db, run_id, late, made) == "fenced"
    assert counts(db)["segments"] == 0
    assert commit_row(db, run_id, fresh, made) == "done"
    assert commit_row(db, run_id, late, made) == "fenced"
    assert db.execute("SELECT text FROM segments WHERE idx = 0").fetchone() == ("fresh 0",)


def test_a_failure_in_the_middle_of_the_commit_leaves_nothing(db):
    made, run_id, asset_id = make_spaces(db), new_run(db), new_asset(db, "a.wav")
    row = computed_row(asset_id, claimed(db, run_id, asset_id))
    row["chunks"][0]["vector"] = [1.0] * 9
    with pytest.raises(psycopg.errors.DataException):
        commit_row(db, run_id, row, made)
    assert set(counts(db).values()) == {0}
    assert ledger.count_states(db, [asset_id], PRINTS, LANES) == {"running": 1}


def test_a_voice_for_the_wrong_segment_is_refused(db):
    made, run_id, asset_id = make_spaces(db), new_run(db), new_asset(db, "a.wav")
    row = computed_row(asset_id, claimed(db, run_id, asset_id))
    row["voices"].pop()
    with pytest.raises(AssertionError, match="4 segments but 3 voices"):
        commit_row(db, run_id, row, made)
    assert counts(db)["segments"] == 0


def test_zero_segments_is_a_real_commit(db):
    made, run_id, asset_id = make_spaces(db), new_run(db), new_asset(db, "silent.wav")
    row = computed_row(asset_id, claimed(db, run_id, asset_id), segments=0)
    assert commit_row(db, run_id, row, made) == "done"
    assert ledger.count_states(db, [asset_id], PRINTS, LANES) == {"done": 1}
    rows, waiting = ledger.pending_rows(db, ledger.Selection([asset_id]), PRINTS, LANES)
    assert (rows, waiting) == ([], 0)


def test_a_failed_child_lane_does_not_hold_back_the_others(db):
    made, run_id, asset_id = make_spaces(db), new_run(db), new_asset(db, "a.wav")
    row = computed_row(asset_id, claimed(db, run_id, asset_id))
    row["voices"] = None
    row["error"] = {"failure": "bug", "stage": "voices", "message": "no luck", "lanes": ["voices"], "attempts": 1}
    assert commit_row(db, run_id, row, made) == "failed"
    assert counts(db)["segments"] == 4
    assert counts(db)["text_vectors_2"] == 1
    failures = report.open_failures(db, report.FailureFilter())
    assert [(f["lane"], f["failure"], f["message"]) for f in failures] == [("voices", "bug", "no luck")]


def test_a_failed_parent_skips_its_children_and_a_retry_brings_them_back(db):
    made, run_id, asset_id = make_spaces(db), new_run(db), new_asset(db, "a.wav")
    row = computed_row(asset_id, claimed(db, run_id, asset_id))
    row |= {"segments": None, "voices": None, "chunks": None}
    row["error"] = {"failure": "bad_media", "stage": "decode", "message": "broken", "lanes": list(LANES), "attempts": 1}
    assert commit_row(db, run_id, row, made) == "failed"
    assert len(report.open_failures(db, report.FailureFilter())) == 1
    assert ledger.pending_rows(db, ledger.Selection([asset_id]), PRINTS, LANES) == ([], 0)
    ledger.reset_units(db, [asset_id], PRINTS, LANES, ["failed"])
    [pending], _ = ledger.pending_rows(db, ledger.Selection([asset_id]), PRINTS, LANES)
    assert pending.lanes == LANES


def test_a_closed_gate_stops_commits(db_url, db):
    made, run_id, asset_id = make_spaces(db), new_run(db), new_asset(db, "a.wav")
    row = computed_row(asset_id, claimed(db, run_id, asset_id))
    with open_connection(db_url) as other:
        runs.close_gate(db, run_id)
        assert commit_row(other, run_id, row, made) == "stopped"
    assert counts(db)["segments"] == 0


def test_units_of_a_dead_run_return_uncharged_and_a_living_one_keeps_its_own(db_url, db):
    asset_id, other_id = new_asset(db, "a.wav"), new_asset(db, "b.wav")
    with open_connection(db_url) as dying:
        claimed(db, new_run(dying), asset_id)
    claimed(db, new_run(db), other_id)
    with open_connection(db_url) as fresh:
        assert runs.recover_dead_runs(fresh) == 3
        rows, _ = ledger.pending_rows(fresh, ledger.Selection([asset_id, other_id]), PRINTS, LANES)
    assert [row.asset_id for row in rows] == [asset_id]
    assert db.execute("SELECT max(attempts) FROM units WHERE asset_id = %s", (asset_id,)).fetchone() == (0,)


def test_a_child_that_read_replaced_segments_is_fenced_off(db):
    made, run_id, other, asset_id = make_spaces(db), new_run(db), new_run(db), new_asset(db, "a.wav")
    commit_row(db, run_id, computed_row(asset_id, claimed(db, run_id, asset_id)), made)
    late = computed_row(asset_id, claimed(db, other, asset_id, ("texts",), {**PRINTS, "texts": "t2"}))
    fresh = claimed(db, run_id, asset_id, LANES, {"speech": "s2", "voices": "v2", "texts": "t3"})
    assert commit_row(db, run_id, computed_row(asset_id, fresh, segments=2), made) == "done"
    assert commit_row(db, other, late, made) == "fenced"
    assert counts(db)["segments"] == 2
    assert not any(check_corpus(db).values())


def test_an_actor_of_an_ended_run_claims_nothing_and_what_it_held_comes_back(db):
    asset_id, other_id, run_id = new_asset(db, "a.wav"), new_asset(db, "b.wav"), new_run(db)
    claimed(db, run_id, asset_id)
    db.execute("UPDATE runs SET state = 'dead'")
    assert claimed(db, run_id, other_id) == []
    db.execute("SELECT pg_advisory_unlock_all()")
    assert runs.recover_dead_runs(db) == 3
    assert db.execute("SELECT count(*) FROM units WHERE state = 'running'").fetchone() == (0,)


def test_a_second_text_space_fills_beside_the_first_and_takes_over_when_complete(db):
    made, run_id = make_spaces(db), new_run(db)
    ids = [new_asset(db, "a.wav"), new_asset(db, "b.wav")]
    for asset_id in ids:
        commit_row(db, run_id, computed_row(asset_id, claimed(db, run_id, asset_id)), made)
    segments = db.execute("SELECT array_agg(segment_id ORDER BY segment_id) FROM segments").fetchone()
    from tests.corpus_rows import choice

    second = spaces.ensure_space(db, "text", choice("text", 16, "own"), {"other": True})
    prints = {**PRINTS, "texts": "t2"}
    for number, asset_id in enumerate(ids):
        assert spaces.activate_if_complete(db, second) == (False, 2 - number)
        row = computed_row(asset_id, claimed(db, run_id, asset_id, ("texts",), prints), dimension=16)
        assert commit_row(db, run_id, row, {"text": second}) == "done"
    assert spaces.activate_if_complete(db, second) == (True, 0)
    assert spaces.active_space(db, "text").space_id == second.space_id
    assert db.execute("SELECT array_agg(segment_id ORDER BY segment_id) FROM segments").fetchone() == segments
    assert counts(db)["text_vectors_2"] == 2
    assert spaces.activate_if_complete(db, made["text"]) == (True, 0)
    assert spaces.active_space(db, "text").space_id == made["text"].space_id
    assert not any(check_corpus(db).values())


def test_new_segments_drop_what_was_derived_from_the_old_ones(db):
    made, run_id, asset_id = make_spaces(db), new_run(db), new_asset(db, "a.wav")
    commit_row(db, run_id, computed_row(asset_id, claimed(db, run_id, asset_id)), made)
    prints = {"speech": "s2", "voices": "v2", "texts": "t2"}
    units = claimed(db, run_id, asset_id, ("speech",), prints)
    assert commit_row(db, run_id, computed_row(asset_id, units), made) == "done"
    found = counts(db)
    assert (found["segments"], found["voices"], found["chunks"], found["voice_vectors_1"]) == (4, 0, 0, 0)
    assert found["voice_cache_1"] == 3
    [row], _ = ledger.pending_rows(db, ledger.Selection([asset_id]), prints, LANES)
    assert row.lanes == ("voices", "texts")
    assert not any(check_corpus(db).values())


def test_the_voice_cache_answers_by_audio(db_url, db):
    made, run_id, asset_id = make_spaces(db), new_run(db), new_asset(db, "a.wav")
    row = computed_row(asset_id, claimed(db, run_id, asset_id))
    commit_row(db, run_id, row, made)
    cache = spaces.DatabaseVoiceCache(Session(db_url, 0), made["voice"])
    found = cache.lookup(row["audio_sha256"])
    cache.close()
    assert set(found) == {(v["start_sample"], v["end_sample"]) for v in row["voices"] if v["vector"]}
    first = row["voices"][0]
    assert found[(0, 14_400)].tolist() == pytest.approx(first["vector"], abs=1e-7)


def test_half_precision_spaces_take_the_same_rows(db):
    run_id, asset_id = new_run(db), new_asset(db, "a.wav")
    made = make_spaces(db, 512)
    assert made["text"].storage == "halfvec"
    row = computed_row(asset_id, claimed(db, run_id, asset_id), dimension=512)
    assert commit_row(db, run_id, row, made) == "done"
    assert not any(check_corpus(db).values())


@pytest.mark.parametrize(("dimension", "storage"), [(16, "vector"), (512, "halfvec")])
def test_a_large_space_gets_its_index_and_a_small_one_does_not(db, monkeypatch, dimension, storage):
    made, run_id, asset_id = make_spaces(db, dimension), new_run(db), new_asset(db, "a.wav")
    commit_row(db, run_id, computed_row(asset_id, claimed(db, run_id, asset_id), dimension=dimension), made)
    assert not spaces.ensure_index(db, made["text"])
    monkeypatch.setattr(spaces, "INDEX_FROM_ROWS", 1)
    assert spaces.ensure_index(db, made["text"])
    assert spaces.ensure_index(db, made["text"])
    row = db.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'text_vectors_2_hnsw'").fetchone()
    assert f"{storage}_cosine_ops" in row[0]


def test_a_row_the_database_refuses_fails_alone(db_url, db):
    import pyarrow as pa

    from cluster.types import COLUMNS
    from jobs.commit import Commit

    made, run_id = make_spaces(db), new_run(db)
    ids = [new_asset(db, name) for name in ("a.wav", "b.wav")]
    rows = [computed_row(asset_id, claimed(db, run_id, asset_id)) for asset_id in ids]
    rows[0]["segments"][0]["text"] = "no \x00 in PostgreSQL"
    table = pa.table({name: pa.array([row.get(name) for row in rows], COLUMNS[name]) for name in rows[0]})
    commit = Commit(Session(db_url, 0), run_id, made)
    assert commit.process(table)["outcome"].to_pylist() == ["failed", "done"]
    commit.close()
    [failure] = report.open_failures(db, report.FailureFilter())
    assert (failure["asset_id"], failure["failure"], failure["stage"]) == (ids[0], "bug", "commit")
    assert counts(db)["segments"] == 4


def test_a_run_that_was_taken_for_dead_before_its_start_was_heard_does_not_start(db):
    run_id = new_run(db)
    db.execute("UPDATE runs SET state = 'dead'")
    with pytest.raises(RushesError, match="taken for dead"):
        runs.start_run(db, run_id, "ingest", {})
