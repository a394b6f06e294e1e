"""Packing speech into windows: nothing lost, nothing twice, and every time finds its way back."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.windows import MODEL_WINDOW_MS, Window, pack, place, window_fill


def span(start, end):
    return {"start_ms": start, "end_ms": end}


@st.composite
def speech_of_an_asset(draw):
    """Sorted regions that do not overlap, some longer than a window, and the audio's length."""
    at, regions = 0, []
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 70_000)), max_size=25)):
        regions.append(span(at + gap, at + gap + length))
        at += gap + length
    return regions, at + draw(st.integers(0, 3_000))


def covered(windows):
    return [piece for window in windows for piece in window.pieces]


@settings(max_examples=150, deadline=None)
@given(speech_of_an_asset(), st.sampled_from([3.0, 10.0, 29.0]))
def test_every_moment_of_speech_lies_in_one_window_of_allowed_length(asset, limit_s):
    speech, audio_ms = asset
    windows = pack(speech, audio_ms, limit_s)
    pieces = covered(windows)
    assert all(0 < window.length_ms <= limit_s * 1000 for window in windows)
    assert all(0 <= piece.start_ms < piece.end_ms <= audio_ms for piece in pieces)
    assert all(a.end_ms <= b.start_ms for a, b in pairwise(pieces))
    for region in speech:
        inside = sum(max(0, min(p.end_ms, region["end_ms"]) - max(p.start_ms, region["start_ms"])) for p in pieces)
        assert inside == region["end_ms"] - region["start_ms"]
    assert sum(w.speech_ms for w in windows) == sum(r["end_ms"] - r["start_ms"] for r in speech)
    assert 0 <= window_fill(windows) <= limit_s * 1000 / MODEL_WINDOW_MS


@settings(max_examples=60, deadline=None)
@given(speech_of_an_asset())
def test_the_way_back_is_monotone_and_stays_in_the_asset(asset):
    speech, audio_ms = asset
    before = 0
    for window in pack(speech, audio_ms):
        times = [window.to_asset(at) for at in range(-500, window.length_ms + 500, 37)]
        assert times == sorted(times)
        assert times[0] >= before
        assert times[-1] <= audio_ms
        before = times[-1]
        assert all(window.to_asset(end) - window.to_asset(start) == end - start for start, end in window.speech)
        for piece in window.pieces:
            assert window.to_asset(piece.at_ms) == piece.start_ms


@settings(max_examples=60, deadline=None)
@given(speech_of_an_asset(), st.data())
def test_placed_words_are_ordered_apart_and_inside(asset, data):
    speech, audio_ms = asset
    times = st.floats(-200, 29_500, allow_nan=False)
    found = []
    for window in pack(speech, audio_ms):
        pairs = data.draw(st.lists(st.tuples(times, times), max_size=4))
        found.append((window, [{"start_ms": a, "end_ms": b, "text": "x"} for a, b in pairs]))
    words = place(found, speech, audio_ms)
    assert all(0 <= w["start_ms"] < w["end_ms"] <= audio_ms for w in words)
    assert all(a["end_ms"] <= b["start_ms"] for a, b in pairwise(words))
    assert all(isinstance(w["start_ms"], int) and isinstance(w["end_ms"], int) for w in words)


def test_natural_pauses_stay_and_long_ones_are_shortened():
    window = pack([span(1_000, 3_000), span(3_800, 5_000), span(15_000, 16_000)], 20_000)[0]
    assert [(p.start_ms, p.end_ms, p.at_ms) for p in window.pieces] == [
        (800, 5_500, 0),
        (14_500, 16_200, 4_700),
    ]
    assert window.speech_ms == 4_200
    assert window.to_asset(4_699) == 5_499
    assert window.to_asset(4_700) == 14_500


def test_a_window_ends_at_the_widest_pause_in_reach():
    speech = [span(at, at + 2_900) for at in range(0, 45_000, 3_000)]
    speech = [s if s["start_ms"] < 24_000 else span(s["start_ms"] + 400, s["end_ms"] + 400) for s in speech]
    first, second = pack(speech, 46_000)
    assert first.pieces[-1].end_ms == 23_900 + 200
    assert second.pieces[0].start_ms == 24_400 - 200


def test_the_last_two_windows_share_what_is_left():
    lengths = [window.length_ms for window in pack([span(0, 31_000)], 31_000)]
    assert max(lengths) < 20_000


def test_a_long_region_is_split_where_it_is_quietest():
    waveform = np.random.default_rng(0).integers(-9_000, 9_000, 40_000 * 16).astype(np.int16)
    waveform[18_000 * 16 : 18_300 * 16] = 0
    first, second = pack([span(0, 40_000)], 40_000, waveform=waveform)
    assert 18_000 <= first.pieces[-1].end_ms <= 18_300
    assert second.pieces[0].start_ms == first.pieces[-1].end_ms


def test_a_word_is_cut_to_the_speech_it_overlaps_most():
    speech = [span(0, 1_000), span(1_900, 3_000)]
    window = pack(speech, 3_000)[0]
    words = place([(window, [{"start_ms": 600.0, "end_ms": 1_950.0, "text": "blood"}])], speech, 3_000)
    assert words == [{"start_ms": 600, "end_ms": 1_000, "text": "blood"}]


def test_a_window_gives_its_own_samples_as_floats():
    waveform = np.arange(-16_000, 16_000, dtype=np.int16)
    window = pack([span(500, 1_500)], 2_000, edge_ms=0)[0]
    audio = window.cut(waveform)
    assert audio.dtype == np.float32
    assert audio.shape == (window.length_ms * 16,)
    assert audio[0] == waveform[500 * 16] / 32768


def test_no_speech_needs_no_window():
    assert pack([], 10_000) == []
    assert pack([span(20_000, 30_000)], 10_000) == []
    assert window_fill([]) == 0.0
    with pytest.raises(ValueError, match="no room"):
        pack([], 10_000, 0.4)


def test_windows_are_values():
    assert isinstance(pack([span(0, 10)], 10)[0], Window)
    assert pack([span(0, 10)], 10) == pack([span(0, 10)], 10)
