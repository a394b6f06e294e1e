"""The segments stage, under both sources, as a row meets it."""

from __future__ import annotations

import pytest

from actors.segments import Segments
from cluster.stage import check_columns, run_stage
from cluster.types import COLUMNS, ROW, rows_table, with_column

WORDS = [
    {"start_ms": 0, "end_ms": 400, "text": " Hello", "probability": 0.5},
    {"start_ms": 400, "end_ms": 900, "text": " there.", "probability": 1.0},
    {"start_ms": 1_200, "end_ms": 1_500, "text": " Yes?", "probability": 0.75},
]
TURNS = [
    {"start_ms": 0, "end_ms": 1_000, "local_speaker": 0},
    {"start_ms": 1_100, "end_ms": 1_600, "local_speaker": 1},
    {"start_ms": 1_300, "end_ms": 1_700, "local_speaker": 0},
]
UTTERANCES = [{"start_ms": 0, "end_ms": 1_700}]


def table(**columns):
    size = len(next(iter(columns.values())))
    out = rows_table([{"asset_id": row, "lanes": ["speech"]} for row in range(size)])
    for name, values in columns.items():
        out = with_column(out, name, values)
    return out


def test_diarization():
    rows = table(words=[WORDS, []], turns=[TURNS, []], utterances=[UTTERANCES, []], speech=[[], []])
    out = run_stage(Segments("diarization"), rows)
    first, second = out["segments"].to_pylist()
    assert second == []
    assert [(row["local_speaker"], row["text"], row["text_skip_reason"]) for row in first] == [
        (0, "Hello there.", None),
        (1, "Yes?", None),
        (0, "", "no_words"),
    ]
    assert [row["words"] for row in first] == [WORDS[:2], WORDS[2:], []]
    assert out.schema.field("segments").type == COLUMNS["segments"]
    assert out.column_names == [*ROW, "segments"]


def test_whisper():
    rows = table(words=[WORDS], utterances=[UTTERANCES])
    out = run_stage(Segments("whisper"), rows)
    assert out["segments"][0].as_py() == [
        {
            "idx": 0,
            "start_ms": 0,
            "end_ms": 1_700,
            "local_speaker": None,
            "text": "Hello there. Yes?",
            "words": WORDS,
            "text_skip_reason": None,
        }
    ]
    assert "turns" not in Segments("whisper").drops


@pytest.mark.parametrize(("source", "spans"), [("diarization", "turns"), ("whisper", "utterances")])
def test_columns(source, spans):
    after = check_columns([Segments(source)], [*ROW, "words", spans])
    assert after == {*ROW, "segments"}


def test_null_words_are_an_error_of_their_row():
    out = run_stage(Segments("diarization"), table(words=[WORDS, None], turns=[TURNS, TURNS]))
    assert out["error"][0].as_py() is None
    assert out["error"][1].as_py()["stage"] == "segments"
    assert "no words" in out["error"][1].as_py()["message"]
    assert out["segments"][1].as_py() is None


def test_rows_of_other_lanes_keep_their_segments():
    kept = run_stage(Segments("diarization"), table(words=[WORDS], turns=[TURNS]))["segments"][0].as_py()
    rows = table(words=[None, WORDS], turns=[None, TURNS], segments=[kept, None])
    rows = with_column(rows, "lanes", [["texts"], ["speech", "texts"]])
    out = run_stage(Segments("diarization"), rows)
    assert out["segments"].to_pylist() == [kept, kept]
    assert out["asset_id"].to_pylist() == [0, 1]


def test_identity_names_the_source():
    assert Segments("whisper").identity() != Segments("diarization").identity()
