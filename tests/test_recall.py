"""`rushes db recall`: what the index finds of what is there, measured and set."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cluster.db import knn, recall
from cluster.db.connect import open_connection
from cluster.db.knn import Answer
from cluster.db.recall import keep_recall, measure_recall
from cluster.db.results import commit_row
from tests.conftest import clone_database
from tests.corpus_rows import claimed, computed_row, make_spaces, new_asset, new_run
from tests.many_vectors import fill
from tests.test_cli import rushes


@pytest.fixture(scope="module")
def many(server_url):
    for url in clone_database(server_url, "template_corpus"):
        with open_connection(url) as conn:
            yield url, conn, fill(conn)


def test_the_curve_is_that_of_the_index_and_not_of_a_scan(many, monkeypatch):
    _, conn, made = many
    monkeypatch.setattr(recall, "EF_SEARCHES", (10, 40, 400))
    found = measure_recall(conn, made.space, queries=40)
    low, middle, high = [one.recall for one in found.curve]
    assert low <= middle <= high
    assert low < high
    assert high > 0.98
    assert (found.vectors, found.queries, found.is_exact) == (len(made.ids), 40, False)
    assert found.curve[0].p50_ms < found.exact_ms


def test_a_measured_share_is_that_of_an_answer_computed_by_hand(many, monkeypatch):
    _, conn, made = many
    monkeypatch.setattr(recall, "EF_SEARCHES", (15,))
    found = measure_recall(conn, made.space, queries=30)
    shares = []
    for owner, vector in recall._sample(conn, made.space, 30):
        true = [one for one in made.best(vector, 11) if one != owner][:10]
        with conn.transaction():
            met = knn.nearest(conn, made.space, vector, 11, ef_search=15).hits
        shares.append(len({one for one, _ in met if one != owner} & set(true)) / 10)
    assert found.curve[0].recall == pytest.approx(float(np.mean(shares)), abs=0.02)


def test_the_least_that_reaches_the_target_is_set_and_used(many):
    url, conn, made = many
    told = rushes("db", "recall", "--queries", "20", "--target", "0.9", "--dry-run", url=url)
    assert told.returncode == 0, told.stderr
    assert "searches would keep" in told.stdout
    assert conn.execute("SELECT ef_search, recall FROM spaces").fetchone() == (None, None)
    done = rushes("db", "recall", "--queries", "20", "--target", "0.9", "--json", "--kind", "text", url=url)
    (found,) = json.loads(done.stdout)
    reached = [one["ef_search"] for one in found["curve"] if one["recall"] >= 0.9]
    assert found["ef_search"] == min(reached)
    kept, measured = conn.execute("SELECT ef_search, recall FROM spaces").fetchone()
    assert (kept, measured["curve"], measured["k"]) == (found["ef_search"], found["curve"], 10)
    with conn.transaction():
        assert knn.nearest(conn, made.space, made.queries[0], 10).ef_search == kept


def test_a_target_that_nothing_reaches_takes_the_most_and_says_so(many, monkeypatch):
    _, conn, made = many
    monkeypatch.setattr(recall, "EF_SEARCHES", (10, 12))
    found = measure_recall(conn, made.space, queries=5, target=1.01)
    assert (found.reaches, found.ef_search) == (False, 12)


def test_small_and_empty_spaces_are_exact(db, db_url):
    made, run_id = make_spaces(db), new_run(db)
    assert "text space 2: 0 vectors, nothing to measure" in rushes("db", "recall", url=db_url).stdout
    asset_id = new_asset(db, "a.wav")
    commit_row(db, run_id, computed_row(asset_id, claimed(db, run_id, asset_id)), made)
    told = rushes("db", "recall", url=db_url).stdout
    assert "voice space 1: 3 vectors, searched exactly, without an index" in told
    assert db.execute("SELECT array_agg(ef_search) FROM spaces").fetchone() == ([None, None],)
    found = measure_recall(db, made["voice"])
    assert (found.is_exact, found.reaches, found.curve, found.queries) == (True, True, (), 3)
    keep_recall(db, found)
    assert isinstance(knn.nearest(db, made["voice"], np.ones(8, np.float32), 3), Answer)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--kind", "smell"], "there are image, text, voice"), (["--target", "2"], "--target"), (["-k", "0"], "-k")],
)
def test_what_cannot_be_measured_is_named(db_url, words, message):
    done = rushes("db", "recall", *words, url=db_url)
    assert done.returncode == 2
    assert message in done.stderr
