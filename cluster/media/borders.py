"""Uniform borders of a picture: letterbox bars, frames, margins.

A border is cut only where it ends sharply: a clear sky drifts into its picture, and would be cut at
another height in every copy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Luma, of 255: how far the pixels of a border spread, its lines drift, and what follows stands off.
SPREAD = 2.0
DRIFT = 2.0
STEP = 8.0
LEAST_AREA = 0.25
# Lines behind a border: the first one may be half of it still.
FOLLOWING = 3


def content_box(grey: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right (half open) of what is left of a picture of shape (height, width).

    The whole picture when less than a quarter of its area would be left.
    """
    height, width = grey.shape
    luma = grey.astype(np.float32)
    top, bottom = _depth(luma), height - _depth(luma[::-1])
    if bottom <= top:
        return 0, height, 0, width
    columns = luma[top:bottom].T
    left, right = _depth(columns), width - _depth(columns[::-1])
    if (bottom - top) * (right - left) < LEAST_AREA * height * width or right <= left:
        return 0, height, 0, width
    return top, bottom, left, right


def _depth(lines: NDArray[np.float32]) -> int:
    """How many of the first lines are border."""
    means = lines.mean(axis=1)
    border = (lines.std(axis=1) <= SPREAD) & (np.abs(means - means[0]) <= DRIFT)
    depth = int(np.argmin(border)) if not border.all() else 0
    if depth == 0:
        return 0
    beyond = lines[depth : depth + FOLLOWING]
    return depth if np.abs(beyond - means[0]).mean(axis=1).max() >= STEP else 0
