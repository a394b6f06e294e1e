"""Lengths of recordings as archives have them: many short ones, a few of many hours.

A log-normal distribution cut at `LONGEST_S`, of the spread that a random sample of YouTube has (median 64 s, mean
615 s: McGrady et al., Dialing for Videos, Journal of Quantitative Description 3, 2023; the distribution behind these
two figures is assumed). It is scaled to the wanted mean, so that 5,000 assets are the archive of 1,200 hours.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import NormalDist, mean

SAMPLE_MEDIAN_S, SAMPLE_MEAN_S = 64.0, 615.0
# A log-normal mean is its median times exp(sigma^2 / 2).
SIGMA = math.sqrt(2 * math.log(SAMPLE_MEAN_S / SAMPLE_MEDIAN_S))
MEAN_S = 1_200 * 3_600 / 5_000
# What the site takes at most; recorders of meetings and days stop there, too.
LONGEST_S = 12 * 3_600.0
SHORTEST_S = 1.0
ROUNDS = 60


def lengths_s(count: int, seed: int, mean_s: float = MEAN_S) -> list[float]:
    """`count` lengths in seconds with exactly this mean, longest first.

    One from each of `count` equal parts of the distribution: its tail is always there, a seed moves it a little.
    """
    chance = random.Random(seed)
    drawn = sorted((NormalDist().inv_cdf((part + chance.random()) / count) for part in range(count)), reverse=True)
    return _scaled([math.exp(SIGMA * value) for value in drawn], mean_s)


def _scaled(drawn: Sequence[float], mean_s: float) -> list[float]:
    """The lengths times the one factor that gives the mean after the cut."""
    if not SHORTEST_S <= mean_s <= LONGEST_S:
        raise ValueError(f"a mean of {mean_s} s lies outside {SHORTEST_S} to {LONGEST_S} s")
    low, high = 0.0, LONGEST_S / drawn[-1]
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        if mean(_cut(drawn, middle)) < mean_s:
            low = middle
        else:
            high = middle
    return _cut(drawn, high)


def _cut(drawn: Sequence[float], factor: float) -> list[float]:
    return [min(LONGEST_S, max(SHORTEST_S, value * factor)) for value in drawn]
