"""What people say about voices: it reaches the cluster, it can be undone, and nothing overrides it."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.db.speakers.actions import label, merge, rename, split, undo
from cluster.errors import UsageError
from tests.people import archive, at, commit_spoken, everything, named, put_in_cluster, spoken

ME = "me"


def test_a_label_names_every_segment_of_the_voice(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna", "bob", "anna", None]})
    label(db, "Anna", [at(db, ids["a.wav"], 2)], ME)
    assert named(db) == {"a.wav": ["Anna", None, "Anna", None]}


def test_a_label_reaches_the_alike_members_of_the_cluster_only(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna", "bob"], "c.wav": ["carla"]})
    put_in_cluster(db, [(ids["a.wav"], 0), (ids["b.wav"], 0), (ids["c.wav"], 0)])
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    assert named(db) == {"a.wav": ["Anna"], "b.wav": ["Anna", None], "c.wav": [None]}
    methods = dict(db.execute("SELECT asset_id, method FROM local_speakers WHERE local_speaker = 0").fetchall())
    assert methods == {ids["a.wav"]: "human", ids["b.wav"]: "cluster", ids["c.wav"]: None}


def test_two_voices_of_one_recording_never_get_one_name_from_the_machine(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna", "anna "]})
    conn = db
    conn.execute("UPDATE local_speakers SET is_ghost = false")
    put_in_cluster(conn, [(ids["a.wav"], 0), (ids["b.wav"], 0), (ids["b.wav"], 1)])
    space = "local_voices_1"
    conn.execute(f"UPDATE {space} SET embedding = (SELECT embedding FROM {space} WHERE asset_id = %s)", (ids["a.wav"],))
    label(conn, "Anna", [at(conn, ids["a.wav"], 0)], ME)
    assert named(conn) == {"a.wav": ["Anna"], "b.wav": ["Anna", None]}
    label(conn, "Anna", [at(conn, ids["b.wav"], 1)], ME)
    assert named(conn) == {"a.wav": ["Anna"], "b.wav": [None, "Anna"]}


def test_labels_outlive_another_segmentation(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna", "bob", "anna"]})
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    label(db, "Bob", [at(db, ids["a.wav"], 1)], ME)
    commit_spoken(db, ids["a.wav"], *spoken(["x", "y", "x", "x"], start_ms=500))
    assert named(db) == {"a.wav": ["Anna", "Bob", "Anna", "Anna"]}
    commit_spoken(db, ids["a.wav"], *spoken(["anna", "bob", "anna"], numbered=False))
    assert named(db) == {"a.wav": ["Anna", "Bob", "Anna"]}
    commit_spoken(db, ids["a.wav"], *spoken(["one", "one", "one"]))
    assert named(db) == {"a.wav": ["Anna", "Bob", None]}


def test_every_decision_can_be_undone_and_brought_back(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna", "bob"], "b.wav": ["anna", "bob"], "c.wav": ["anna"]})
    put_in_cluster(db, [(ids[name], 0) for name in ids])
    steps = [
        lambda: label(db, "Anna", [at(db, ids["a.wav"], 0)], ME),
        lambda: label(db, "Bob", [at(db, ids["b.wav"], 1)], ME),
        lambda: label(db, "Robert", [at(db, ids["a.wav"], 1)], ME),
        lambda: merge(db, "Robert", "Bob", ME),
        lambda: rename(db, "Bob", "Rob", ME),
        lambda: label(db, "Rob", [at(db, ids["a.wav"], 0, "segment")], ME),
        lambda: label(db, None, [at(db, ids["c.wav"], 0)], ME),
        lambda: split(db, "Rob", "Bert", [at(db, ids["a.wav"], 1)], ME),
        lambda: label(db, "Carla", [at(db, ids["a.wav"], 0)], ME),
    ]
    states, events = [everything(db)], []
    for step in steps:
        events.append(step().event_id)
        states.append(everything(db))
    for state in reversed(states[:-1]):
        undo(db, None, ME)
        assert everything(db) == state
    for event_id, state in zip(events, states[1:], strict=True):
        undo(db, db.execute("SELECT event_id FROM speaker_events WHERE undoes = %s", (event_id,)).fetchone()[0], ME)
        assert everything(db) == state


def test_an_undo_of_what_is_undone_is_refused(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"]})
    event = label(db, "Anna", [at(db, ids["a.wav"], 0)], ME).event_id
    undo(db, event, ME)
    with pytest.raises(UsageError, match=f"event {event} is undone already"):
        undo(db, event, ME)
    with pytest.raises(UsageError, match="nothing to undo"):
        undo(db, None, ME)


@pytest.mark.parametrize(
    ("again", "of_others"),
    [
        (["anna", "anna", "bob"], "Anna"),  # more of her speech than four fifths can be
        (["anna", "bob"], "Anna"),
        (["dora", "bob"], None),  # the voice under the label is another one now
    ],
)
def test_a_cluster_follows_its_label_through_another_diarization_and_is_never_stale(
    db: Any, again: list[str | None], of_others: str | None
) -> None:
    ids = archive(db, {f"{name}.wav": ["anna", "bob"] for name in "abc"})
    put_in_cluster(db, [(asset_id, 0) for asset_id in ids.values()])
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    commit_spoken(db, ids["a.wav"], *spoken(again))
    assert named(db)["a.wav"][0] == "Anna"
    assert [named(db)[name][0] for name in ("b.wav", "c.wav")] == [of_others] * 2
    before = everything(db)
    undo(db, label(db, "Carl", [at(db, ids["b.wav"], 1)], ME).event_id, ME)
    assert everything(db) == before, "an unrelated decision, taken back, changes nothing"
