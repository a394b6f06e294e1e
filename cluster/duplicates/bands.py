"""64-bit hashes at a small Hamming distance: lookup keys that miss none up to the bound, and counting.

A hash is four bands of 16 bits. Two hashes that differ in at most 7 bits have a band in which they differ in at most
one, so 17 keys per band, 68 in all, find every one of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BANDS = 4
NEAR_BITS = 7
# A sample this close to the last one kept shows the same still stretch; bands need it only once.
STILL_BITS = 3
MOST_PROBES = 128
_SHIFTS = np.array([48, 32, 16, 0], np.uint64)
_FLIPS = np.array([0, *(1 << bit for bit in range(16))], np.int32)

Hashes = NDArray[np.uint64]


def probes(hashes: Hashes) -> NDArray[np.int32]:
    """The keys to look up: int32 of shape (hashes, 4 bands, 17), a band's own value first."""
    bands = (hashes[:, None] >> _SHIFTS & np.uint64(0xFFFF)).astype(np.int32)
    return bands[:, :, None] ^ _FLIPS


def distances(one: Hashes, other: Hashes) -> NDArray[np.uint8]:
    """Bits in which they differ, 0 to 64; shapes broadcast."""
    return np.bitwise_count(one ^ other)


def anchors(hashes: Hashes) -> tuple[Hashes, NDArray[np.bool_]]:
    """The different hashes of a sequence in time, one of each still stretch, ascending; and which are probes.

    Probes are at most `MOST_PROBES`, spread over the whole length: of two copies one has many of them in what
    both show, however long the other is.
    """
    kept: list[int] = []
    for value in hashes.tolist():
        if not kept or (value ^ kept[-1]).bit_count() > STILL_BITS:
            kept.append(value)
    in_time = np.array(kept, np.uint64)
    spread = in_time[np.unique(np.linspace(0, len(kept) - 1, MOST_PROBES).astype(int))] if kept else in_time
    found = np.unique(in_time)
    return found, np.isin(found, spread)


def different(hashes: Hashes, enough: int) -> int:
    """How many of these are more than `NEAR_BITS` from each other, counted in order and up to `enough`."""
    found: list[int] = []
    for value in hashes.tolist():
        if all((value ^ other).bit_count() > NEAR_BITS for other in found):
            found.append(value)
            if len(found) == enough:
                break
    return len(found)
