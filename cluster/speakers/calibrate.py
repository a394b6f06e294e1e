"""From which score on a stranger would be taken for somebody: measured among the people of the archive itself.

Each voice plays a stranger: it is compared with galleries of other people, drawn by a seed, and the score that a
given share of strangers reaches is the least one to accept.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.speakers.scoring import BEST, Gallery, Vectors

LEAST_SPEAKERS = 20
FPIR = 0.01
SIZES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
DRAWS = 50
MOST_STRANGERS = 5_000
QUERY_BLOCK = 512
SEED = 7


@dataclass(frozen=True, slots=True)
class Voices:
    """Labelled voices: unit vectors (voices, dimension), whose each is, and in which asset it speaks."""

    vectors: Vectors
    owners: NDArray[np.int64]
    assets: NDArray[np.int64]

    @property
    def speakers(self) -> int:
        """How many people there are."""
        return len(np.unique(self.owners))


def impostor_taus(voices: Voices, fpir: float = FPIR) -> list[tuple[int, float]]:
    """(people in the gallery, score that a share `fpir` of strangers reaches), ascending in both.

    Sizes go up to one less than there are people. Every person weighs the same, however many voices of theirs
    there are. The same voices give the same result.
    """
    rng = np.random.default_rng(SEED)
    people = np.unique(voices.owners)
    sizes = sorted({size for size in SIZES if size < len(people)} | {len(people) - 1})
    drawn = {size: [rng.choice(len(people), size, replace=False) for _ in range(DRAWS)] for size in sizes}
    strangers = np.arange(len(voices.owners))
    if len(strangers) > MOST_STRANGERS:
        strangers = np.sort(rng.choice(strangers, MOST_STRANGERS, replace=False))
    reached: dict[int, list[NDArray[np.float32]]] = {size: [] for size in sizes}
    for start in range(0, len(strangers), QUERY_BLOCK):
        block = strangers[start : start + QUERY_BLOCK]
        scores = _impostor_scores(voices, people, block)
        for size in sizes:
            reached[size].append(np.stack([scores[rows].max(axis=0) for rows in drawn[size]]))
    mine = np.searchsorted(people, voices.owners[strangers])
    weights = 1 / np.bincount(mine, minlength=len(people))[mine]
    taus = []
    for size in sizes:
        outside = np.stack([~np.isin(mine, rows) for rows in drawn[size]])
        best = np.concatenate(reached[size], axis=1)
        heard = outside & np.isfinite(best)
        taus.append(_reached_by(best[heard], np.broadcast_to(weights, best.shape)[heard], fpir))
    return list(zip(sizes, np.maximum.accumulate(taus).tolist(), strict=True))


def _impostor_scores(voices: Voices, people: NDArray[np.int64], block: NDArray[np.int64]) -> NDArray[np.float32]:
    """(people, strangers) the score of each against each, by voices of other assets; -inf where there are none."""
    gallery = Gallery(voices.vectors[block])
    gallery.add(voices.vectors, voices.owners.tolist())
    scores = gallery.scores()[np.argsort(gallery.people)]
    in_asset: defaultdict[int, list[int]] = defaultdict(list)
    for row, asset in enumerate(voices.assets.tolist()):
        in_asset[asset].append(row)
    of = {who: np.flatnonzero(voices.owners == who) for who in _sharing(voices, block, in_asset)}
    for column, stranger in enumerate(block.tolist()):
        asset = voices.assets[stranger]
        for who in {int(voices.owners[row]) for row in in_asset[int(asset)]} - {int(voices.owners[stranger])}:
            elsewhere = of[who][voices.assets[of[who]] != asset]
            cosines = np.sort(voices.vectors[elsewhere] @ voices.vectors[stranger])[-BEST:]
            scores[np.searchsorted(people, who), column] = cosines.mean() if len(cosines) else -np.inf
    return scores


def _sharing(voices: Voices, block: NDArray[np.int64], in_asset: dict[int, list[int]]) -> set[int]:
    assets = set(voices.assets[block].tolist())
    return {int(voices.owners[row]) for asset in assets if len(in_asset[asset]) > 1 for row in in_asset[asset]}


def _reached_by(scores: NDArray[np.float32], weights: NDArray[np.float64], share: float) -> float:
    """The least score that at most `share` of the weight lies above."""
    order = np.argsort(-scores, kind="stable")
    above = np.cumsum(weights[order]) / weights.sum()
    place = min(int(np.searchsorted(above, share, "right")), len(order) - 1)
    return float(np.nextafter(scores[order[place]], np.float32(np.inf)))


def why_not(speakers: int) -> str | None:
    """The reason why this many people do not do for a calibration; None when they do."""
    if speakers >= LEAST_SPEAKERS:
        return None
    return (
        f"{speakers} people have a labelled voice, and {LEAST_SPEAKERS} are needed: among fewer the score that one "
        "stranger in a hundred reaches cannot be told from chance; label more people, the shipped thresholds stay "
        "in force until then"
    )
