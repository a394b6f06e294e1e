"""What a person splits stays apart, whatever clustering finds later, until the split is taken back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cluster.db.spaces import active_space
from cluster.db.speakers.actions import label, undo
from cluster.db.speakers.clusters import read_points, write_clustering
from cluster.db.speakers.splits import parts_of_event, split_cluster
from cluster.errors import UsageError
from tests.corpus_rows import new_run
from tests.people import archive, at, commit_spoken, everything, named, spoken
from tests.test_clusters import ME, clustered, members, together


def mixed(db: Any, url: str) -> tuple[dict[str, int], int]:
    """Two people whom clustering took for one, as a corpus with one cluster."""
    ids = archive(db, {f"{name}.wav": ["anna"] for name in "abc"} | {f"{name}.wav": ["bob"] for name in "xy"})
    space = active_space(db, "voice")
    points = read_points(db, space, None)  # type: ignore[arg-type]
    write_clustering(db, space, points, np.zeros(5, np.int64), new_run(db))  # type: ignore[arg-type]
    [cluster_id] = members(db)
    return ids, cluster_id


def test_a_split_follows_the_voices_and_its_undo_and_redo_are_exact(db: Any, db_url: str) -> None:
    ids, cluster_id = mixed(db, db_url)
    before = everything(db)
    event = split_cluster(db, cluster_id, None, ME).event_id
    assert together(db) == {
        frozenset((ids[f"{n}.wav"], 0) for n in "abc"),
        frozenset((ids[f"{n}.wav"], 0) for n in "xy"),
    }
    assert [size for _, size in parts_of_event(db, event)] == [3, 2]
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    assert [who for [who] in named(db).values()] == ["Anna"] * 3 + [None] * 2
    after = everything(db)
    undo(db, None, ME)
    taken_back = undo(db, event, ME).event_id
    assert everything(db) == before
    undo(db, taken_back, ME)
    again = label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    assert {**everything(db), "segments": []} == {**after, "segments": []}
    assert again.event_id > event


def test_a_part_without_a_labelled_member_loses_the_name(db: Any, db_url: str) -> None:
    ids = archive(db, {f"{name}.wav": ["anna"] for name in "abcd"})
    clustered(db_url)
    [cluster_id] = members(db)
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    before = everything(db)
    assert named(db)["d.wav"] == ["Anna"]
    split_cluster(db, cluster_id, 4, ME)
    assert [who for [who] in named(db).values()] == ["Anna", None, None, None]
    undo(db, None, ME)
    assert everything(db) == before


def test_later_clusterings_never_join_what_a_standing_split_separated(db: Any, db_url: str) -> None:
    ids = archive(db, {f"{name}.wav": ["anna"] for name in "abcd"})
    clustered(db_url)
    [cluster_id] = members(db)
    event = split_cluster(db, cluster_id, 2, ME).event_id
    parts = together(db)
    clustered(db_url)
    assert together(db) == parts
    commit_spoken(db, ids["a.wav"], *spoken(["x", "anna"], seed=0))
    new = archive(db, {"e.wav": ["anna"]})
    clustered(db_url)
    separated = together(db)
    assert len(separated) == 2
    assert sum(len(keys) for keys in separated) == 5
    first, second = (set(one) for one in parts)
    for keys in separated:
        rest = {key for key in keys if key[0] not in (ids["a.wav"], new["e.wav"])}
        assert rest <= first or rest <= second
    undo(db, event, ME)
    assert [len(keys) for keys in members(db).values()] == [5]
    clustered(db_url)
    assert [len(keys) for keys in members(db).values()] == [5]


def test_a_part_can_be_split_again_and_undone_in_any_order(db: Any, db_url: str) -> None:
    archive(db, {f"{name}.wav": ["anna"] for name in "abcdef"})
    clustered(db_url)
    [cluster_id] = members(db)
    first = split_cluster(db, cluster_id, 2, ME).event_id
    once = everything(db)
    largest = max(members(db).items(), key=lambda item: len(item[1]))[0]
    second = split_cluster(db, largest, 2, ME).event_id
    assert len(members(db)) == 3
    undo(db, second, ME)
    assert everything(db) == once
    undo(db, None, ME)
    assert len(members(db)) == 1
    with pytest.raises(UsageError, match="undone already"):
        undo(db, first, ME)


def test_a_split_that_cannot_be_is_refused_and_nothing_is_recorded(db: Any, db_url: str) -> None:
    _, cluster_id = mixed(db, db_url)
    with pytest.raises(UsageError, match="there is no cluster 999"):
        split_cluster(db, 999, 2, ME)
    with pytest.raises(UsageError, match="5 voices, too few for 6 parts"):
        split_cluster(db, cluster_id, 6, ME)
    with pytest.raises(UsageError, match="2 parts or more, not 1"):
        split_cluster(db, cluster_id, 1, ME)
    assert db.execute("SELECT count(*) FROM speaker_events").fetchone() == (0,)
