"""Which scores count as the same person: shipped per voice model, or calibrated on the archive itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.errors import RushesError

MARGIN = 0.05


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Cosines between unit vectors of one voice space.

    `taus`: (people in the gallery, score accepted from), ascending; the more people, the likelier is a chance
    match. `inside`: average linkage inside one asset. `cluster`: least score of a member of a cluster against the
    labelled ones, when it is given their name. `cohesion`: a cluster whose 5th-percentile cosine to its centroid
    is lower holds several people and passes no name on. `alike`: least mean cosine among the members of a cluster;
    `same`: mean cosine between two clusters from which on they are one; both with endless speech. `noise_ms`: with
    t ms of speech each the cosine of two recordings is t / (t + noise_ms) of that. `is_estimate`: taken from figures
    published for the model, not measured.
    """

    taus: tuple[tuple[int, float], ...]
    inside: float
    cluster: float
    cohesion: float
    alike: float
    same: float
    noise_ms: float
    is_estimate: bool = False


# GE2E: scores that 1 % of strangers reach, up to 20 people among 40 in five kinds of recordings
# (benchmarks/speaker_id.py), from 50 on in LibriSpeech. pyannote: the published range of equal-error thresholds of
# WeSpeaker ResNet34, with the same growth.
SHIPPED: Mapping[str, Thresholds] = {
    "ge2e": Thresholds(
        ((3, 0.77), (5, 0.775), (10, 0.785), (20, 0.795), (50, 0.82), (200, 0.83)),
        inside=0.70,
        cluster=0.72,
        cohesion=0.70,
        alike=0.82,
        same=0.88,
        noise_ms=500,
    ),
    "pyannote": Thresholds(
        ((10, 0.45), (50, 0.50), (200, 0.55)),
        inside=0.45,
        cluster=0.45,
        cohesion=0.45,
        alike=0.50,
        same=0.60,
        noise_ms=500,
        is_estimate=True,
    ),
}


def shipped_thresholds(engine: str) -> Thresholds:
    """Those of the voice model behind `engine`; `RushesError` when none are known."""
    if engine not in SHIPPED:
        raise RushesError(f"no thresholds are known for voices of the engine {engine!r}: known: {', '.join(SHIPPED)}")
    return SHIPPED[engine]


def tau_for(taus: Sequence[tuple[int, float]], people: int) -> float:
    """The score accepted from among `people`: on the line between the sizes measured, over their logarithm.

    Below the smallest size its own value stands; above the largest the last slope goes on.
    """
    if people <= taus[0][0] or len(taus) == 1:
        return taus[0][1]
    right = next((i for i, (size, _) in enumerate(taus) if size >= people), len(taus) - 1)
    (low, at_low), (high, at_high) = taus[right - 1], taus[right]
    slope = (at_high - at_low) / math.log(high / low)
    return at_low + slope * math.log(people / low)
