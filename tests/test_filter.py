"""Selections by channel, tag and collection."""

from __future__ import annotations

import pytest

from cluster.db.filter import AssetFilter, matching
from cluster.errors import UsageError
from tests.corpus_rows import new_asset


def test_kinds_must_all_hold_and_names_of_a_kind_are_alternatives(db):
    a, b, c = (new_asset(db, name) for name in ("a", "b", "c"))
    db.execute("UPDATE assets SET channel = 'News' WHERE asset_id IN (%s, %s)", (a, b))
    for asset, tag in ((a, "Budget"), (b, "sport"), (c, "budget")):
        db.execute("INSERT INTO asset_tags VALUES (%s, %s)", (asset, tag))
    db.execute("INSERT INTO asset_collections VALUES (%s, 'Council 2024')", (c,))
    assert matching(db, AssetFilter()) == [a, b, c]
    assert matching(db, AssetFilter(channels=("NEWS",))) == [a, b]
    assert matching(db, AssetFilter(tags=("BUDGET", "Sport"))) == [a, b, c]
    assert matching(db, AssetFilter(channels=("news",), tags=("budget",))) == [a]
    assert matching(db, AssetFilter(collections=("council 2024",)), [a, b]) == []
    assert not AssetFilter()


def test_a_name_that_no_asset_has_is_an_error_that_shows_the_known_ones(db):
    asset = new_asset(db, "a")
    db.execute("INSERT INTO asset_tags VALUES (%s, 'sport')", (asset,))
    with pytest.raises(UsageError, match="no asset has the tag 'sprot'; known: sport"):
        matching(db, AssetFilter(tags=("sprot",)))
    with pytest.raises(UsageError, match="no asset has the channel 'x'; known: none"):
        matching(db, AssetFilter(channels=("x",)))
