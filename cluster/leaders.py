"""Leader clustering (Hartigan, Clustering Algorithms, 1975) of unit vectors, exact, and ids that outlive it.

In a fixed order each vector joins the nearest leader that is alike enough, else it leads a cluster of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

# Of a cosine: vectors are stored as half floats and multiplied in single ones.
ROUNDING = 1e-5
_CHUNK = 8_192


class Leaders:
    """The leaders so far, as unit vectors of float32; 4 bytes per dimension for each of them."""

    def __init__(self, dimension: int, threshold: float) -> None:
        """`threshold` is the least cosine with its leader that a member has."""
        self._dimension = dimension
        self._least = threshold - ROUNDING
        self._chunks: list[NDArray[np.float32]] = []
        self.count = 0

    def add(self, vectors: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Decide float vectors of shape (n, dimension), in order; a few hundred at a time.

        Returns for each the number of its leader, in the order in which they came, and the cosine with it.
        """
        units = _unit(vectors)
        number, cosine = self._nearest(units)
        among = units @ units.T
        new: list[int] = []
        for i in range(len(units)):
            if new:
                best = int(np.argmax(among[i, new]))
                if among[i, new[best]] > cosine[i]:
                    number[i], cosine[i] = self.count + best, among[i, new[best]]
            if cosine[i] < self._least:
                number[i], cosine[i] = self.count + len(new), 1.0
                new.append(i)
        self._append(units[new])
        return number, cosine

    def _nearest(self, units: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        number = np.full(len(units), -1, np.int64)
        cosine = np.full(len(units), -np.inf, np.float32)
        for place, chunk in enumerate(self._chunks):
            filled = chunk[: self.count - place * _CHUNK]
            found = units @ filled.T
            best = found.argmax(axis=1)
            value = found[np.arange(len(units)), best]
            nearer = value > cosine
            number[nearer], cosine[nearer] = best[nearer] + place * _CHUNK, value[nearer]
        return number, cosine

    def _append(self, units: NDArray[np.float32]) -> None:
        while len(units):
            at = self.count % _CHUNK
            if at == 0:
                self._chunks.append(np.empty((_CHUNK, self._dimension), np.float32))
            part, units = units[: _CHUNK - at], units[_CHUNK - at :]
            self._chunks[-1][at : at + len(part)] = part
            self.count += len(part)


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    wide = np.asarray(vectors, np.float32)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def keep_ids(shared: Iterable[tuple[int, int, int]]) -> dict[int, int]:
    """New cluster -> the id of an old one, of (new cluster, old id, members that both have).

    The pair that shares most comes first; of equal ones the older id, then the earlier new cluster. No id is
    given twice; new clusters that are left out get an id of their own.
    """
    kept: dict[int, int] = {}
    given: set[int] = set()
    for new, old, _ in sorted(shared, key=lambda item: (-item[2], item[1], item[0])):
        if new not in kept and old not in given:
            kept[new] = old
            given.add(old)
    return kept
