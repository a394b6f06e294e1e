"""What a label may touch, what it calls, and what it says to bad input."""

from __future__ import annotations

import sys
from typing import Any

import psycopg
import pytest

from cluster.db.speakers.actions import label, look, merge, rename, split, undo
from cluster.db.speakers.events import point_at
from cluster.db.speakers.names import find_speaker
from cluster.db.speakers.outcome import not_passed_on, reach_of
from cluster.db.speakers.pointing import point_at_cluster, point_at_voice
from cluster.errors import RushesError, UsageError
from tests.corpus_rows import new_asset
from tests.people import STEP_MS, archive, at, commit_spoken, everything, named, put_in_cluster, spoken

ME = "me"
VECTOR_TABLES = ("voice_vectors_1", "voice_cache_1", "local_voices_1", "voices", "segments")


def thousand(db: Any) -> tuple[dict[str, int], int]:
    """A hundred assets with ten segments of one person each, in one cluster."""
    ids = archive(db, {f"{number}.wav": ["anna"] * 10 for number in range(100)})
    return ids, put_in_cluster(db, [(asset_id, 0) for asset_id in ids.values()])


def writes(db: Any) -> dict[str, tuple[int, ...]]:
    db.execute("SELECT pg_stat_force_next_flush()")
    rows = db.execute(
        "SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables WHERE relname = ANY(%s)",
        (list(VECTOR_TABLES),),
    )
    return {row[0]: row[1:] for row in rows}


def test_a_label_of_a_thousand_segments_calls_no_model_and_writes_no_vector(
    db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, _ = thousand(db)
    calls: list[str] = []
    for name in ("torch.nn.Module", "actors.voices.Voices", "cluster.media.child.MediaChild"):
        module, _, owner = name.rpartition(".")
        __import__(module)
        method = "__call__" if owner == "Module" else "__init__"
        monkeypatch.setattr(getattr(sys.modules[module], owner), method, lambda *_, name=name: calls.append(name))
    before = writes(db)
    label(db, "Anna", [at(db, ids["0.wav"], 0)], ME)
    assert (calls, writes(db)) == ([], before)
    anna = find_speaker(db, "Anna")
    assert anna is not None
    reach = reach_of(db, anna)
    assert (reach.voices, reach.segments, reach.assets) == ({"human": 1, "cluster": 99}, 1000, 100)
    undo(db, None, ME)
    assert (calls, writes(db)) == ([], before)


def test_a_label_asks_the_database_as_often_for_a_thousand_voices_as_for_two(db: Any) -> None:
    counts = []
    for files in (2, 40):
        ids = archive(db, {f"{files}-{number}.wav": ["anna", "bob"] for number in range(files)})
        put_in_cluster(db, [(asset_id, 0) for asset_id in ids.values()])
        counts.append(queries(db, lambda ids=ids: label(db, f"A{len(ids)}", [at(db, min(ids.values()), 0)], ME)))
    assert counts[0] == counts[1]


def queries(db: Any, action: Any) -> int:
    """Statements that the server ran for it."""
    seen: list[Any] = []
    original = psycopg.Cursor.execute

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(args[0])
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Cursor, "execute", counted)
        action()
    return len(seen)


def test_what_a_cluster_does_not_pass_on_is_told_with_the_reason(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna"], "c.wav": ["carla"], "d.wav": ["anna", "anna "]})
    db.execute("UPDATE local_speakers SET is_ghost = false")
    db.execute(
        "UPDATE local_voices_1 SET embedding = (SELECT embedding FROM local_voices_1 WHERE asset_id = %s)"
        " WHERE asset_id = %s", (ids["a.wav"], ids["d.wav"])
    )  # fmt: skip
    number = put_in_cluster(db, [(ids[name], 0) for name in ids] + [(ids["d.wav"], 1)])
    target = at(db, ids["a.wav"], 0)
    anna = label(db, "Anna", [target], ME).speaker
    assert anna is not None
    [held] = not_passed_on(db, [target], anna)
    assert (held.cluster_id, held.reasons) == (
        number,
        {"less alike than 0.72": 1, "another voice of their asset has the name": 1},
    )
    db.execute("UPDATE cluster_members SET similarity = 0.5")
    label(db, "Anne", [target], ME)
    assert named(db)["b.wav"] == [None], "a mixed cluster passes no name on"
    anne = find_speaker(db, "Anne")
    assert anne is not None
    [held] = not_passed_on(db, [target], anne)
    assert held.reasons == {"the cluster is mixed: 5th-percentile cosine 0.50, 0.70 is needed": 4}


def test_a_name_that_was_merged_still_names_and_goes_with_the_merge(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["bob"], "c.wav": ["carla"]})
    label(db, "Robert", [at(db, ids["a.wav"], 0)], ME)
    label(db, "Bob", [at(db, ids["b.wav"], 0)], ME)
    merged = merge(db, "Robert", "Bob", ME).event_id
    done = label(db, "robert", [at(db, ids["c.wav"], 0)], ME)
    assert (done.speaker.name, done.is_new) == ("Bob", False)  # type: ignore[union-attr]
    assert named(db) == {"a.wav": ["Bob"], "b.wav": ["Bob"], "c.wav": ["Bob"]}
    undo(db, merged, ME)
    assert named(db) == {"a.wav": ["Robert"], "b.wav": ["Bob"], "c.wav": ["Robert"]}


def test_an_undo_in_the_middle_leaves_the_later_word_alone(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"]})
    events = [label(db, name, [at(db, ids["a.wav"], 0)], ME).event_id for name in ("Anna", "Bob", "Carla")]
    undo(db, events[1], ME)
    assert named(db) == {"a.wav": ["Carla"]}
    undo(db, events[2], ME)
    assert named(db) == {"a.wav": ["Anna"]}


def test_a_name_of_recognition_goes_when_nobody_has_it_any_more(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna"]})
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    db.execute(
        "INSERT INTO identifications (asset_id, local_speaker, space_id, speaker_id, score, tau, is_accepted)"
        " SELECT %s, 0, 1, speaker_id, 0.9, 0.8, true FROM speakers",
        (ids["b.wav"],),
    )
    merged = label(db, "Bob", [at(db, ids["b.wav"], 0, "segment")], ME).event_id
    undo(db, merged, ME)
    assert named(db) == {"a.wav": ["Anna"], "b.wav": ["Anna"]}
    undo(db, None, ME)
    assert named(db) == {"a.wav": [None], "b.wav": [None]}


def test_who_interjects_is_meant_by_the_time_of_the_interjection(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"]})
    segments, voices = spoken(["anna", "bob"])
    segments[0] |= {"start_ms": 0, "end_ms": 10_000}
    segments[1] |= {"start_ms": 4_000, "end_ms": 7_000}
    commit_spoken(db, ids["a.wav"], segments, voices)
    label(db, "Bob", [point_at(db, ids["a.wav"], "a.wav", 5_000)], ME)
    assert named(db) == {"a.wav": [None, "Bob"]}


def test_a_time_is_taken_as_transcripts_show_it(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"]})
    segments, voices = spoken(["anna", "bob"])
    segments[0]["end_ms"], segments[1]["start_ms"] = 4_040, 4_050
    commit_spoken(db, ids["a.wav"], segments, voices)
    assert point_at(db, ids["a.wav"], "a.wav", 4_000).start_ms == 4_050
    assert point_at(db, ids["a.wav"], "a.wav", 4_001).start_ms == 0


def test_without_a_time_there_is_one_voice_or_a_list_of_them(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna", "anna"], "b.wav": ["anna", "bob"], "c.wav": [None], "d.wav": []})
    assert point_at_voice(db, ids["a.wav"], "a.wav").start_ms == 0
    with pytest.raises(UsageError, match=r"b.wav has 2 voices.*\(A: 3.0 s of speech, best heard at 0:00.000; B: "):
        point_at_voice(db, ids["b.wav"], "b.wav")
    with pytest.raises(UsageError, match=r"no voice of c.wav was told apart"):
        point_at_voice(db, ids["c.wav"], "c.wav")
    with pytest.raises(RushesError, match=r"nobody speaks in d.wav"):
        point_at_voice(db, ids["d.wav"], "d.wav")
    with pytest.raises(RushesError, match=r"e.wav has no transcript: run `rushes ingest`"):
        point_at_voice(db, new_asset(db, "e.wav"), "e.wav")
    with pytest.raises(RushesError, match=r"nobody speaks at 3.5 s of a.wav; the nearest speech is from 0.0 to 3.0 s"):
        point_at(db, ids["a.wav"], "a.wav", STEP_MS - 500)
    with pytest.raises(UsageError, match="there is no cluster 7"):
        point_at_cluster(db, 7)


@pytest.mark.parametrize("name", ["", " \n\t", "UNKNOWN", "unknown", "A", "b", "x" * 10_000, "\0", "\u200b"])
def test_what_is_no_name_is_refused_in_one_short_line(db: Any, name: str) -> None:
    ids = archive(db, {"a.wav": ["anna"]})
    with pytest.raises(UsageError, match="is no name of a person: give 1 to 200 characters") as refused:
        label(db, name, [at(db, ids["a.wav"], 0)], ME)
    assert len(str(refused.value)) < 200
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("Ann\na\tLee ", "Ann a Lee"),
        ('O\'Neil "Bo"; DROP TABLE speakers; --', 'O\'Neil "Bo"; DROP TABLE speakers; --'),
        ("%s {} \\", "%s {} \\"),
        ("Zoe\u0308", "Zo\u00eb"),
        ("\u5c0f\u6797 \U0001f3a4", "\u5c0f\u6797 \U0001f3a4"),
        ("y" * 200, "y" * 200),
    ],
)
def test_odd_names_are_kept_on_one_line_and_found_in_any_case(db: Any, name: str, kept: str) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna"]})
    assert label(db, name, [at(db, ids["a.wav"], 0)], ME).is_new
    assert not label(db, name.swapcase(), [at(db, ids["b.wav"], 0)], ME).is_new
    assert named(db) == {"a.wav": [kept], "b.wav": [kept]}


def test_mistakes_change_nothing_and_say_the_way_out(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["bob"], "c.wav": ["carla"]})
    places = {name: at(db, ids[name], 0) for name in ids}
    with pytest.raises(UsageError, match="there is nothing to undo"):
        undo(db, None, ME)
    label(db, "Anna", [places["a.wav"]], ME)
    label(db, "Bob", [places["b.wav"]], ME)
    first = merge(db, "Anna", "Bob", ME).event_id
    before = everything(db)
    mistakes = [
        (lambda: merge(db, "Bob", "bob", ME), "Bob cannot be merged into itself"),
        (lambda: merge(db, "Anna", "Bob", ME), "Anna was merged into Bob: use that name"),
        (lambda: merge(db, "Bobb", "Bob", ME), r"nobody is called 'Bobb'; did you mean Bob\?"),
        (lambda: rename(db, "Bob", "Bob", ME), "Bob has this name already"),
        (lambda: split(db, "Bob", "anna", [places["b.wav"]], ME), "Bob cannot be split into Anna"),
        (lambda: split(db, "Bob", "Carla", [places["c.wav"]], ME), "the voice at 0.0 s of .*c.wav is nobody known"),
        (lambda: split(db, "Bob", "Carl", [places["a.wav"], places["b.wav"]], ME), "without a labelled voice"),
        (lambda: undo(db, 999, ME), "there is no event 999"),
    ]
    for mistake, message in mistakes:
        with pytest.raises(RushesError, match=message):
            mistake()
        assert everything(db) == before
    taken = undo(db, first, ME).event_id
    merge(db, "Bob", "Anna", ME)
    with pytest.raises(RushesError, match="Anna, Bob would be merged into each other: undo the other merge first"):
        undo(db, taken, ME)


def test_a_name_that_is_free_again_is_not_taken_twice(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["bob"]})
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    renamed = rename(db, "Anna", "Anne", ME).event_id
    label(db, "ANNA", [at(db, ids["b.wav"], 0)], ME)
    before = everything(db)
    with pytest.raises(RushesError, match="two people would be called anna: rename or merge one of them first"):
        undo(db, renamed, ME)
    assert everything(db) == before


def test_a_look_before_tells_what_others_decided_meanwhile(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna"], "b.wav": ["anna"]})
    target = at(db, ids["a.wav"], 0)
    seen = look(db, [target])
    label(db, "Bob", [at(db, ids["b.wav"], 0)], "somebody")
    label(db, "Anna", [target], ME, seen=seen)
    assert named(db) == {"a.wav": ["Anna"], "b.wav": ["Bob"]}
