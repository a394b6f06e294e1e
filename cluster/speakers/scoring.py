"""How alike a voice is to the known people: the mean of its best three cosines to each one's voices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BEST = 3

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Matches:
    """For each query: whom it is most alike (`best`), that score, and that of the next person (NaN: no other)."""

    best: NDArray[np.int64]
    score: NDArray[np.float32]
    second: NDArray[np.float32]

    @property
    def margin(self) -> NDArray[np.float32]:
        """How far the best is ahead; NaN without another."""
        return self.score - self.second


class Gallery:
    """Scores of queries against people whose voices arrive in blocks: only the best three of each are kept."""

    def __init__(self, queries: Vectors) -> None:
        """`queries` (queries, dimension) are of unit length."""
        self._queries = queries
        self._people: dict[int, int] = {}
        self._best = np.empty((0, BEST, len(queries)), np.float32)

    def add(self, vectors: Vectors, owners: Iterable[int]) -> None:
        """Take in voices (voices, dimension) of unit length and whose each is."""
        of = np.asarray([self._people.setdefault(owner, len(self._people)) for owner in owners], np.int64)
        if not len(of):
            return
        grown = np.full((len(self._people) - len(self._best), BEST, len(self._queries)), -np.inf, np.float32)
        self._best = np.concatenate([self._best, grown])
        scores = vectors @ self._queries.T
        order = np.argsort(of, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(of[order])) + 1):
            person = of[rows[0]]
            together = np.concatenate([self._best[person], scores[rows]])
            self._best[person] = -np.partition(-together, BEST - 1, axis=0)[:BEST]

    @property
    def people(self) -> list[int]:
        """Whoever has a voice here, in the order of `scores`."""
        return list(self._people)

    def scores(self) -> NDArray[np.float32]:
        """(people, queries): the mean of the best three cosines, of as many as there are."""
        there = np.isfinite(self._best)
        return np.where(there, self._best, 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)

    def matches(self) -> Matches:
        """The best and the next person for each query; there is at least one person."""
        scores = self.scores()
        best = np.argmax(scores, axis=0)
        columns = np.arange(scores.shape[1])
        top = scores[best, columns]
        scores[best, columns] = -np.inf
        second = scores.max(axis=0)
        people = np.asarray(self.people, np.int64)
        return Matches(people[best], top, np.where(np.isfinite(second), second, np.nan).astype(np.float32))
