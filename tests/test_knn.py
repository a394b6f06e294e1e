"""Nearest vectors: as many as there are, as near as there are, and the reason where there are fewer."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from cluster.db import knn
from cluster.db.connect import open_connection
from cluster.db.filter import AssetFilter, scope_of
from cluster.db.knn import EVERYWHERE, Scope
from cluster.errors import UsageError
from tests.conftest import clone_database
from tests.many_vectors import ASSETS, CHUNKS, fill


@pytest.fixture(scope="module")
def many(server_url):
    for url in clone_database(server_url, "template_corpus"):
        with open_connection(url) as conn:
            yield conn, fill(conn)


def nearest(conn, space, query, k, **more):
    with conn.transaction():
        return knn.nearest(conn, space, query, k, **more)


def recall(many, conn, k, keep=None, **more):
    """Of the true k nearest, the share that is found; every answer has k rows, nearest first."""
    share = []
    for query in many.queries:
        found = nearest(conn, many.space, query, k, **more)
        assert len(found.hits) == k
        distances = [distance for _, distance in found.hits]
        assert distances == sorted(distances)
        share.append(len({one for one, _ in found.hits} & set(many.best(query, k, keep))) / k)
    return sum(share) / len(share)


def channel(conn, many, name):
    scope = scope_of(conn, AssetFilter(channels=(name,)))
    return scope, np.isin(many.assets, list(scope.asset_ids))


def test_more_candidates_find_more_and_the_answer_says_how_many_there_were(many):
    conn, made = many
    few, usual = recall(made, conn, 10, ef_search=10), recall(made, conn, 10)
    assert few < usual
    assert usual > 0.9
    found = nearest(conn, made.space, made.queries[0], 10, ef_search=33)
    assert (found.is_exact, found.ef_search, found.why_fewer) == (False, 33, None)
    assert nearest(conn, made.space, made.queries[0], 10).ef_search == knn.USUAL_EF_SEARCH
    assert nearest(conn, made.space, made.queries[0], 300).ef_search == 300


def test_what_was_measured_for_the_space_is_its_default(many):
    conn, made = many
    conn.execute("UPDATE spaces SET ef_search = 250 WHERE space_id = %s", (made.space.space_id,))
    try:
        assert nearest(conn, made.space, made.queries[0], 10).ef_search == 250
    finally:
        conn.execute("UPDATE spaces SET ef_search = NULL")


def test_a_thousand_come_when_a_thousand_are_asked_for_whatever_the_candidates(many):
    conn, made = many
    assert recall(made, conn, 1000, ef_search=50) > 0.9


def test_a_filter_that_most_pass_keeps_every_row_and_the_recall(many):
    conn, made = many
    scope, keep = channel(conn, made, "most")
    assert keep.sum() > knn.EXACT_MOST
    assert recall(made, conn, 10, keep, scope=scope) > 0.9
    assert not nearest(conn, made.space, made.queries[0], 10, scope=scope).is_exact


def test_a_filter_that_leaves_a_few_thousand_is_exact(many):
    conn, made = many
    scope, keep = channel(conn, made, "some")
    assert recall(made, conn, 10, keep, scope=scope) == 1.0
    assert nearest(conn, made.space, made.queries[0], 10, scope=scope).is_exact


def test_one_asset_is_searched_exactly_and_says_how_much_it_has(many):
    conn, made = many
    asset_id = int(made.assets[-1])
    found = nearest(conn, made.space, made.queries[0], 50, scope=Scope([asset_id]))
    assert [one for one, _ in found.hits] == made.best(made.queries[0], 50, made.assets == asset_id)
    assert (len(found.hits), found.is_exact, found.ef_search) == (CHUNKS, True, None)
    assert found.why_fewer == f"only {CHUNKS} vectors match the filters"


def test_one_asset_is_searched_exactly_however_much_it_has(many, monkeypatch):
    conn, made = many
    monkeypatch.setattr(knn, "EXACT_MOST", CHUNKS - 1)
    first, second = int(made.assets[0]), int(made.assets[-1])
    assert nearest(conn, made.space, made.queries[0], 5, scope=Scope([first])).is_exact
    assert not nearest(conn, made.space, made.queries[0], 5, scope=Scope([first, second])).is_exact


def test_what_lies_far_from_the_question_is_found_all_the_same(many):
    conn, made = many
    scope, keep = channel(conn, made, "apart")
    assert keep.sum() > knn.EXACT_MOST
    assert recall(made, conn, 10, keep, scope=scope) > 0.9


def test_a_walk_that_ends_too_early_gives_way_to_comparing_all(many, monkeypatch):
    conn, made = many
    scope, keep = channel(conn, made, "apart")
    monkeypatch.setattr(knn, "WALK_MOST", 10)
    found = [nearest(conn, made.space, query, 10, scope=scope, ef_search=20) for query in made.queries]
    assert {len(one.hits) for one in found} == {10}
    exact = [(query, one) for query, one in zip(made.queries, found, strict=True) if one.is_exact]
    assert exact
    for query, one in exact:
        assert [chunk_id for chunk_id, _ in one.hits] == made.best(query, 10, keep)


def test_where_all_are_too_many_to_compare_the_answer_says_that_the_walk_ended(many, monkeypatch):
    conn, made = many
    scope, _ = channel(conn, made, "apart")
    monkeypatch.setattr(knn, "WALK_MOST", 10)
    monkeypatch.setattr(knn, "EXACT_AT_LAST", 6_000)
    found = [nearest(conn, made.space, query, 10, scope=scope, ef_search=20) for query in made.queries]
    short = [one for one in found if len(one.hits) < 10]
    assert short
    for one in short:
        assert not one.is_exact
        assert f"ended after about 10 vectors with {len(one.hits)} that match: narrow the filters" in one.why_fewer
    assert {one.why_fewer for one in found if len(one.hits) == 10} <= {None}


def test_a_filter_that_nothing_passes_says_so(many):
    conn, made = many
    scope = scope_of(conn, AssetFilter(since=datetime(2030, 1, 1, tzinfo=UTC)))
    found = nearest(conn, made.space, made.queries[0], 10, scope=scope)
    assert (found.hits, found.is_exact, found.why_fewer) == ([], True, "no asset matches the filters")


def test_a_space_without_an_index_is_exact(many):
    conn, made = many
    with conn.transaction(force_rollback=True):
        conn.execute(f"DROP INDEX {made.space.table_name}_hnsw".encode())
        found = knn.nearest(conn, made.space, made.queries[0], 10)
        assert [one for one, _ in found.hits] == made.best(made.queries[0], 10)
        assert (found.is_exact, found.ef_search) == (True, None)
        scope, keep = channel(conn, made, "most")
        found = knn.nearest(conn, made.space, made.queries[0], 10, scope=scope)
        assert [one for one, _ in found.hits] == made.best(made.queries[0], 10, keep)


def test_assets_are_chosen_by_date_kind_and_content(many):
    conn, _ = many
    since, until = datetime(2024, 1, 1, 10, tzinfo=UTC), datetime(2024, 1, 1, 20, tzinfo=UTC)
    assert scope_of(conn, AssetFilter(since=since, until=until)).asset_ids == list(range(10, 20))
    assert scope_of(conn, AssetFilter(kinds=("video",), until=since)).asset_ids == [2, 4, 6, 8]
    assert len(scope_of(conn, AssetFilter(kinds=("video", "audio"))).asset_ids) == ASSETS
    [(sha256,)] = conn.execute("SELECT encode(sha256, 'hex') FROM assets WHERE asset_id = 5")
    assert scope_of(conn, AssetFilter(sha256s=(sha256,))).asset_ids == [5]
    assert scope_of(conn, AssetFilter()) == EVERYWHERE
    with pytest.raises(UsageError, match="ab" * 32):
        scope_of(conn, AssetFilter(sha256s=("ab" * 32,)))
