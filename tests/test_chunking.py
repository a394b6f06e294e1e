"""Chunks: runs of segments within the token and time limits."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.chunking import chunk
from cluster.conversation import NO_WORDS, Segment, Turn, Word, segments_from_turns


def tokens(text):
    return len(text.split()) + 2


def segment(idx, start_ms, end_ms, text=""):
    spoken = text.split()
    step = (end_ms - start_ms) // max(len(spoken), 1)
    words = tuple(Word(start_ms + at * step, start_ms + (at + 1) * step, item, 0.9) for at, item in enumerate(spoken))
    return Segment(idx, start_ms, end_ms, idx % 2, text, words, None if text else NO_WORDS)


def brief(chunks):
    return [(item.first_segment, item.last_segment, item.start_ms, item.end_ms, item.text) for item in chunks]


def test_speakers_share_a_chunk_until_it_is_full():
    segments = [segment(at, 1_000 * at, 1_000 * at + 900, f"a{at} b{at}") for at in range(3)]
    assert brief(chunk(segments, tokens, 6)) == [
        (0, 1, 0, 1_900, "a0 b0 a1 b1"),
        (2, 2, 2_000, 2_900, "a2 b2"),
    ]


def test_a_pause_parts_and_a_wordless_segment_does_not():
    segments = [
        segment(0, 0, 1_000, "a"),
        segment(1, 1_100, 1_900),
        segment(2, 2_500, 3_000, "b"),
        segment(3, 4_501, 5_000, "c"),
        segment(4, 5_100, 6_000),
    ]
    assert brief(chunk(segments, tokens, 99)) == [(0, 2, 0, 3_000, "a b"), (3, 3, 4_501, 5_000, "c")]


def test_pauses_are_measured_from_the_last_voice():
    segments = [segment(0, 0, 9_000, "a"), segment(1, 500, 900, "b"), segment(2, 9_500, 9_900, "c")]
    assert brief(chunk(segments, tokens, 99)) == [(0, 2, 0, 9_900, "a b c")]


def test_a_minute_is_the_limit():
    segments = [segment(at, 25_000 * at, 25_000 * at + 24_000, f"a{at}") for at in range(3)]
    assert [item.text for item in chunk(segments, tokens, 99)] == ["a0 a1", "a2"]


def test_a_segment_over_the_token_limit_is_cut_at_words():
    segments = [
        segment(0, 0, 900, "x"),
        segment(1, 1_000, 2_000, "a b c d e"),
        segment(2, 2_100, 2_200, "y"),
    ]
    assert brief(chunk(segments, tokens, 4)) == [
        (0, 0, 0, 900, "x"),
        (1, 1, 1_000, 1_400, "a b"),
        (1, 1, 1_400, 1_800, "c d"),
        (1, 1, 1_800, 2_000, "e"),
        (2, 2, 2_100, 2_200, "y"),
    ]


def test_a_segment_over_a_minute_is_timed_by_its_words():
    long = Segment(0, 0, 90_000, None, "a b", (Word(10, 20, "a", 1), Word(70_000, 70_009, "b", 1)), None)
    assert brief(chunk([long], tokens, 99)) == [(0, 0, 10, 20, "a"), (0, 0, 70_000, 70_009, "b")]


def test_nothing_said_nothing_chunked():
    assert chunk([], tokens, 9) == []
    assert chunk([segment(0, 0, 5)], tokens, 9) == []


@st.composite
def conversations(draw):
    now, turns, words = 0, [], []
    for pause, who, steps in draw(
        st.lists(
            st.tuples(
                st.integers(-500, 2_500),
                st.integers(0, 2),
                st.lists(st.tuples(st.integers(0, 1_000), st.integers(0, 9_000)), max_size=12),
            ),
            max_size=12,
        )
    ):
        start = now = max(0, now + pause)
        for gap, length in steps:
            words.append(Word(now + gap, now + gap + length, draw(st.sampled_from([" a", " b b", " "])), 0.5))
            now += gap + length
        turns.append(Turn(start, now + 1, who))
    return segments_from_turns(turns, words)


@settings(max_examples=150, deadline=None)
@given(conversations(), st.integers(3, 12))
def test_limits_hold_and_no_word_is_lost(segments, max_tokens):
    chunks = chunk(segments, tokens, max_tokens)
    worded = [item for item in segments if item.text]

    assert [item.idx for item in chunks] == list(range(len(chunks)))
    assert " ".join(item.text for item in chunks) == " ".join(item.text for item in worded)
    for item in worded:
        assert any(part.first_segment <= item.idx <= part.last_segment for part in chunks)
    for left, right in pairwise(chunks):
        same = left.first_segment == left.last_segment == right.first_segment == right.last_segment
        assert left.last_segment < right.first_segment or (same and left.start_ms <= right.start_ms)
    single = {word.text.strip() for item in segments for word in item.words}
    for item in chunks:
        assert item.end_ms > item.start_ms
        within = tokens(item.text) <= max_tokens and item.end_ms - item.start_ms <= 60_000
        assert within or item.text in single
    assert chunk(segments, tokens, max_tokens) == chunks
