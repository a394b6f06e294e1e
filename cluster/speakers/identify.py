"""From scores to names: who an unknown voice is, or why nobody, and which of these calls were close."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cluster.speakers.scoring import Gallery, Vectors
from cluster.speakers.thresholds import MARGIN, tau_for

Block = tuple[Sequence[int], Vectors]


@dataclass(frozen=True, slots=True)
class Call:
    """Whom a voice is most alike, how much, how far ahead of the next (None: there is no other), and the limit."""

    speaker: int
    score: float
    margin: float | None
    tau: float

    @property
    def refused_by(self) -> Literal["score", "margin"] | None:
        """What keeps the name from being given; None when nothing does."""
        if self.score < self.tau:
            return "score"
        return "margin" if self.margin is not None and self.margin < MARGIN else None

    @property
    def gap(self) -> float:
        """How far it was from being called otherwise, in cosine."""
        over = self.score - self.tau
        ahead = np.inf if self.margin is None else self.margin - MARGIN
        return abs(min(over, ahead))


def call_voices(
    queries: Vectors, gallery: Iterable[Block], present: Sequence[Iterable[int]], taus: Sequence[tuple[int, float]]
) -> list[Call | None]:
    """One call per query (queries, dimension) against voices that come in blocks, those of a person in a row.

    `present` are the people that each query cannot be, because another voice of its asset is theirs; None where
    these are all the people there are. Memory is that of one block, whatever the size of the gallery.
    """
    nearest = Nearest(present)
    for people in _whole_people(queries, gallery):
        nearest.add(people)
    return nearest.calls(taus)


def closest(calls: Mapping[tuple[int, int], Call], most: int) -> list[tuple[tuple[int, int], Call]]:
    """The calls that were nearest to going the other way, the nearest first."""
    return heapq.nsmallest(most, calls.items(), key=lambda item: (item[1].gap, item[0]))


class Nearest:
    """The best and the next person of every query so far; galleries of different people arrive one after another."""

    def __init__(self, present: Sequence[Iterable[int]]) -> None:
        self._present = present
        self._people = 0
        self._best = np.full(len(present), -1, np.int64)
        self._score = np.full(len(present), -np.inf, np.float32)
        self._second = np.full(len(present), -np.inf, np.float32)

    def add(self, gallery: Gallery) -> None:
        """Take in people that no gallery before held."""
        people = gallery.people
        if not people:
            return
        self._people += len(people)
        scores = self._without_present(people, gallery.scores())
        columns = np.arange(scores.shape[1])
        best = np.argmax(scores, axis=0)
        top = scores[best, columns]
        scores[best, columns] = -np.inf
        ahead = top > self._score
        self._second = np.maximum(np.where(ahead, self._score, top), np.maximum(self._second, scores.max(axis=0)))
        self._best = np.where(ahead, np.asarray(people, np.int64)[best], self._best)
        self._score = np.where(ahead, top, self._score)

    def calls(self, taus: Sequence[tuple[int, float]]) -> list[Call | None]:
        """One call per query."""
        tau = tau_for(taus, max(1, self._people))
        return [
            Call(int(who), float(score), float(score - second) if np.isfinite(second) else None, tau)
            if np.isfinite(score)
            else None
            for who, score, second in zip(self._best, self._score, self._second, strict=True)
        ]

    def _without_present(self, people: Sequence[int], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        row_of = {who: row for row, who in enumerate(people)}
        for column, here in enumerate(self._present):
            rows = [row_of[who] for who in here if who in row_of]
            scores[rows, column] = -np.inf
        return scores


def _whole_people(queries: Vectors, blocks: Iterable[Block]) -> Iterator[Gallery]:
    gallery = Gallery(queries)
    for owners, vectors in blocks:
        cut = owners.index(owners[-1])
        if cut:
            gallery.add(vectors[:cut], owners[:cut])
            yield gallery
            gallery = Gallery(queries)
        gallery.add(vectors[cut:], owners[cut:])
    yield gallery
