"""A person is forgotten: no voice print and no decision is left, and what others said stands."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import pytest

from cluster.db.check import check_corpus
from cluster.db.connect import open_connection
from cluster.db.dump import canonical_dump
from cluster.db.forget import forget_asset
from cluster.db.gc import drop_space
from cluster.db.spaces import ensure_space, list_spaces
from cluster.db.speakers.actions import label, merge, rename, split, undo
from cluster.db.speakers.forget import Forgotten, forget_speaker
from cluster.db.speakers.state import lock_decisions, refresh
from cluster.db.turns import give_turns
from cluster.errors import UsageError
from cluster.formats.rttm import NamedTurn
from tests.corpus_rows import PRINTS, choice
from tests.people import STEP_MS, archive, at, commit_spoken, everything, named, put_in_cluster, spoken, voice_of
from tests.test_cli import rushes
from tests.waits import until_it_waits

ME = "me"


def sound(conn: Any) -> bool:
    return {name: count for name, count in check_corpus(conn).items() if count} == {}


def vectors_like(conn: Any, person: str) -> list[str]:
    """Where the corpus holds a vector that sounds like this person."""
    dump, voice = canonical_dump(conn), voice_of(person, spread=0.0)
    return [
        f"{section} {key}"
        for section, rows in dump.vectors.items()
        for key, vector in rows.items()
        if len(vector) == len(voice) and float(np.dot(vector, voice)) > 0.6
    ]


@pytest.fixture
def people(db: Any) -> dict[str, int]:
    ids = archive(db, {"a.wav": ["anna", "bob", "anna"], "b.wav": ["anna", "carla"], "c.wav": ["bob"]})
    put_in_cluster(db, [(ids["a.wav"], 0), (ids["b.wav"], 0), (ids["c.wav"], 0)])
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    label(db, "Bob", [at(db, ids["c.wav"], 0)], ME)
    label(db, "Carla", [at(db, ids["b.wav"], 1)], ME)
    assert named(db) == {"a.wav": ["Anna", None, "Anna"], "b.wav": ["Anna", "Carla"], "c.wav": ["Bob"]}
    return ids


def test_nothing_of_a_forgotten_person_is_left_and_others_stand(db: Any, people: dict[str, int]) -> None:
    assert vectors_like(db, "anna")
    others = (len(vectors_like(db, "bob")), len(vectors_like(db, "carla")))
    texts = db.execute("SELECT text FROM segments ORDER BY segment_id").fetchall()
    assert forget_speaker(db, "anna") == Forgotten("Anna", (), 3, 3, 3, 3, 1)
    assert vectors_like(db, "anna") == []
    assert (len(vectors_like(db, "bob")), len(vectors_like(db, "carla"))) == others
    assert named(db) == {"a.wav": [None, None, None], "b.wav": [None, "Carla"], "c.wav": ["Bob"]}
    assert db.execute("SELECT text FROM segments ORDER BY segment_id").fetchall() == texts
    assert db.execute("SELECT name FROM speakers ORDER BY 1").fetchall() == [("Bob",), ("Carla",)]
    assert db.execute("SELECT DISTINCT skip_reason FROM voices").fetchall() == [(None,), ("forgotten",)]
    assert sound(db)


@pytest.mark.parametrize("how", [{}, {"numbered": False}, {"start_ms": 1_000}])
def test_no_later_ingest_brings_a_voice_print_back(db: Any, people: dict[str, int], how: dict[str, Any]) -> None:
    forget_speaker(db, "Anna")
    commit_spoken(db, people["a.wav"], *spoken(["anna", "bob", "anna"], **how))
    commit_spoken(db, people["b.wav"], *spoken(["anna", "carla"], **how))
    assert vectors_like(db, "anna") == []
    assert vectors_like(db, "bob")
    assert named(db) == {"a.wav": [None, None, None], "b.wav": [None, "Carla"], "c.wav": ["Bob"]}
    assert sound(db)


def test_a_long_segment_over_many_short_forgotten_turns_is_not_kept(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"] * 4})
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    forget_speaker(db, "Anna")
    [segment], [voice] = (rows[:1] for rows in spoken(["anna"]))
    whole = {**segment, "end_ms": 4 * STEP_MS}
    commit_spoken(db, ids["a.wav"], [whole], [{**voice, "end_sample": 4 * STEP_MS * 16}])
    assert vectors_like(db, "anna") == []


def test_the_same_sound_under_another_name_is_forgotten_too(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna", "bob"], "copy.wav": ["anna", "bob"]})
    db.execute("UPDATE assets SET audio_sha256 = (SELECT audio_sha256 FROM assets WHERE asset_id = %s)",
               (ids["a.wav"],))  # fmt: skip
    db.execute("DELETE FROM voice_cache_1 c WHERE NOT EXISTS (SELECT 1 FROM assets a"
               " WHERE a.audio_sha256 = c.audio_sha256)")  # fmt: skip
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    forget_speaker(db, "Anna")
    assert vectors_like(db, "anna") == []
    assert sound(db)


def test_what_the_forgotten_name_took_the_place_of_does_not_come_back(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna", "bob"]})
    label(db, "Wrong", [at(db, ids["a.wav"], 0)], ME)
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    later = label(db, "Carla", [at(db, ids["a.wav"], 1)], ME).event_id
    forget_speaker(db, "Anna")
    assert named(db) == {"a.wav": [None, "Carla"]}
    undo(db, later, ME)
    assert named(db) == {"a.wav": [None, None]}
    with pytest.raises(UsageError, match="nobody is called"):
        forget_speaker(db, "Wrong")
    assert sound(db)


def test_what_took_the_place_of_the_forgotten_name_stands_and_its_undo_gives_nobody(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna", "anna"]})
    label(db, "Anna", [at(db, ids["a.wav"], 0, "segment")], ME)
    event = label(db, "Bob", [at(db, ids["a.wav"], 0, "segment")], ME).event_id
    label(db, "Anna", [at(db, ids["a.wav"], 1, "segment")], ME)
    forget_speaker(db, "Anna")
    assert named(db) == {"a.wav": ["Bob", None]}
    undo(db, event, ME)
    assert named(db) == {"a.wav": [None, None]}
    assert sound(db)


def test_those_merged_into_a_person_go_too_and_those_taken_out_again_stay(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna", "bob", "carla"], "b.wav": ["dora"]})
    for idx, name in enumerate(("Anna", "Annie", "Carla")):
        label(db, name, [at(db, ids["a.wav"], idx)], ME)
    label(db, "Dora", [at(db, ids["b.wav"], 0)], ME)
    merge(db, "Annie", "Anna", ME)
    undo(db, merge(db, "Carla", "Anna", ME).event_id, ME)
    rename(db, "Anna", "Ann", ME)
    assert forget_speaker(db, "Ann").also == ("Annie",)
    assert named(db) == {"a.wav": [None, None, "Carla"], "b.wav": ["Dora"]}
    assert db.execute("SELECT kind FROM speaker_events ORDER BY 1").fetchall() == [("label",), ("label",)]
    assert sound(db)


def test_a_dry_run_and_an_unknown_name_change_nothing(db: Any, people: dict[str, int]) -> None:
    before, dump = everything(db), canonical_dump(db)
    assert forget_speaker(db, "Anna", dry_run=True).vectors == 3
    with pytest.raises(UsageError, match="did you mean Anna"):
        forget_speaker(db, "Ann")
    assert everything(db) == before
    assert canonical_dump(db).facts == dump.facts
    assert vectors_like(db, "anna")


def test_a_segment_of_the_person_inside_another_voice_leaves_that_voice(db: Any) -> None:
    ids = archive(db, {"a.wav": ["bob", "bob", "bob"]})
    label(db, "Bob", [at(db, ids["a.wav"], 0)], ME)
    label(db, "Anna", [at(db, ids["a.wav"], 1, "segment")], ME)
    [(clean_ms,)] = db.execute("SELECT clean_ms FROM local_voices_1").fetchall()
    forget_speaker(db, "Anna")
    assert named(db) == {"a.wav": ["Bob", "Bob", "Bob"]}
    assert db.execute("SELECT clean_ms FROM local_voices_1").fetchall() == [(clean_ms - 3_000,)]
    assert sound(db)


def test_imported_turns_lose_the_name(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna lee", "bob"]})
    give_turns(db, ids["a.wav"], [NamedTurn(0, 3_000, "Anna_Lee"), NamedTurn(4_000, 7_000, "Bob")], PRINTS)
    label(db, "Anna Lee", [at(db, ids["a.wav"], 0)], ME)
    forget_speaker(db, "Anna Lee")
    assert db.execute("SELECT speaker FROM given_turns ORDER BY idx").fetchall() == [("A",), ("Bob",)]


def test_a_person_of_a_split_can_be_forgotten(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna"]})
    for name in ids:
        label(db, "Anna", [at(db, ids[name], 0)], ME)
    split(db, "Anna", "Bea", [at(db, ids["b.wav"], 0)], ME)
    forget_speaker(db, "Bea")
    assert named(db) == {"a.wav": ["Anna"], "b.wav": [None]}
    assert sound(db)


def test_a_forgotten_asset_takes_its_labels_along(db: Any, people: dict[str, int]) -> None:
    assert forget_asset(db, people["a.wav"])
    assert named(db) == {"b.wav": [None, "Carla"], "c.wav": ["Bob"]}
    with pytest.raises(UsageError, match="nobody is called"):
        forget_speaker(db, "Anna")
    assert db.execute("SELECT count(*) FROM speaker_events").fetchone() == (2,)
    assert sound(db)


def test_with_the_last_label_of_a_person_go_the_names_recognised_by_it(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna"]})
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    db.execute("INSERT INTO identifications SELECT %s, 0, 1, speaker_id, 0.9, NULL, 0.7, true FROM speakers",
               (ids["b.wav"],))  # fmt: skip
    with db.transaction():
        lock_decisions(db)
        refresh(db, ids.values())
    assert named(db) == {"a.wav": ["Anna"], "b.wav": ["Anna"]}
    assert forget_asset(db, ids["a.wav"])
    assert named(db) == {"b.wav": [None]}
    assert sound(db)


def test_a_dropped_space_takes_the_names_that_its_clusters_gave_along(db: Any, people: dict[str, int]) -> None:
    [old] = [space for space in list_spaces(db) if space.kind == "voice"]
    other = ensure_space(db, "voice", choice("voice", 8, "new"), {"kind": "voice", "d": 8, "new": True})
    for is_active in (False, True):
        db.execute("UPDATE spaces SET is_active = %s WHERE space_id = ANY(%s)",
                   (is_active, [other.space_id] if is_active else [old.space_id]))  # fmt: skip
    [old] = [space for space in list_spaces(db) if space.space_id == old.space_id]
    assert drop_space(db, old)
    assert named(db) == {"a.wav": ["Anna", None, "Anna"], "b.wav": [None, "Carla"], "c.wav": ["Bob"]}
    assert sound(db)


def test_a_commit_in_progress_waits_and_keeps_no_voice_print(db: Any, db_url: str, people: dict[str, int]) -> None:
    with open_connection(db_url) as other:
        again = threading.Thread(
            target=commit_spoken, args=(other, people["b.wav"], *spoken(["anna", "carla"], seed=7))
        )
        with db.transaction():
            forget_speaker(db, "Anna")
            again.start()
            until_it_waits(db, again)
        again.join()
    assert vectors_like(db, "anna") == []
    assert named(db)["b.wav"] == [None, "Carla"]
    assert sound(db)


def test_the_command_asks_says_and_does(db: Any, db_url: str, people: dict[str, int]) -> None:
    refused = rushes("speakers", "forget", "Anna", url=db_url)
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    assert rushes("speakers", "forget", "Nobody", "--yes", url=db_url).returncode == 2
    dry = rushes("speakers", "forget", "Anna", "--dry-run", url=db_url)
    assert "3 segments become unknown" in dry.stdout
    assert vectors_like(db, "anna")
    done = json.loads(rushes("speakers", "forget", "Anna", "--yes", "--json", url=db_url).stdout)
    assert done["forgotten"] == done["found"]
    assert done["forgotten"]["vectors"] == 3
    assert vectors_like(db, "anna") == []


def test_people_are_listed_shown_and_the_unknown_offered(db: Any, db_url: str, people: dict[str, int]) -> None:
    db.execute("UPDATE local_speakers SET is_ghost = true WHERE asset_id = %s AND local_speaker = 1",
               (people["a.wav"],))  # fmt: skip
    told = json.loads(rushes("speakers", "list", "--json", url=db_url).stdout)
    assert [(one["name"], one["segments"], one["assets"], one["segments_by_method"]) for one in told["people"]] == [
        ("Anna", 3, 2, {"human": 2, "cluster": 1}), ("Bob", 1, 1, {"human": 1}), ("Carla", 1, 1, {"human": 1}),
    ]  # fmt: skip
    assert told["total"] == {"segments": 6, "known": 5, "unknown": 1, "speech_ms": 18_000, "known_ms": 15_000}
    assert "labels 83 % of speech: 0.2 of 0.3 minutes" in rushes("speakers", "list", url=db_url).stdout
    shown = rushes("speakers", "show", "anna", url=db_url).stdout
    assert "Anna: 3 segments in 2 asset(s)" in shown
    assert "event 1: label Anna by me" in shown
    assert "did you mean Anna" in rushes("speakers", "show", "Ann", url=db_url).stderr
    unknown = rushes("speakers", "unknown", url=db_url).stdout
    assert "every voice has a name" in unknown
    assert "1 ghost(s) left out" in unknown


def test_who_is_forgotten_second_takes_only_their_own_along(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["bob", "anna"]})
    label(db, "Anna", [at(db, ids["a.wav"], 0), at(db, ids["b.wav"], 1)], ME)
    label(db, "Bob", [at(db, ids["b.wav"], 0)], ME)
    forget_speaker(db, "Anna")
    rows = "SELECT asset_id, xmin FROM local_voices_1 WHERE asset_id = %s"
    other = db.execute(rows, (ids["a.wav"],)).fetchall()
    assert forget_speaker(db, "Bob") == Forgotten("Bob", (), 1, 1, 1, 1, 1)
    assert db.execute(rows, (ids["a.wav"],)).fetchall() == other, "an asset that nobody locked was written"
    assert sound(db)
