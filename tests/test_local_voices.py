"""The voices inside one asset: overlap, ghosts, means and groups, by arithmetic that can be followed."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from cluster.speakers import local_voices as lv
from cluster.speakers.local_voices import Span, ghosts, group_inside, is_overlapped, local_voices, overlapped_ms
from tests.people import voice_of

SPANS = st.lists(
    st.tuples(st.integers(0, 300), st.integers(1, 60), st.sampled_from([None, 0, 1, 2])), min_size=1, max_size=12
).map(lambda rows: [Span(start, start + length, who) for start, length, who in rows])


@settings(max_examples=200, deadline=None)
@given(SPANS)
def test_overlap_equals_a_count_of_milliseconds(spans: list[Span]) -> None:
    def shared(i: int) -> int:
        mine = spans[i]
        return sum(
            any(o.start_ms <= ms < o.end_ms and o.local_speaker != mine.local_speaker for o in spans)
            for ms in range(mine.start_ms, mine.end_ms)
        )

    assert overlapped_ms(spans) == [shared(i) for i in range(len(spans))]


def test_a_segment_that_others_talk_over_for_half_of_it_has_no_voice_of_its_own() -> None:
    spans = [Span(0, 1000, 0), Span(500, 2000, 1), Span(5000, 6000, 0)]
    shared = overlapped_ms(spans)
    assert shared == [500, 500, 0]
    assert [is_overlapped(span, ms) for span, ms in zip(spans, shared, strict=True)] == [True, False, False]


def test_ghosts_speak_little_and_never_long() -> None:
    talk = [Span(i * 10_000, i * 10_000 + 9_000, 0) for i in range(30)]
    assert ghosts([*talk, Span(400_000, 401_500, 1)]) == {1}
    assert ghosts([*talk, Span(400_000, 402_100, 1)]) == set()
    assert ghosts([*talk, *(Span(400_000 + i * 3000, 401_900 + i * 3000, 1) for i in range(4))]) == set()
    assert ghosts([Span(0, 900, 0)]) == set()
    assert ghosts([]) == set()


def test_a_local_voice_weighs_every_clean_second_alike() -> None:
    one, other = np.eye(4, dtype=np.float32)[:2]
    spans = [Span(0, 3000, 0), Span(4000, 5000, 0), Span(6000, 8000, 0), Span(6500, 7500, 1)]
    [voice] = local_voices(spans, {0: one, 1: other, 2: -one, 3: other})
    assert (voice.local_speaker, voice.clean_ms) == (0, 4000)
    assert voice.vector == pytest.approx(np.array([3, 1, 0, 0]) / np.sqrt(10))


def test_too_little_clean_speech_and_voices_that_cancel_out_give_no_local_voice() -> None:
    one = np.eye(4, dtype=np.float32)[0]
    assert local_voices([Span(0, 1499, 0)], {0: one}) == []
    assert local_voices([Span(0, 2000, 0), Span(3000, 5000, 0)], {0: one, 1: -one}) == []
    assert local_voices([Span(0, 2000, None)], {0: one}) == []


def test_alike_voices_are_one_group_numbered_by_appearance() -> None:
    said = ["bea", "anna", "anna", "bea", "carl", "anna"]
    vectors = np.stack([voice_of(who, i) for i, who in enumerate(said)])
    assert group_inside(vectors, [3000] * len(said), 0.7) == [0, 1, 1, 0, 2, 1]
    assert group_inside(vectors, [3000, 3000, 3000, 400, 3000, 400], 0.7) == [0, 1, 1, 0, 2, 1]
    assert group_inside(vectors[:1], [300], 0.7) == [0]


def test_groups_do_not_depend_on_the_blocks_they_were_found_in(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    said = [f"p{i}" for i in rng.integers(0, 7, 240)]
    vectors = np.stack([voice_of(who, i) for i, who in enumerate(said)])
    whole = group_inside(vectors, [3000] * len(said), 0.7)
    monkeypatch.setattr(lv, "LINKED_VOICES", 50)
    assert group_inside(vectors, [3000] * len(said), 0.7) == whole
    assert len(set(whole)) == 7
