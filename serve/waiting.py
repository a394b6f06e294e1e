"""What waits for a device, and how it is cut into batches.

Items wait in the order of their arrival. The first `window` of them are sorted by length and cut into batches, all of
which run before the next window is looked at: an item is overtaken by less than a window of later ones.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

R = TypeVar("R")

WINDOW = 1024


@dataclass(frozen=True, slots=True)
class Done(Generic[R]):
    """The result of each item, or the error that it alone is to blame for, and where the time went in seconds."""

    results: list[R | Exception]
    queue_s: float = 0.0
    model_s: float = 0.0


@dataclass(slots=True, eq=False)
class Call:
    """One request's items; `left` have no result yet."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Done[Any]]
    results: list[Any]
    left: int
    began_s: float
    model_s: float = 0.0


class Entry(NamedTuple):
    """An item in the queue; `place` is its number in its call."""

    cost: float
    call: Call
    place: int
    item: Any


class Queue:
    """Entries in their order; not safe for two threads at once, except for `cut` and `dropped`.

    A batch costs its longest item times its count, and at most a budget, unless one item alone costs more. It also
    ends where its padding would cost more than the `call_cost` of another call.
    """

    def __init__(self, window: int, call_cost: float) -> None:
        self._size, self._call_cost = window, call_cost
        self._waiting: deque[Entry] = deque()
        self._window: list[Entry] = []
        # entries whose caller went away before their batch
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._window)

    def add(self, entries: Iterable[Entry]) -> None:
        """Put them at the end."""
        self._waiting.extend(entries)

    def clear(self) -> None:
        """Forget them all."""
        self._waiting.clear()
        self._window.clear()

    def is_full(self, budget: float) -> bool:
        """Whether the next batch would be no fuller if one waited for more."""
        if self._window or len(self._waiting) >= self._size:
            return True
        total = 0.0
        for entry in self._waiting:
            total += entry.cost
            if total >= budget:
                return True
        return False

    def take(self, budget: float) -> list[Entry]:
        """The next batch; empty when everybody in sight went away."""
        if not self._window:
            head: list[Entry] = []
            while self._waiting and len(head) < self._size:
                entry = self._waiting.popleft()
                if not self._is_dropped(entry):
                    head.append(entry)
            self._window = longest_first(head)
        return self.cut(self._window, budget)

    def cut(self, entries: list[Entry], budget: float) -> list[Entry]:
        """Take a batch from the end of `entries`, which are sorted by `longest_first`."""
        batch: list[Entry] = []
        total = 0.0
        while entries:
            longest, count = entries[-1].cost, len(batch) + 1
            padded, total = longest * count, total + longest
            if batch and (padded > budget or padded - total > self._call_cost):
                break
            entry = entries.pop()
            if self._is_dropped(entry):
                total -= longest
            else:
                batch.append(entry)
        return batch

    def _is_dropped(self, entry: Entry) -> bool:
        is_dropped = entry.call.future.cancelled()
        self.dropped += is_dropped
        return is_dropped


def longest_first(entries: Sequence[Entry]) -> list[Entry]:
    """Sorted by cost; of equals the oldest is last, where batches are taken from."""
    return sorted(entries, key=lambda entry: entry.cost)[::-1]
