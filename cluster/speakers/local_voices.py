"""The voices inside one asset: which segments are clean, what each voice sounds like, and which is no person.

A local speaker's vector is the duration-weighted mean of the unit vectors of its clean segments, made unit
length again; a cosine to it weighs every second of clean speech alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# A segment that others talk over for this share of it says nothing of its own voice.
OVERLAPPED_SHARE = 0.5
CLEAN_SHARE = 0.1
LEAST_CLEAN_MS = 1_500
GHOST_SHARE = 0.02
GHOST_SEGMENT_MS = 2_000
# Above this many voices linkage is done in blocks: its memory grows with the square.
LINKED_VOICES = 2_000
LINKED_FROM_MS = 1_000

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Span:
    """A segment as far as voices go."""

    start_ms: int
    end_ms: int
    local_speaker: int | None

    @property
    def length_ms(self) -> int:
        """How long it is."""
        return self.end_ms - self.start_ms


@dataclass(frozen=True, slots=True)
class LocalVoice:
    """What a local speaker sounds like: a unit vector of shape (dimension,) from `clean_ms` of speech."""

    local_speaker: int
    clean_ms: int
    vector: Vectors


def overlapped_ms(spans: Sequence[Span]) -> list[int]:
    """How much of each span other local speakers talk over; a missing number is a speaker too."""
    order = sorted(range(len(spans)), key=lambda i: spans[i].start_ms)
    shared: list[list[tuple[int, int]]] = [[] for _ in spans]
    active: list[int] = []
    for i in order:
        active = [j for j in active if spans[j].end_ms > spans[i].start_ms]
        for j in active:
            if spans[j].local_speaker != spans[i].local_speaker:
                both = (spans[i].start_ms, min(spans[i].end_ms, spans[j].end_ms))
                shared[i].append(both)
                shared[j].append(both)
        active.append(i)
    return [union_ms(pieces) for pieces in shared]


def is_overlapped(span: Span, shared_ms: int) -> bool:
    """Whether so much of the span is talked over that its vector would be of several voices."""
    return shared_ms >= OVERLAPPED_SHARE * span.length_ms


def ghosts(spans: Sequence[Span]) -> set[int]:
    """Local speakers with under 2 % of the speech and no segment over 2 s: no people, in most cases.

    Source: noScribe, pull request 341, found 69 to 83 % of such labels to be false.
    """
    speech: Counter[int] = Counter()
    longest: dict[int, int] = {}
    for span in spans:
        if span.local_speaker is not None:
            speech[span.local_speaker] += span.length_ms
            longest[span.local_speaker] = max(longest.get(span.local_speaker, 0), span.length_ms)
    least_ms = GHOST_SHARE * speech.total()
    return {who for who, ms in speech.items() if ms < least_ms and longest[who] <= GHOST_SEGMENT_MS}


def local_voices(spans: Sequence[Span], vectors: Mapping[int, Vectors]) -> list[LocalVoice]:
    """The voice of every local speaker with at least 1.5 s of clean speech, by number.

    `vectors` are unit vectors of shape (dimension,) by position in `spans`; segments without one do not count.
    """
    sums: dict[int, NDArray[np.float64]] = {}
    clean: Counter[int] = Counter()
    for i, shared_ms in enumerate(overlapped_ms(spans)):
        span, vector = spans[i], vectors.get(i)
        if span.local_speaker is None or vector is None or shared_ms > CLEAN_SHARE * span.length_ms:
            continue
        weighted = np.asarray(vector, np.float64) * span.length_ms
        sums[span.local_speaker] = sums.get(span.local_speaker, 0) + weighted
        clean[span.local_speaker] += span.length_ms
    return [
        LocalVoice(who, clean[who], unit)
        for who in sorted(sums)
        if clean[who] >= LEAST_CLEAN_MS and (unit := _unit(sums[who])) is not None
    ]


def group_inside(vectors: Vectors, lengths_ms: Sequence[int], same_cosine: float) -> list[int]:
    """One number per voice of an asset, alike voices together, numbered by first appearance.

    Average linkage over the voices of a second or more, cut at `same_cosine`: first in blocks, then over the
    means of what the blocks gave. Shorter voices join the group that is nearest to them.
    `vectors` (voices, dimension) are of unit length.
    """
    long = np.flatnonzero(np.asarray(lengths_ms) >= LINKED_FROM_MS)
    if not len(long):
        long = np.arange(len(vectors))
    labels = np.empty(len(long), np.int64)
    groups = 0
    for start in range(0, len(long), LINKED_VOICES):
        block = _linked(vectors[long[start : start + LINKED_VOICES]], same_cosine)
        labels[start : start + LINKED_VOICES] = block + groups
        groups += int(block.max()) + 1
    if len(long) > LINKED_VOICES:
        labels = _merged(vectors[long], labels, same_cosine)
    means = _means(vectors[long], labels)
    nearest = np.argmax(vectors @ means.T, axis=1)
    nearest[long] = labels
    numbers: dict[int, int] = {}
    return [numbers.setdefault(int(label), len(numbers)) for label in nearest]


def _merged(vectors: Vectors, labels: NDArray[np.int64], same_cosine: float) -> NDArray[np.int64]:
    while True:
        means = _means(vectors, labels)
        merged = _linked(means[:LINKED_VOICES], same_cosine)
        rest = np.arange(len(means) - len(merged)) + int(merged.max()) + 1
        step = np.concatenate([merged, rest])
        labels = step[labels]
        if len(rest) == 0 or len(np.unique(step)) == len(step):
            return labels


def _linked(vectors: Vectors, same_cosine: float) -> NDArray[np.int64]:
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(vectors) < 2:
        return np.zeros(len(vectors), np.int64)
    tree = linkage(vectors.astype(np.float64), "average", "cosine")
    return fcluster(tree, 1 - same_cosine, "distance").astype(np.int64) - 1


def _means(vectors: Vectors, labels: NDArray[np.int64]) -> Vectors:
    sums = np.zeros((int(labels.max()) + 1, vectors.shape[1]), np.float64)
    np.add.at(sums, labels, vectors)
    return (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _unit(vector: NDArray[np.float64]) -> Vectors | None:
    norm = float(np.linalg.norm(vector))
    return (vector / norm).astype(np.float32) if norm > 1e-6 else None


def union_ms(pieces: list[tuple[int, int]]) -> int:
    """How long the pieces are together, what several share counted once."""
    edges = sorted({edge for piece in pieces for edge in piece})
    return sum(b - a for a, b in pairwise(edges) if any(start <= a and b <= end for start, end in pieces))
