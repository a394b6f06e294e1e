"""Whether one video shows what another shows: two sequences of hashes laid over each other in time.

Every sample of the shorter one votes for the times by which the longer may be ahead of it; the best offsets are
tried in full. Copies run at the same speed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.duplicates.bands import STILL_BITS, Hashes, different, distances

STEP_MS = 500
# Half a step, and the jitter of frames that lie beside the grid.
NEAR_MS = 300
# Wider than the bound of the lookup: an offset that agrees all along makes chance unlikely.
MATCH_BITS = 10
LEAST_OVERLAP = 0.5
LEAST_SHARE = 0.6
# A title card or a still with sound is one picture, however long it is shown.
LEAST_PICTURES = 3
# Where more of all pairs of samples match, whatever their times, one scene fills both: time says nothing there.
MOST_BY_CHANCE = 0.4
# Left over on either side of two copies that are the same from beginning to end.
WHOLE_LEFT = 0.02
VOTERS = 256
OFFSETS_TRIED = 12
_AT_ONCE = 16

Times = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Samples:
    """Informative samples of one video: ascending milliseconds, int32, and hashes, uint64, both (samples,)."""

    times_ms: Times
    hashes: Hashes

    def __len__(self) -> int:
        return len(self.times_ms)


@dataclass(frozen=True, slots=True)
class Alignment:
    """A moment t of b is t + `offset_ms` of a; coverages are shares of all samples of each, the distance a mean."""

    offset_ms: int
    coverage_a: float
    coverage_b: float
    distance: float


@dataclass(frozen=True, slots=True)
class _Laid:
    """The shorter laid over the longer: which samples of each match, and how many lie in the overlap.

    `ahead_ms` is by how much more the longer is ahead than the offset says.
    """

    offset_ms: int
    short: NDArray[np.bool_]
    long: NDArray[np.bool_]
    short_inside: int
    long_inside: int
    bits: int
    ahead_ms: int

    @property
    def matched(self) -> int:
        return int(self.short.sum()) + int(self.long.sum())


def align(a: Samples, b: Samples) -> Alignment | None:
    """How b lies on a when they show the same for long enough, else None; `align(b, a)` is its mirror image."""
    if not len(a) or not len(b):
        return None
    # one order whichever is asked first, so that ties fall the same way
    swapped = _rank(a) < _rank(b)
    long, short = (b, a) if swapped else (a, b)
    offsets, by_chance = _vote(short, long)
    laid = max((_lay(short, long, offset) for offset in offsets), key=_goodness, default=None)
    if laid is not None:
        finer = _lay(short, long, laid.offset_ms + laid.ahead_ms)
        laid = finer if _goodness(finer)[:2] >= _goodness(laid)[:2] else laid
    if laid is None or not _holds(laid, short, by_chance):
        return None
    of_short, of_long = float(laid.short.mean()), float(laid.long.mean())
    distance = laid.bits / int(laid.short.sum())
    if swapped:
        return Alignment(-laid.offset_ms, of_short, of_long, distance)
    return Alignment(laid.offset_ms, of_long, of_short, distance)


def _rank(samples: Samples) -> tuple[int, bytes, bytes]:
    return len(samples), samples.hashes.tobytes(), samples.times_ms.tobytes()


def _goodness(laid: _Laid) -> tuple[int, int, int]:
    return laid.matched, -laid.bits, -abs(laid.offset_ms)


def _holds(laid: _Laid, short: Samples, by_chance: float) -> bool:
    """Whether what lies over each other is the same, is enough of it, and could not be so at any other time."""
    matched = int(laid.short.sum())
    if not matched or laid.short_inside < LEAST_OVERLAP * len(laid.short):
        return False
    if matched < LEAST_SHARE * laid.short_inside or laid.long.sum() < LEAST_SHARE * laid.long_inside:
        return False
    if by_chance <= MOST_BY_CHANCE and different(short.hashes[laid.short], LEAST_PICTURES) >= LEAST_PICTURES:
        return True
    return _is_whole(laid.short) and _is_whole(laid.long) and laid.bits <= STILL_BITS * matched


def _is_whole(matches: NDArray[np.bool_]) -> bool:
    return int((~matches).sum()) <= max(1, WHOLE_LEFT * len(matches))


def _vote(short: Samples, long: Samples) -> tuple[list[int], float]:
    """The offsets that most voters agree on, in milliseconds and whole steps, of equal ones the longest overlap
    first; and the share of all pairs of samples that match."""
    last = int(short.times_ms[-1]) // STEP_MS + 1
    votes = np.zeros(last + int(long.times_ms[-1]) // STEP_MS + 2, np.int32)
    chosen, matches = np.unique(np.linspace(0, len(short) - 1, VOTERS).astype(int)), 0
    for first in range(0, len(chosen), _AT_ONCE):
        some = chosen[first : first + _AT_ONCE]
        near = distances(short.hashes[some, None], long.hashes[None, :]) <= MATCH_BITS
        matches += int(near.sum())
        for voter, row in zip(some, near, strict=True):
            ahead_ms = long.times_ms[row] - short.times_ms[voter]
            votes[np.unique((ahead_ms + STEP_MS // 2) // STEP_MS) + last] += 1
    bins = np.flatnonzero(votes)
    offsets_ms = (bins - last) * STEP_MS
    overlap_ms = np.minimum(long.times_ms[-1], offsets_ms + short.times_ms[-1]) - np.maximum(
        long.times_ms[0], offsets_ms + short.times_ms[0]
    )
    best = np.lexsort((offsets_ms, np.abs(offsets_ms), -overlap_ms, -votes[bins]))[:OFFSETS_TRIED]
    return offsets_ms[best].tolist(), matches / (len(chosen) * len(long))


def _lay(short: Samples, long: Samples, offset_ms: int) -> _Laid:
    shifted = Samples(short.times_ms + offset_ms, short.hashes)
    (of_short, ahead_ms), (of_long, _) = _nearest(shifted, long), _nearest(long, shifted)
    matches = of_short <= MATCH_BITS
    return _Laid(
        offset_ms,
        matches,
        of_long <= MATCH_BITS,
        _inside(shifted, long),
        _inside(long, shifted),
        int(of_short[matches].sum(dtype=np.int64)),
        int(np.median(ahead_ms[matches])) if matches.any() else 0,
    )


def _nearest(these: Samples, others: Samples) -> tuple[NDArray[np.uint8], Times]:
    """Of each sample the distance to the closest picture of the others within `NEAR_MS`, 64 where none is; and by
    how much that is later."""
    right = np.searchsorted(others.times_ms, these.times_ms)
    found, later_ms = np.full(len(these), 64, np.uint8), np.zeros(len(these), np.int32)
    for index in (np.maximum(right - 1, 0), np.minimum(right, len(others) - 1)):
        apart, by_ms = distances(these.hashes, others.hashes[index]), others.times_ms[index] - these.times_ms
        closer = (np.abs(by_ms) <= NEAR_MS) & (apart < found)
        found, later_ms = np.where(closer, apart, found), np.where(closer, by_ms, later_ms)
    return found, later_ms


def _inside(these: Samples, others: Samples) -> int:
    """How many samples lie in the time of the others."""
    first, last = others.times_ms[0] - NEAR_MS, others.times_ms[-1] + NEAR_MS
    return int(((these.times_ms >= first) & (these.times_ms <= last)).sum())
