"""Rows as the product's stages give them, out of an asset's SHA-256 and its length."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster.types import CHUNK, FRAME, SEGMENT, SHOT, VOICE, WORD

# What results/ingest.json has of an hour of talk: 386 segments and 60 chunks in 30.4 minutes.
SEGMENT_MS, SEGMENTS_PER_CHUNK = 4_725, 6
WORDS_PER_SEGMENT = 11
SPEAKERS = 2
# Six to twenty keyframes a minute are the product's default.
FRAME_MS, FRAMES_PER_SHOT = 7_500, 2
VOCABULARY = ("the", "of", "and", "to", "in", "that", "is", "was", "for", "it", "with", "people", "number", "hundred")
TEMPLATE_ROWS = 512


@dataclass(frozen=True, slots=True)
class Asset:
    """What the rows follow from."""

    sha256: str
    duration_ms: int

    @property
    def seed(self) -> int:
        """A number of this asset alone, below 2^63."""
        return int(self.sha256[:15], 16)

    def count(self, every_ms: int) -> int:
        """How many rows of this spacing it has; at least one."""
        return max(1, self.duration_ms // every_ms)

    def picks(self, count: int) -> pa.Array:
        """Rows of a template, beginning at another one for each asset."""
        return pa.array((np.arange(count) + self.seed) % TEMPLATE_ROWS)


def segments(asset: Asset) -> pa.Array:
    """One row of `segments`: two people in turns, eleven words each time."""
    count = asset.count(SEGMENT_MS)
    idx = np.arange(count, dtype=np.int32)
    said, words = _talk()
    picks = asset.picks(count)
    values = {
        "idx": idx,
        "start_ms": idx * SEGMENT_MS,
        "end_ms": np.minimum((idx + 1) * SEGMENT_MS - 200, asset.duration_ms).astype(np.int32),
        "local_speaker": (idx % SPEAKERS).astype(np.int16),
        "text": said.take(picks),
        "words": words.take(picks),
        "text_skip_reason": pa.nulls(count, pa.string()),
    }
    return _row(SEGMENT, values, count)


def voices(asset: Asset, size: int) -> pa.Array:
    """One row of `voices`: a unit vector of `size` numbers for each segment."""
    count = asset.count(SEGMENT_MS)
    start = np.arange(count, dtype=np.int64) * SEGMENT_MS * 16
    values = {
        "idx": np.arange(count, dtype=np.int32),
        "start_sample": start,
        "end_sample": start + (SEGMENT_MS - 200) * 16,
        "vector": _vectors(asset, count, size),
        "skip_reason": pa.nulls(count, pa.string()),
    }
    return _row(VOICE, values, count)


def chunks(asset: Asset, size: int) -> pa.Array:
    """One row of `chunks`: the segments by sixes, a unit vector of `size` numbers for each."""
    heard = asset.count(SEGMENT_MS)
    first = np.arange(0, heard, SEGMENTS_PER_CHUNK, dtype=np.int32)
    last = np.minimum(first + SEGMENTS_PER_CHUNK, heard).astype(np.int32) - 1
    said = _talk()[0].take(asset.picks(len(first)))
    values = {
        "idx": np.arange(len(first), dtype=np.int32),
        "first_segment": first,
        "last_segment": last,
        "start_ms": first * SEGMENT_MS,
        "end_ms": np.minimum((last + 1) * SEGMENT_MS - 200, asset.duration_ms).astype(np.int32),
        "text": pa.array([" ".join([text] * SEGMENTS_PER_CHUNK) for text in said.to_pylist()]),
        "vector": _vectors(asset, len(first), size),
    }
    return _row(CHUNK, values, len(first))


def shots(asset: Asset) -> pa.Array:
    """One row of `shots`: as long as two keyframes each, from end to end."""
    count = -(-asset.count(FRAME_MS) // FRAMES_PER_SHOT)
    start = np.arange(count, dtype=np.int32) * FRAME_MS * FRAMES_PER_SHOT
    end = np.append(start[1:], max(asset.duration_ms, 1)).astype(np.int32)
    return _row(SHOT, {"start_ms": start, "end_ms": end}, count)


def frames(asset: Asset) -> pa.Array:
    """One row of `frames`: keyframes with hashes that resemble nobody's."""
    count = asset.count(FRAME_MS)
    idx = np.arange(count, dtype=np.int32)
    hashes = np.random.default_rng(asset.seed).bytes(8 * count)
    values = {
        "idx": idx,
        "shot": (idx // FRAMES_PER_SHOT).astype(np.int32),
        "pts": (idx * FRAME_MS).astype(np.int64),
        "time_base_num": np.ones(count, np.int32),
        "time_base_den": np.full(count, 1000, np.int32),
        "t_ms": idx * FRAME_MS,
        "phash": pa.array([hashes[8 * i : 8 * i + 8] for i in idx], pa.binary(8)),
        "is_informative": np.ones(count, bool),
        "thumbnail_sha256": pa.array([asset.sha256] * count),
    }
    return _row(FRAME, values, count)


def _row(kind: pa.StructType, values: dict[str, pa.Array | NDArray[np.generic]], count: int) -> pa.Array:
    columns = [pa.array(values[field.name], field.type) for field in kind]
    return pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), pa.StructArray.from_arrays(columns, fields=kind))


def _vectors(asset: Asset, count: int, size: int) -> pa.Array:
    drawn = np.random.default_rng(asset.seed).standard_normal((count, size), np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return pa.ListArray.from_arrays(pa.array(np.arange(count + 1) * size, pa.int32()), drawn.ravel())


@cache
def _talk() -> tuple[pa.Array, pa.Array]:
    """`TEMPLATE_ROWS` sentences, and their words with times inside the segment of the same length."""
    chance = np.random.default_rng(0)
    drawn = [list(chance.choice(VOCABULARY, WORDS_PER_SEGMENT)) for _ in range(TEMPLATE_ROWS)]
    step = SEGMENT_MS // (WORDS_PER_SEGMENT + 1)
    timed = [
        [
            {"start_ms": number * step, "end_ms": (number + 1) * step, "text": str(word), "probability": 0.9}
            for number, word in enumerate(words)
        ]
        for words in drawn
    ]
    return pa.array([" ".join(words) for words in drawn]), pa.array(timed, pa.list_(WORD))
