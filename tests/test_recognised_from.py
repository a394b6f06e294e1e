"""A recognised name stands as long as the labels that it rests on."""

from __future__ import annotations

from typing import Any

from cluster.db.forget import forget_asset
from cluster.db.speakers.actions import label, undo
from tests.corpus_rows import new_run
from tests.people import archive, at, named
from tests.test_cli import rushes
from tests.test_identify import ME, recognise


def test_what_was_recognised_by_a_label_that_is_taken_back_is_unknown_again(db: Any, db_url: str) -> None:
    bobs = ["b1.wav", "b2.wav", "b3.wav"]
    ids = archive(db, {"a.wav": ["anna"], **{name: ["bob"] for name in bobs}, "c.wav": ["bob"]})
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    mistake = label(db, "Anna", [at(db, ids[name], 0) for name in bobs], ME).event_id
    recognise(db, new_run(db))
    wrong = {name: ["Anna"] for name in ids}
    assert named(db) == wrong
    told = rushes("speakers", "undo", "--dry-run", url=db_url)
    assert "1 voice(s) that were recognised by it are unknown now: `rushes speakers identify`" in told.stdout
    assert named(db) == wrong
    back = undo(db, mistake, ME).event_id
    assert named(db) == {"a.wav": ["Anna"], **{name: [None] for name in bobs}, "c.wav": [None]}
    undo(db, back, ME)
    assert named(db) == wrong
    label(db, "Bob", [at(db, ids[name], 0) for name in bobs], ME)
    assert named(db) == {"a.wav": ["Anna"], **{name: ["Bob"] for name in bobs}, "c.wav": [None]}
    recognise(db, new_run(db))
    assert named(db)["c.wav"] == ["Bob"]


def test_a_recognition_whose_label_is_gone_is_made_again_by_the_next_look(db: Any) -> None:
    ids = archive(db, {**{f"{name}.wav": ["anna"] for name in "abcd"}, "z.wav": ["zed"]})
    label(db, "Anna", [at(db, ids[name], 0) for name in ("a.wav", "b.wav", "c.wav")], ME)
    mistake = label(db, "Anna", [at(db, ids["z.wav"], 0)], ME).event_id
    recognise(db, new_run(db))
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    assert named(db)["d.wav"] == ["Anna"], "said once more, a label is not taken back"
    undo(db, mistake, ME)
    assert named(db)["d.wav"] == [None]
    # of the three nearest none is gone, so the score is the same
    assert recognise(db, new_run(db)).named == 1
    assert named(db)["d.wav"] == ["Anna"]


def test_a_name_that_is_used_again_for_another_voice_brings_no_old_recognition_back(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["bob"], "c.wav": ["bob"]})
    event = label(db, "Anna", [at(db, ids["b.wav"], 0)], ME).event_id
    recognise(db, new_run(db))
    undo(db, event, ME)
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    assert named(db) == {"a.wav": ["Anna"], "b.wav": [None], "c.wav": [None]}


def test_what_was_recognised_by_a_file_that_is_forgotten_is_unknown_again(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna"], "c.wav": ["anna"]})
    label(db, "Anna", [at(db, ids[name], 0) for name in ("a.wav", "b.wav")], ME)
    recognise(db, new_run(db))
    assert named(db)["c.wav"] == ["Anna"]
    assert forget_asset(db, ids["b.wav"])
    assert named(db) == {"a.wav": ["Anna"], "c.wav": [None]}
