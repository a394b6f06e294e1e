"""Turns and words to segments: assignment, splitting, counts."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.conversation import (
    MAX_PAUSE_MS,
    MAX_SEGMENT_MS,
    Segment,
    Turn,
    Word,
    join_words,
    segments_from_turns,
    segments_from_utterances,
    speaker_letter,
)


def word(start_ms, end_ms, text="w"):
    return Word(start_ms, end_ms, text, 0.9)


def brief(segments):
    return [(item.start_ms, item.end_ms, item.local_speaker, item.text) for item in segments]


def test_a_word_goes_to_the_turn_it_overlaps_most():
    turns = [Turn(0, 1_000, 0), Turn(900, 2_000, 1)]
    segments = segments_from_turns(turns, [word(800, 1_000, "a"), word(850, 1_100, "b")])
    assert brief(segments) == [(0, 1_000, 0, "a"), (850, 2_000, 1, "b")]


def test_a_tie_goes_to_the_earlier_turn_and_its_segment_grows():
    turns = [Turn(1_000, 2_000, 1), Turn(0, 1_000, 0)]
    assert brief(segments_from_turns(turns, [word(900, 1_100, "a")])) == [
        (0, 1_100, 0, "a"),
        (1_000, 2_000, 1, ""),
    ]


def test_words_outside_every_turn_form_segments_of_nobody():
    words = [word(0, 100, "a"), word(1_000, 1_100, "b"), word(2_100, 2_200, "c"), word(5_000, 5_100, "d")]
    segments = segments_from_turns([Turn(4_900, 5_200, 3)], words)
    assert brief(segments) == [
        (0, 1_100, None, "a b"),
        (2_100, 2_200, None, "c"),
        (4_900, 5_200, 3, "d"),
    ]


def test_a_word_in_a_turn_parts_the_words_around_it():
    words = [word(0, 100, "a"), word(400, 500, "b"), word(800, 900, "c")]
    segments = segments_from_turns([Turn(400, 500, 0)], words)
    assert brief(segments) == [(0, 100, None, "a"), (400, 500, 0, "b"), (800, 900, None, "c")]


def test_a_word_that_nearly_touches_a_turn_is_part_of_it():
    turns = [Turn(1000, 2000, 0), Turn(2400, 3000, 1)]
    segments = segments_from_turns(turns, [word(800, 950, "a"), word(2050, 2100, "b"), word(3300, 3400, "c")])
    assert brief(segments) == [(800, 2100, 0, "a b"), (2400, 3000, 1, ""), (3300, 3400, None, "c")]


def test_overlapping_turns_stay_apart_and_the_wordless_one_stays():
    segments = segments_from_turns([Turn(0, 3_000, 0), Turn(1_000, 1_500, 1)], [word(0, 900, "a")])
    assert brief(segments) == [(0, 3_000, 0, "a"), (1_000, 1_500, 1, "")]
    assert [item.text_skip_reason for item in segments] == [None, "no_words"]


def test_zero_length_words_and_turns_have_a_place():
    assert brief(segments_from_turns([Turn(0, 500, 0)], [word(300, 300, "a")])) == [(0, 500, 0, "a")]
    assert brief(segments_from_turns([Turn(5, 5, 0)], [word(900, 900, "a")])) == [
        (5, 6, 0, ""),
        (900, 901, None, "a"),
    ]


def test_a_long_pause_is_cut_in_its_middle():
    words = [word(100, 1_000, "a"), word(2_500, 3_000, "b"), word(4_600, 5_000, "c")]
    segments = segments_from_turns([Turn(0, 6_000, 2)], words)
    assert brief(segments) == [(0, 3_800, 2, "a b"), (3_800, 6_000, 2, "c")]


def test_a_long_turn_is_cut_at_its_largest_central_gap():
    words = [word(1_000 * at, 1_000 * at + (500 if at == 12 else 900)) for at in range(20)]
    segments = segments_from_turns([Turn(0, 20_000, 0)], words)
    assert [(item.start_ms, item.end_ms) for item in segments] == [(0, 12_750), (12_750, 20_000)]


def test_no_cut_goes_through_a_word():
    overlapping = [word(0, 20_100, "a"), word(20_000, 40_000, "b")]
    assert brief(segments_from_turns([Turn(0, 40_000, 0)], overlapping)) == [(0, 40_000, 0, "a b")]
    nested = [word(0, 10_000, "a"), word(1_000, 2_000, "b"), word(5_000, 6_000, "c")]
    assert brief(segments_from_turns([Turn(0, 10_000, 0)], nested)) == [(0, 10_000, 0, "a b c")]


def test_no_cut_leaves_an_empty_piece():
    words = [word(0, 0, "a"), word(0, 40_000, "b")]
    assert brief(segments_from_turns([Turn(0, 40_000, 0)], words)) == [(0, 40_000, 0, "a b")]


def test_a_long_turn_without_words_stays_whole():
    assert brief(segments_from_turns([Turn(0, 90_000, 0)], [])) == [(0, 90_000, 0, "")]


def test_utterances_know_no_speaker():
    segments = segments_from_utterances([Turn(0, 40_000, 7)], [word(0, 20_000, "a"), word(20_200, 40_000, "b")])
    assert brief(segments) == [(0, 20_100, None, "a"), (20_100, 40_000, None, "b")]


def test_text_keeps_the_spacing_of_the_recogniser():
    assert join_words([word(0, 1, " twenty"), word(1, 2, "-one"), word(2, 3, " men\n")]) == "twenty-one men"
    assert join_words([word(0, 1, "twenty"), word(1, 2, "men")]) == "twenty men"
    assert join_words([word(0, 1, "今日"), word(1, 2, "は"), word(2, 3, "Ray"), word(3, 4, "で")]) == "今日は Ray で"
    assert join_words([word(0, 1, "  ")]) == join_words([]) == ""


def test_letters():
    assert [speaker_letter(number) for number in (0, 25, 26, 27, 701, 702)] == [
        "A",
        "Z",
        "AA",
        "AB",
        "ZZ",
        "AAA",
    ]
    with pytest.raises(ValueError, match="-1"):
        speaker_letter(-1)


def test_rows_round_trip():
    segments = segments_from_turns([Turn(0, 10, None), Turn(5, 9, 1)], [word(0, 3, "a")])
    assert [Segment.from_row(item.to_row()) for item in segments] == segments


times = st.integers(0, 120_000)
lengths = st.one_of(st.integers(0, 3_000), st.integers(0, 70_000))
turn_lists = st.lists(
    st.builds(
        lambda start, length, who: Turn(start, start + length, who),
        times,
        lengths,
        st.one_of(st.none(), st.integers(0, 3)),
    ),
    max_size=8,
)
loose_words = st.lists(
    st.builds(
        lambda start, length, text: Word(start, start + length, text, 0.5),
        times,
        st.integers(0, 2_500),
        st.sampled_from([" a", " b", "c", ""]),
    ),
    max_size=30,
)


@st.composite
def steady_words(draw):
    now, words = draw(times), []
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 2_500), st.integers(0, 900)), max_size=60)):
        words.append(Word(now + gap, now + gap + length, f"w{len(words)}", 0.5))
        now += gap + length
    return words


word_lists = st.one_of(loose_words, steady_words())


def union_ms(spans):
    total = reached = 0
    for start, end in sorted(spans):
        total += max(0, end - max(start, reached))
        reached = max(reached, end)
    return total


@settings(max_examples=150, deadline=None)
@given(turn_lists, word_lists, st.randoms())
def test_nothing_is_lost_and_everything_adds_up(turns, words, random):
    segments = segments_from_turns(turns, words)

    assert Counter(w for item in segments for w in item.words) == Counter(words)
    assert [item.idx for item in segments] == list(range(len(segments)))
    assert {segment.local_speaker for segment in segments} >= {turn.local_speaker for turn in turns}
    for item in segments:
        assert item.end_ms > item.start_ms
        assert (item.text == "") == (item.text_skip_reason == "no_words")
        assert all(item.start_ms <= w.start_ms and w.end_ms <= item.end_ms for w in item.words)
    keys = [(item.start_ms, item.end_ms, item.local_speaker is None, item.local_speaker or 0) for item in segments]
    assert keys == sorted(keys)
    for who in {turn.local_speaker for turn in turns}:
        before = [(turn.start_ms, turn.end_ms) for turn in turns if turn.local_speaker == who]
        after = [(item.start_ms, item.end_ms) for item in segments if item.local_speaker == who]
        assert union_ms(before + after) == union_ms(after)
    shuffled = random.sample(turns, len(turns))
    assert segments_from_turns(shuffled, words) == segments


@settings(max_examples=100, deadline=None)
@given(steady_words(), st.integers(0, 2_000))
def test_pieces_tile_the_turn_and_are_subtitle_sized(words, margin):
    if not words:
        return
    start = max(0, words[0].start_ms - margin)
    segments = segments_from_turns([Turn(start, words[-1].end_ms + margin + 1, 0)], words)
    edges = [(item.start_ms, item.end_ms) for item in segments]
    assert edges[0][0] == start
    assert edges[-1][1] == words[-1].end_ms + margin + 1
    assert all(left[1] == right[0] for left, right in pairwise(edges))
    for item in segments:
        assert item.end_ms - item.start_ms <= MAX_SEGMENT_MS or len(item.words) < 2
        inner = pairwise(item.words)
        assert all(right.start_ms - left.end_ms <= MAX_PAUSE_MS for left, right in inner)


def test_hours_of_talk_do_not_take_quadratic_time():
    words = [Word(200 * at, 200 * at + 180, " w", 0.5) for at in range(40_000)]
    turns = [Turn(0, 8_000_000, 0), *(Turn(5_000 * at, 5_000 * at + 4_000, 1) for at in range(1_600))]
    assert sum(len(item.words) for item in segments_from_turns(turns, words)) == len(words)
