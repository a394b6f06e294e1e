"""Films out of scenes that a perceptual hash tells apart: soft patterns that move, cards and black."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.altered import write_clip

FPS = 10
SIZE = (160, 120)


def scene(seed: int, seconds: float) -> Iterator[Any]:
    """A pattern that pans; RGB pictures, uint8 of shape (120, 160, 3)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 14, 3), np.uint8))
    wide = np.asarray(coarse.resize((SIZE[0] * 2, SIZE[1]), Image.Resampling.BICUBIC))
    for number in range(round(seconds * FPS)):
        left = number * SIZE[0] // round(max(seconds, 4) * FPS)
        yield wide[:, left : left + SIZE[0]]


def card(seed: int, seconds: float) -> Iterator[Any]:
    """A still title card."""
    picture = next(scene(seed, 1))
    return (picture for _ in range(round(seconds * FPS)))


def black(seconds: float) -> Iterator[Any]:
    """Nothing to be seen."""
    picture = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    return (picture for _ in range(round(seconds * FPS)))


def write_film(path: Path, *parts: Iterable[Any]) -> Path:
    """Encode the parts one after the other; returns `path`."""
    return write_clip(path, chain(*parts), Fraction(FPS), "mpeg4", 800_000)


def with_opening(path: Path, number: int) -> Path:
    """A film of four scenes of its own after an opening that all share: black, then a title card."""
    scenes = (scene(number * 10 + one, 5) for one in range(4))
    return write_film(path, black(2), card(7777, 3), *scenes)
