"""Transcripts as files: well-formed, readable, and saying what the segments say."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.conversation import NO_WORDS, Segment, Turn, Word, segments_from_given, segments_from_turns
from cluster.errors import RushesError
from cluster.formats import FORMATS, Transcript
from cluster.formats.csv_ import COLUMNS
from cluster.formats.cues import LINE_CHARS, MAX_CUE_MS, MAX_LINES, cues
from cluster.formats.rttm import NamedTurn, parse_rttm
from cluster.speakers.who import Who

SRT_CUE = re.compile(r"(\d+)\n(\d\d+:[0-5]\d:[0-5]\d,\d{3}) --> (\d\d+:[0-5]\d:[0-5]\d,\d{3})\n((?:.+\n)+)(?:\n|\Z)")
VTT_CUE = re.compile(
    r"(\d\d+:[0-5]\d:[0-5]\d\.\d{3}) --> (\d\d+:[0-5]\d:[0-5]\d\.\d{3})\n"
    r"<v ([^\n<>]+)>((?:[^\n<>]+\n?)+)</v>\n(?:\n|\Z)"
)


def spoken(start_ms, end_ms, text, who=0, idx=0):
    parts = text.split()
    step = (end_ms - start_ms) / len(parts)
    words = tuple(
        Word(round(start_ms + at * step), round(start_ms + (at + 1) * step), part, 0.8) for at, part in enumerate(parts)
    )
    return Segment(idx, start_ms, end_ms, who, " ".join(parts), words, None)


def silent(start_ms, end_ms, who, idx=0):
    return Segment(idx, start_ms, end_ms, who, "", (), NO_WORDS)


def transcript(*segments, names=None, name="a talk.mp4"):
    numbered = [replace(segment, idx=idx) for idx, segment in enumerate(segments)]
    speakers = {
        segment.idx: Who(segment.local_speaker, None, names[segment.local_speaker], "given")
        for segment in numbered
        if segment.local_speaker in (names or {})
    }
    return Transcript(name, 9_000, "en", numbered, speakers)


def milliseconds(stamp):
    hours, minutes, seconds, rest = map(int, re.split(r"[:.,]", stamp))
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + rest


def srt_cues(text):
    found = SRT_CUE.findall(text)
    assert SRT_CUE.sub("", text) == ""
    assert [int(number) for number, *_ in found] == list(range(1, len(found) + 1))
    return [(milliseconds(start), milliseconds(end), body.splitlines()) for _, start, end, body in found]


def vtt_cues(text):
    assert text.startswith("WEBVTT\n")
    body = text.removeprefix("WEBVTT\n").removeprefix("\n")
    assert VTT_CUE.sub("", body) == ""
    return [
        (milliseconds(start), milliseconds(end), html.unescape(name), html.unescape(lines).splitlines())
        for start, end, name, lines in VTT_CUE.findall(body)
    ]


TALK = (
    spoken(0, 2_000, "Good evening, and welcome.", 0, 0),
    spoken(
        2_100,
        12_000,
        "Tonight we speak about the sea. It is deep, it is wide, and nobody owns it. " * 2,
        0,
        1,
    ),
    spoken(11_000, 11_500, "Mm.", 1, 2),
    silent(12_500, 13_000, 1, 3),
    spoken(14_000, 14_400, "Hello?", None, 4),
)


def test_srt():
    found = srt_cues(FORMATS["srt"](transcript(*TALK)))
    assert found[0] == (0, 2_000, ["Good evening, and welcome."])
    assert found[-1] == (14_000, 14_400, ["Hello?"])
    said = " ".join(line for _, _, lines in found for line in lines)
    assert sorted(said.split()) == sorted(word for segment in TALK for word in segment.text.split())


def test_vtt_has_voices():
    found = vtt_cues(FORMATS["vtt"](transcript(*TALK, names={0: "Ada Lovelace"})))
    assert {name for _, _, name, _ in found} == {"Ada Lovelace", "B", "UNKNOWN"}
    assert [lines for _, _, _, lines in found] == [lines for _, _, lines in srt_cues(FORMATS["srt"](transcript(*TALK)))]


def test_markup_in_words_and_names_stays_text():
    segment = spoken(0, 1_000, "a --> b <i>bold</i> & R&D")
    odd = transcript(segment, names={0: "Q&A <x>\nteam"})
    ((_, _, name, lines),) = vtt_cues(FORMATS["vtt"](odd))
    assert (name, lines) == ("Q&A <x> team", ["a --> b <i>bold</i> & R&D"])
    assert FORMATS["vtt"](odd).count("-->") == 1
    assert FORMATS["srt"](odd).count("-->") == 1


def test_hours_pass_99():
    late = transcript(spoken(360_000_000, 360_001_000, "late"))
    assert "100:00:00,000 --> 100:00:01,000" in FORMATS["srt"](late)
    assert "100:00:00.000 --> 100:00:01.000" in FORMATS["vtt"](late)
    assert FORMATS["txt"](late) == "[100:00:00] A: late\n"


def test_rttm_round_trip():
    text = FORMATS["rttm"](transcript(*TALK, names={1: "Jo Doe"}))
    rows = [line.split(" ") for line in text.splitlines()]
    assert {tuple(row[:3]) for row in rows} == {("SPEAKER", "a_talk.mp4", "1")}
    assert all(len(row) == 10 and row[5:7] == row[8:] == ["<NA>", "<NA>"] for row in rows)
    parsed = [(round(float(row[3]) * 1000), round((float(row[3]) + float(row[4])) * 1000), row[7]) for row in rows]
    who = {0: "A", 1: "Jo_Doe", None: "UNKNOWN"}
    assert parsed == [(item.start_ms, item.end_ms, who[item.local_speaker]) for item in TALK]


def rttm_again(text, words):
    """What an export says after an import of `text`: numbers by first appearance, names as given."""
    [(name, given)] = parse_rttm(text.splitlines(), "x.rttm").turns.items()
    numbers = {who: at for at, who in enumerate(dict.fromkeys(turn.speaker for turn in given if turn.speaker))}
    turns = [Turn(turn.start_ms, turn.end_ms, numbers.get(turn.speaker)) for turn in given]
    found = segments_from_given(turns, words)
    return FORMATS["rttm"](transcript(*found, names={at: who for who, at in numbers.items()}, name=name))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda start, length, who: Turn(start, start + length, who),
            st.integers(0, 40_000), st.integers(1, 20_000), st.sampled_from([0, 1, 2, None]),
        ),
        max_size=6,
    ),
    st.lists(
        st.builds(
            lambda start, length: Word(start, start + length, "w", 0.5), st.integers(0, 60_000), st.integers(0, 2_000)
        ),
        max_size=30,
    ),
)  # fmt: skip
def test_rttm_exported_imported_and_exported_is_identical(turns, words):
    segments = segments_from_turns(turns, words)
    for names in ({}, {0: "Jo Doe", 1: "B", 2: "A"}):
        text = FORMATS["rttm"](transcript(*segments, names=names))
        said = [word for segment in segments for word in segment.words]
        assert text == "" or rttm_again(text, said) == text


def test_given_turns_keep_their_times_and_words_outside_are_nobodys():
    words = [Word(950, 1_300, "a", 0.5), Word(2_000, 2_100, "b", 0.5), Word(40_000, 40_500, "d", 0.5)]
    turns = [Turn(1_000, 30_000, 1), Turn(0, 1_200, 0), Turn(1_000, 30_000, 0)]
    found = segments_from_given(turns, words)
    assert [(s.start_ms, s.end_ms, s.local_speaker, s.text) for s in found] == [
        (0, 1_200, 0, ""), (1_000, 30_000, 1, "a b"), (1_000, 30_000, 0, ""), (40_000, 40_500, None, "d"),
    ]  # fmt: skip
    assert [s.text_skip_reason for s in found] == [NO_WORDS, None, NO_WORDS, None]


def test_rttm_of_others_is_read():
    lines = [
        ";; made by hand", "", "SPKR-INFO f 1 <NA> <NA> <NA> unknown Ada <NA> <NA>",
        "SPEAKER f 1 2 .5 <NA> <NA> Ada <NA>", "SPEAKER\tf\t1\t0.0004\t1.9996\t<NA>\t<NA>\tUNKNOWN\t<NA>\t<NA>\r",
        "SPEAKER g 2 1.0006 1 <NA> <NA> <NA> <NA> <NA>", "SPEAKER h 1 0 1 <NA> <NA> \x1b[2JAda\x9b <NA> <NA>",
    ]  # fmt: skip
    found = parse_rttm(lines, "x.rttm")
    assert found.ignored == 1
    assert found.turns == {
        "f": [NamedTurn(0, 2_000, None), NamedTurn(2_000, 2_500, "Ada")],
        "g": [NamedTurn(1_001, 2_001, None)],
        "h": [NamedTurn(0, 1_000, "[2JAda")],
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("SPEAKER f 1 -1 2 <NA> <NA> A <NA> <NA>", "start '-1'"),
        ("SPEAKER f 1 nan 2 <NA> <NA> A <NA> <NA>", "start 'nan'"),
        ("SPEAKER f 1 1 inf <NA> <NA> A <NA> <NA>", "duration 'inf'"),
        ("SPEAKER f 1 1 1e99 <NA> <NA> A <NA> <NA>", "duration '1e99'"),
        ("SPEAKER f 1 1 0.0001 <NA> <NA> A <NA> <NA>", "shorter than a millisecond"),
        ("SPEAKER f 1 1 2 A", "9 or 10 fields, this one 6"),
        ("SPEAKER f 1 1 2 <NA> <NA> Jo Doe <NA> <NA>", "this one 11"),
    ],
)
def test_a_wrong_rttm_line_is_named_by_number(line, message):
    with pytest.raises(RushesError, match=message) as caught:
        parse_rttm([";; comment", line], "x.rttm")
    assert str(caught.value).startswith("x.rttm, line 2: ")


# What RFC 4180 calls text, without the line ends that Python's reader takes for one another inside quotes.
cells = st.text(alphabet="ab=+-@'\t,;\"\n＝ 語", max_size=8)  # noqa: RUF001


@settings(max_examples=150, deadline=None)
@given(cells, cells, cells)
def test_csv_is_harmless_in_a_spreadsheet_and_reads_back(title, channel, text):
    segment = Segment(0, 0, 1_000, None, text, (), None)
    written = FORMATS["csv"](Transcript("x", None, None, [segment], {}, "", title, channel))
    header, row = csv.reader(io.StringIO(written, newline=""))
    found = dict(zip(header, row, strict=True))
    for name, value in (("title", title), ("channel", channel), ("text", text)):
        assert not found[name].startswith(tuple("=+-@\t\n＝"))  # noqa: RUF001
        assert found[name].removeprefix("'") == value
    assert header == list(COLUMNS)
    assert written.endswith("\r\n")


def test_txt_groups_by_speaker():
    assert FORMATS["txt"](
        transcript(
            spoken(0, 1_000, "One."),
            spoken(1_000, 2_000, "Two."),
            silent(2_000, 2_500, 1),
            spoken(62_000, 63_000, "Three."),
            spoken(63_500, 64_000, "Four.", 1),
            names={1: "Jo"},
        )
    ) == ("[00:00:00] A: One. Two.\n[00:01:02] A: Three.\n[00:01:03] Jo: Four.\n")


def test_json_says_everything():
    content = json.loads(FORMATS["json"](transcript(*TALK, names={1: "Jö"})))
    assert (content["name"], content["duration_ms"], content["language"]) == ("a talk.mp4", 9_000, "en")
    assert content["speakers"] == [
        {"local_speaker": 0, "name": "A", "method": None, "score": None, "segments": 2},
        {"local_speaker": 1, "name": "Jö", "method": "given", "score": None, "segments": 2},
        {"local_speaker": None, "name": "UNKNOWN", "method": None, "score": None, "segments": 1},
    ]
    assert sum(row["segments"] for row in content["speakers"]) == len(content["segments"])
    assert content["segments"][2] == {
        "idx": 2,
        "start_ms": 11_000,
        "end_ms": 11_500,
        "local_speaker": 1,
        "speaker": "Jö",
        "method": "given",
        "score": None,
        "text": "Mm.",
        "text_skip_reason": None,
        "confidence": 0.8,
        "words": [{"start_ms": 11_000, "end_ms": 11_500, "text": "Mm.", "probability": 0.8}],
    }
    assert content["segments"][3]["confidence"] is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("srt", ""), ("vtt", "WEBVTT\n"), ("rttm", ""), ("txt", ""), ("json", None), ("csv", ",".join(COLUMNS) + "\r\n")],
)
def test_an_empty_transcript(kind, expected):
    text = FORMATS[kind](Transcript("empty", None, None, []))
    assert text == expected if expected is not None else json.loads(text)["segments"] == []


def test_cues_break_at_sentences():
    text = "It was a long day at the harbour, I said. And then the boats came back in one by one, slowly."
    first, second = cues([spoken(0, 8_000, text)])
    assert " ".join(first.lines) == "It was a long day at the harbour, I said."
    assert second.start_ms == first.end_ms
    assert [len(second.lines), len(first.lines)] == [2, 1]


def test_fast_speech_fills_two_lines_and_no_more():
    made = cues([spoken(0, 6_000, "so he said that we ought to have gone there before " * 4)])
    assert len(made) == 3
    assert [len(cue.lines) for cue in made] == [2, 2, 1]
    assert all(len(line) <= LINE_CHARS for cue in made for line in cue.lines)


def test_two_lines_are_of_like_length():
    (cue,) = cues([spoken(0, 4_000, "the quick brown fox jumps over the lazy dog again")])
    assert cue.lines == ("the quick brown fox jumps", "over the lazy dog again")


words = st.builds(
    lambda start, length, text: Word(start, start + length, text, 0.5),
    st.integers(0, 60_000),
    st.integers(0, 9_000),
    st.text(alphabet="ab,. -><&\n語", max_size=12),
)
segment_lists = st.builds(
    segments_from_turns,
    st.lists(
        st.builds(
            lambda start, length: Turn(start, start + length, 0),
            st.integers(0, 60_000),
            st.integers(1, 40_000),
        ),
        max_size=4,
    ),
    st.lists(words, max_size=40),
)


@settings(max_examples=150, deadline=None)
@given(segment_lists)
def test_cues_are_readable_and_files_well_formed(segments):
    for segment in segments:
        made = cues([segment])
        assert all(left.end_ms <= right.start_ms for left, right in pairwise(made))
        said = "".join(line for cue in made for line in cue.lines)
        assert "".join(said.split()) == "".join(segment.text.split())
        for cue in made:
            assert 0 < cue.end_ms - cue.start_ms <= MAX_CUE_MS
            assert cue.lines
            assert len(cue.lines) <= MAX_LINES
            assert all(line and len(line) <= LINE_CHARS for line in cue.lines)
    starts = [cue.start_ms for cue in cues(segments)]
    assert starts == sorted(starts)
    shown = transcript(*segments)
    assert len(srt_cues(FORMATS["srt"](shown))) == len(vtt_cues(FORMATS["vtt"](shown))) == len(starts)
    assert len(FORMATS["rttm"](shown).splitlines()) == len(segments)
    json.loads(FORMATS["json"](shown))
