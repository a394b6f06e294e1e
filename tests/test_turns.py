"""Properties of the turn maker, on made-up voices."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.speakers.turns import (
    BRIDGED_PAUSE_MS,
    FRAME_MS,
    WINDOW_MS,
    assign_speakers,
    change_points,
    cut_frames,
    turns_of,
)

spans = st.lists(st.tuples(st.integers(1, 2_000), st.integers(1, 6_000)), min_size=1, max_size=12)


def regions_from(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted disjoint regions from (pause, length) pairs."""
    regions, at = [], 0
    for pause, length in spans:
        regions.append((at + pause, at + pause + length))
        at += pause + length
    return regions


def voices(owners: np.ndarray, spread: float = 0.4, seed: int = 0) -> np.ndarray:
    """Unit vectors around one orthogonal direction per owner."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=(len(owners), 64)) * spread / 8
    vectors = np.eye(64)[owners] + noise
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def conversation(pattern: list[int], turn_ms: int = 4_000) -> tuple[np.ndarray, object]:
    regions = regions_from([(400, turn_ms)] * len(pattern))
    frames = cut_frames(regions, regions[-1][1] + 400)
    return voices(np.asarray(pattern)[frames.region]), frames


@given(spans)
def test_frames_tile_the_regions_exactly(spans):
    regions = regions_from(spans)
    duration = regions[-1][1]
    frames = cut_frames(regions, duration)
    for number, (start, end) in enumerate(regions):
        edges = frames.edges_ms[frames.region == number]
        assert (edges[0, 0], edges[-1, 1]) == (start, end)
        assert (edges[1:, 0] == edges[:-1, 1]).all()
        assert (edges[:, 0] < edges[:, 1]).all()
        assert (edges[:, 1] - edges[:, 0] <= 1.5 * FRAME_MS).all()
    assert (frames.window_ms >= 0).all()
    assert (frames.window_ms <= max(0, duration - WINDOW_MS)).all()
    assert (np.diff(frames.window_ms) >= 0).all()


@settings(max_examples=40, deadline=None)
@given(spans, st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_turns_cover_speech_once_and_bridge_only_short_pauses(spans, seed, speakers):
    regions = regions_from(spans)
    frames = cut_frames(regions, regions[-1][1])
    owners = np.random.default_rng(seed).integers(0, speakers, len(frames.region))
    vectors = voices(owners, 2.0, seed)
    labels = assign_speakers(vectors, frames)
    assert np.array_equal(labels, assign_speakers(vectors, frames))
    turns = turns_of(labels, frames)
    assert all(start < end for start, end, _ in turns)
    assert all(before[1] <= after[0] for before, after in pairwise(turns))
    covered = np.zeros(regions[-1][1] + 1, bool)
    for start, end, _ in turns:
        covered[start:end] = True
    for start, end in regions:
        assert covered[start:end].all()
    pauses = [(0, regions[0][0]), *((a[1], b[0]) for a, b in pairwise(regions))]
    for start, end in pauses:
        assert not covered[start:end].any() or (covered[start:end].all() and end - start < BRIDGED_PAUSE_MS)
    assert {turn[0] for turn in turns} <= set(frames.edges_ms[:, 0].tolist())
    first = list(dict.fromkeys(speaker for _, _, speaker in turns))
    assert first == list(range(len(first)))


def test_clear_voices_are_told_apart_and_counted():
    pattern = [0, 1, 0, 2, 1, 2, 0, 3, 1, 3]
    vectors, frames = conversation(pattern)
    labels = assign_speakers(vectors, frames)
    assert np.array_equal(labels, np.asarray(pattern)[frames.region])


def test_one_voice_is_one_speaker():
    vectors, frames = conversation([0] * 6)
    assert set(assign_speakers(vectors, frames).tolist()) == {0}


def test_a_change_without_a_pause_is_found():
    frames = cut_frames([(0, 12_000)], 12_000)
    share = np.clip((frames.edges_ms.mean(axis=1) - 6_000) / WINDOW_MS + 0.5, 0, 1)
    mixed = np.stack([1 - share, share], axis=1).astype(np.float32)
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    begins = change_points(mixed, frames.island)
    assert begins[0] == 0
    assert len(begins) == 2
    assert abs(begins[1] - 30) <= 1
    labels = assign_speakers(mixed, frames)
    assert abs(int(np.argmax(labels)) - 30) <= 1
    assert set(labels.tolist()) == {0, 1}


@pytest.mark.parametrize(("low", "high", "expected"), [(2, 2, 2), (1, 1, 1), (5, None, 5), (None, 3, 3), (4, 4, 4)])
def test_bounds_are_kept(low, high, expected):
    vectors, frames = conversation([0, 1, 2, 3, 0, 1, 2, 3])
    assert len(set(assign_speakers(vectors, frames, low, high).tolist())) == expected


def test_more_speakers_than_turns_are_not_invented():
    vectors, frames = conversation([0])
    assert set(assign_speakers(vectors, frames, 3, 3).tolist()) == {0}


def test_no_speech_gives_no_turns():
    frames = cut_frames([], 1_000)
    labels = assign_speakers(np.empty((0, 64), np.float32), frames)
    assert turns_of(labels, frames) == []


def test_a_long_pause_ends_a_turn_and_a_short_one_does_not():
    frames = cut_frames([(0, 2_000), (2_499, 4_000), (4_500, 6_000)], 6_000)
    labels = np.zeros(len(frames.region), np.int64)
    assert turns_of(labels, frames) == [(0, 4_000, 0), (4_500, 6_000, 0)]
