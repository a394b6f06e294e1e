"""Names reach every reading of a transcript in one way, and the counts of known and unknown add up."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from cluster.conversation import Segment
from cluster.db.check import check_corpus
from cluster.db.search import search_chunks
from cluster.db.spaces import active_space
from cluster.db.speakers.actions import label
from cluster.db.speakers.who import count_speakers, speakers_in, voices_of
from cluster.db.transcripts import name_assets, read_transcript
from cluster.db.turns import give_turns
from cluster.formats import FORMATS, Transcript
from cluster.formats.rttm import parse_rttm
from cluster.speakers.counts import Counts, describe
from cluster.speakers.who import Who, tally
from tests.archive import run
from tests.corpus_rows import PRINTS, claimed, computed_row, make_spaces, new_asset, new_run
from tests.media_factory import silence, write_wav
from tests.people import archive, at, commit_spoken, spoken
from tests.test_cli import rushes

ME = "me"


def transcript_of(conn: Any, name: str = "a") -> Transcript:
    [named] = [one for one in name_assets(conn) if one.name == name]
    found = read_transcript(conn, named)
    assert found is not None
    return found


def shown(conn: Any, name: str = "a") -> list[str]:
    found = transcript_of(conn, name)
    return [found.speaker_name(segment) for segment in found.segments]


def test_a_person_about_a_segment_wins_over_its_voice_and_that_over_imported_turns(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna", "bob", "anna", None]})
    assert shown(db) == ["A", "B", "A", "UNKNOWN"]
    text = FORMATS["rttm"](transcript_of(db)).replace(" A ", " Annie ").replace(" B ", " Bobby ")
    give_turns(db, ids["a.wav"], parse_rttm(text.splitlines(), "x").turns["a"], PRINTS)
    assert shown(db) == ["Annie", "Bobby", "Annie", "UNKNOWN"]
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    label(db, "Bob", [at(db, ids["a.wav"], 2, "segment")], ME)
    assert shown(db) == ["Anna", "Bobby", "Bob", "UNKNOWN"]
    label(db, None, [at(db, ids["a.wav"], 2, "segment")], ME)
    assert shown(db) == ["Anna", "Bobby", "UNKNOWN", "UNKNOWN"]
    methods = [who.method for who in speakers_in(db, ids["a.wav"]).values()]
    assert methods == ["human", "given", "human", None]


def test_groups_of_an_asset_without_local_speakers_are_named_too(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna", "bob", "anna", None]}, numbered=False)
    assert shown(db) == ["A", "B", "A", "UNKNOWN"]
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    assert shown(db) == ["Anna", "B", "Anna", "UNKNOWN"]


def test_every_format_says_the_name_and_how_it_is_known(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna", "bob"]})
    plain = {kind: FORMATS[kind](transcript_of(db)) for kind in FORMATS}
    assert "A: " not in plain["srt"]
    label(db, "Anna Lee", [at(db, ids["a.wav"], 0)], ME)
    said = {kind: FORMATS[kind](transcript_of(db)) for kind in FORMATS}
    assert "Anna Lee: words 0" in said["srt"]
    assert "B: " not in said["srt"]
    assert "<v Anna Lee>words 0</v>" in said["vtt"]
    assert "<NA> <NA> Anna_Lee <NA> <NA>" in said["rttm"]
    assert said["txt"].splitlines() == ["[00:00:00] Anna Lee: words 0", "[00:00:04] B: words 1"]
    rows = list(csv.DictReader(io.StringIO(said["csv"])))
    assert [(row["speaker"], row["method"], row["score"]) for row in rows] == [("Anna Lee", "human", ""), ("B", "", "")]
    content = json.loads(said["json"])
    assert [(one["speaker"], one["method"], one["score"]) for one in content["segments"]] == [
        ("Anna Lee", "human", None), ("B", None, None),
    ]  # fmt: skip
    assert [(one["name"], one["segments"]) for one in content["speakers"]] == [("Anna Lee", 1), ("B", 1)]


def test_turns_exported_imported_and_exported_again_are_identical_with_people_in_them(db: Any) -> None:
    ids = archive(db, {"a.wav": ["bob", "anna", "bob", None, "carla", "anna"]})
    label(db, "Anna Lee", [at(db, ids["a.wav"], 1)], ME)
    label(db, "Dora", [at(db, ids["a.wav"], 5, "segment")], ME)
    label(db, None, [at(db, ids["a.wav"], 2, "segment")], ME)
    text = FORMATS["rttm"](transcript_of(db))
    give_turns(db, ids["a.wav"], parse_rttm(text.splitlines(), "x").turns["a"], PRINTS)
    assert FORMATS["rttm"](transcript_of(db)) == text
    assert {who.method for who in speakers_in(db, ids["a.wav"]).values()} == {"human", "given", None}


def test_a_subtitle_of_a_named_speaker_begins_with_the_name_in_every_cue() -> None:
    segments = [Segment(0, 0, 900, 0, "hello --> you", (), None)]
    found = Transcript("x", None, None, segments, {0: Who(0, 1, "A --> B", "knn", 0.9)})
    assert FORMATS["srt"](found) == ""
    worded = transcript_with_words("one two three", Who(0, 1, "A --> B", "knn", 0.9))
    assert FORMATS["srt"](worded).splitlines()[2] == "A -> B: one two three"


def transcript_with_words(text: str, who: Who) -> Transcript:
    row = {"idx": 0, "start_ms": 0, "end_ms": 2_000, "local_speaker": 0, "text": text, "text_skip_reason": None}
    row["words"] = [
        {"start_ms": at * 500, "end_ms": at * 500 + 400, "text": word, "probability": 1.0}
        for at, word in enumerate(text.split())
    ]
    return Transcript("x", None, None, [Segment.from_row(row)], {0: who})


def test_counts_are_described_by_name_letter_and_unknown() -> None:
    anna, odd = Who(0, 7, "Anna", "human"), Who(1, 7, "Anna", "human", is_labelled=True)
    voices = tally([anna] * 59 + [odd] + [Who(1)] * 15 + [Who(2, is_ghost=True)] + [Who()] * 2)
    assert describe(voices) == "78 segments: Anna 60, B 15, C 1 (ghost), unknown 2"
    assert describe({Who(): 1}) == "1 segment: unknown 1"
    assert describe({}) == "0 segments"


def test_counts_that_do_not_add_up_say_so() -> None:
    assert Counts(5, 3, 2).describe() == "5 segments: 3 of known speakers, 2 unknown"
    assert "which are not all" in Counts(5, 3, 1).describe()


def test_a_run_whose_counts_do_not_add_up_fails(db: Any, db_url: str, tmp_path: Path, monkeypatch: Any) -> None:
    write_wav(tmp_path / "a.wav", silence(1), 16_000)
    monkeypatch.setattr("jobs.ingest.count_speakers", lambda *_: Counts(5, 3, 1))
    summary = run(db_url, [str(tmp_path)])
    assert (summary.state, summary.exit_code) == ("failed", 1)
    assert "which are not all" in summary.notes[-1]


def test_known_and_unknown_are_counted_per_corpus_and_run(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna", "bob", "anna"], "b.wav": ["carla", None]})
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    assert count_speakers(db) == Counts(5, 2, 3)
    [(run_id,)] = db.execute("SELECT run_id FROM units WHERE asset_id = %s AND lane = 'speech'", (ids["b.wav"],))
    assert count_speakers(db, run_id) == Counts(2, 0, 2)
    assert {name: sum(voices_of(db, [one])[one].values()) for name, one in ids.items()} == {"a.wav": 3, "b.wav": 2}
    assert not any(check_corpus(db).values())


def test_a_hit_says_who_begins_it_only_by_name(db: Any) -> None:
    made, run_id = make_spaces(db), new_run(db)
    asset_id = new_asset(db, "a.wav")
    from cluster.db.results import commit_row

    assert commit_row(db, run_id, computed_row(asset_id, claimed(db, run_id, asset_id)), made) == "done"
    space = active_space(db, "text") or made["text"]
    vector = [1.0, *[0.0] * 7]
    import numpy as np

    def hits() -> list[Any]:
        return search_chunks(db, space, np.asarray(vector, np.float32), "hello").hits

    assert [hit.speaker for hit in hits()] == [None]
    [(start_ms, end_ms)] = db.execute("SELECT start_ms, end_ms FROM segments WHERE idx = 0")
    from cluster.db.speakers.events import Target

    label(db, "Anna", [Target(asset_id, start_ms, end_ms)], ME)
    assert [hit.speaker for hit in hits()] == ["Anna"]


def test_ghosts_and_skipped_voices_are_shown(db: Any, db_url: str) -> None:
    [asset_id] = archive(db, {"a.wav": ["anna", "bob", None]}).values()
    db.execute("UPDATE local_speakers SET is_ghost = true WHERE local_speaker = 1")
    label(db, "Anna", [at(db, asset_id, 0)], ME)
    told = rushes("show", "a.wav", url=db_url).stdout
    assert "3 segments: Anna 1, B 1 (ghost), unknown 1" in told
    assert "segments without a voice print: 1 too_short" in told
    assert "0:00:00.0-0:00:03.0 Anna: words 0" in told
    content = json.loads(rushes("show", "a.wav", "--json", url=db_url).stdout)
    assert content["skipped_voices"] == {"too_short": 1}
    assert [one["speaker"] for one in content["segments"]] == ["Anna", "B", "UNKNOWN"]
    assert sum(one["segments"] for one in content["speakers"]) == 3
    assert "Anna 1, B 1 (ghost)" in rushes("status", url=db_url).stdout


def test_names_outlive_another_segmentation_in_exports(db: Any) -> None:
    ids = archive(db, {"a.wav": ["anna", "bob"]})
    label(db, "Anna", [at(db, ids["a.wav"], 0)], ME)
    commit_spoken(db, ids["a.wav"], *spoken(["x", "y", "x"], start_ms=500))
    assert shown(db) == ["Anna", "B", "Anna"]
