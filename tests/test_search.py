"""Search finds by meaning and by word, inside one asset exactly, and never across spaces."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.db import search
from cluster.db.knn import Scope
from cluster.db.results import commit_row
from cluster.db.search import search_chunks
from tests.corpus_rows import claimed, computed_row, make_spaces, new_asset, new_run, unit_vector


@pytest.fixture
def corpus(db):
    made, run_id = make_spaces(db), new_run(db)
    texts = {"a.wav": "the quick brown fox", "b.wav": "a lazy dog sleeps", "c.wav": "foxes and hounds"}
    ids = {}
    for name, text in texts.items():
        ids[name] = new_asset(db, name)
        row = computed_row(ids[name], claimed(db, run_id, ids[name]), text=text)
        commit_row(db, run_id, row, made)
    return db, made["text"], ids


def vector_of(asset_id):
    return np.asarray(unit_vector(asset_id), np.float32)


def test_the_nearest_vector_comes_first(corpus):
    conn, space, ids = corpus
    hits = search_chunks(conn, space, vector_of(ids["c.wav"]), "unrelated").hits
    assert hits[0].uri == "/media/c.wav"
    assert hits[0].similarity == pytest.approx(1.0, abs=1e-5)
    assert len(hits) == 3


def test_a_word_lifts_its_chunk_above_others(corpus):
    conn, space, ids = corpus
    query = sum(vector_of(i) for i in ids.values())
    hits = search_chunks(conn, space, (query / np.linalg.norm(query)).astype(np.float32), "lazy dog").hits
    assert hits[0].uri == "/media/b.wav"
    assert hits[0].text_rank == 1


def test_a_scoped_search_stays_inside_its_assets_and_is_exact(corpus):
    conn, space, ids = corpus
    hits = search_chunks(conn, space, vector_of(ids["a.wav"]), "fox", scope=Scope([ids["b.wav"]])).hits
    assert [hit.uri for hit in hits] == ["/media/b.wav"]
    two = search_chunks(conn, space, vector_of(ids["a.wav"]), "fox", scope=Scope([ids["b.wav"], ids["c.wav"]])).hits
    assert {hit.uri for hit in two} == {"/media/b.wav", "/media/c.wav"}
    assert search_chunks(conn, space, vector_of(ids["a.wav"]), "fox", scope=Scope([])).hits == []


def test_an_odd_query_is_only_a_query(corpus):
    conn, space, ids = corpus
    for text in ("fox & | ! (", "'; DROP TABLE chunks; --", "\u00fcber \U0001f98a", "%s"):
        assert search_chunks(conn, space, vector_of(ids["a.wav"]), text).hits


def test_words_that_most_passages_hold_do_not_count_beside_rarer_ones(corpus, monkeypatch):
    conn, space, _ = corpus
    conn.execute("ANALYZE chunks")
    monkeypatch.setattr(search, "MOST_RANKED", 2)
    both = search_chunks(conn, space, None, "hounds 0").hits
    assert [hit.uri for hit in both] == ["/media/c.wav"]
    assert len(search_chunks(conn, space, None, "0").hits) == 3
    assert search_chunks(conn, space, None, "'' \\ | !").hits == []
