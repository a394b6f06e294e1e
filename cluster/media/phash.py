"""Perceptual hashes: 64 bits that stay nearly the same when a picture is scaled or compressed anew.

The bits are those of `imagehash.phash` (Zauner 2010): the 8 x 8 lowest frequencies of a 32 x 32 grey
picture, each above their median or not; the first bit is the top left coefficient.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIDE = 32
LOW = 8


def _dct_rows() -> NDArray[np.float64]:
    """The first `LOW` rows of the unnormalised DCT-II of `SIDE` points."""
    frequency, point = np.arange(LOW)[:, None], np.arange(SIDE)[None, :]
    return 2 * np.cos(np.pi * frequency * (2 * point + 1) / (2 * SIDE))


_ROWS = _dct_rows()


def phash(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Hashes of grey pictures of shape (pictures, 32, 32), as bytes of shape (pictures, 8), high bit first."""
    # not by BLAS: its buffers are more than a reader near its memory limit can give, and its order of sums varies
    half = np.einsum("fp,npq->nfq", _ROWS, grey.astype(np.float64))
    low = np.einsum("nfq,gq->nfg", half, _ROWS).reshape(-1, LOW * LOW)
    return np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1)


def hamming(one: bytes, other: bytes) -> int:
    """In how many of their 64 bits two hashes differ."""
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()
