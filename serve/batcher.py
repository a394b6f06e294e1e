"""Batches for one device, made of the items of any number of requests.

The device thread takes what waits whenever it is free: an idle device begins at once, a busy one finds larger
batches, and no timer is involved. A model that works on its own (a GPU) gets a second batch while it still has the
first, but only one that later arrivals could not have made fuller.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cluster.errors import first_line, out_of_memory
from serve.errors import UnavailableError
from serve.waiting import WINDOW, Call, Done, Entry, Queue, longest_first

T = TypeVar("T")
R = TypeVar("R")
# What a model does with a batch: one result per item, or a function that waits for those a device is still making.
Run = Callable[[list[T]], Any]

# After any of these the CUDA context of the process is lost: only another process can go on.
_DEATHS = ("cuda error", "cudaerror", "device-side assert", "uncorrectable ecc", "cuda driver error")

logger = logging.getLogger("rushes.serve")


@dataclass(slots=True)
class Counts:
    """What a batcher has done; costs are in its own unit (tokens, pixels, seconds)."""

    batches: int = 0
    items: int = 0
    failed: int = 0
    dropped: int = 0
    halvings: int = 0
    cost: float = 0
    padded_cost: float = 0
    wait_s: float = 0.0
    model_s: float = 0.0

    @property
    def fill(self) -> float:
        """The share of the padded batches that was content; 1 before the first."""
        return self.cost / self.padded_cost if self.padded_cost else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Begun:
    """A batch that the device works on."""

    entries: list[Entry]
    wait: Callable[[], Sequence[Any]]
    began_s: float


def device_died(error: BaseException) -> bool:
    """Whether the device is lost to this process, as torch and ctranslate2 say it; no lack of memory is that."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and not out_of_memory(error) and any(sign in text for sign in _DEATHS)


class Batcher(Generic[T, R]):
    """Runs `run` on batches in one thread; safe to call from any event loop.

    A batch costs its longest item times its count, and at most `budget`, unless one item alone costs more. It is
    also cut where its padding would cost more than the `call_cost` of another call. A batch that fails is bisected
    until the guilty item is alone; one that does not fit the device halves the budget for good. After an error that
    `is_dead` knows nothing is tried again: `alive` is False, and everything fails with `UnavailableError`.
    """

    def __init__(
        self,
        run: Run[T],
        cost: Callable[[T], float],
        budget: float,
        *,
        call_cost: float | None = None,
        window: int = WINDOW,
        is_dead: Callable[[BaseException], bool] = device_died,
        relieve: Callable[[], None] = lambda: None,
        name: str = "model",
    ) -> None:
        """`relieve` is called after a lack of memory, before the next try."""
        self._run, self._cost, self.budget = run, cost, budget
        self._is_dead, self._relieve, self.name = is_dead, relieve, name
        self._queue = Queue(window, budget if call_cost is None else call_cost)
        self._open: set[Call] = set()
        self._counts = Counts()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._end: str | None = None
        self.last_good_s = float("-inf")
        # Since when the device has had work, whoever still waits for it, by the monotonic clock; None while it has none
        self.busy_since_s: float | None = None

    @property
    def alive(self) -> bool:
        """Whether items are taken; False for good once the device is dead or the batcher closed."""
        return self._end is None

    @property
    def waiting(self) -> int:
        """How many items wait for the device, those of callers that went away included."""
        return len(self._queue)

    @property
    def counts(self) -> Counts:
        """What it has done up to now."""
        self._counts.dropped = self._queue.dropped
        return self._counts

    def require_alive(self) -> None:
        """Raise `UnavailableError` when nothing is taken any more."""
        if self._end is not None:
            raise UnavailableError(self._end)

    async def run(self, items: Sequence[T]) -> Done[R]:
        """The results in the order of the items; see `submit`."""
        return await self.submit(items)

    def submit(self, items: Sequence[T]) -> asyncio.Future[Done[R]]:
        """Put items into the queue, from a running event loop; the future holds their results, in their order.

        A future that is cancelled takes what still waits with it. It, or this, raises `UnavailableError` once the
        device is dead.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Done[R]] = loop.create_future()
        if not items:
            self.require_alive()
            future.set_result(Done([]))
            return future
        call = Call(loop, future, [None] * len(items), len(items), time.perf_counter())
        entries = [Entry(self._cost(item), call, place, item) for place, item in enumerate(items)]
        with self._changed:
            self.require_alive()
            self._open.add(call)
            self._queue.add(entries)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"device-{self.name}", daemon=True)
                self._thread.start()
            self._changed.notify()
        future.add_done_callback(lambda _: self._open.discard(call))
        return future

    def close(self) -> None:
        """Take nothing more; who waits meets `UnavailableError`."""
        self._stop(f"the {self.name} model is being let go")

    def _work(self) -> None:
        """The device thread: ends with the batcher, and with any error that is not an item's."""
        try:
            begun: _Begun | None = None
            while True:
                entries = self._next(may_wait=begun is None)
                if not entries and begun is None:
                    return
                following = self._begin(entries) if entries else None
                if begun is not None:
                    self._finish(begun)
                begun = following
        except BaseException as error:
            logger.exception("model=%s the device thread ended", self.name)
            self._die(error)

    def _next(self, may_wait: bool) -> list[Entry]:
        """The batch to run now; none when the end has come, or when waiting for more may still fill it."""
        with self._changed:
            while self._end is None:
                if self._queue and (may_wait or self._queue.is_full(self.budget)):
                    entries = self._queue.take(self.budget)
                    if entries:
                        self.busy_since_s = self.busy_since_s or time.monotonic()
                        now_s = time.perf_counter()
                        self._counts.wait_s += sum(now_s - entry.call.began_s for entry in entries)
                        return entries
                elif not may_wait:
                    return []
                else:
                    self.busy_since_s = None
                    self._changed.wait()
        return []

    def _begin(self, entries: list[Entry]) -> _Begun | None:
        """Run a batch; one that the device still works on is finished later."""
        began_s = time.perf_counter()
        try:
            made = self._run([entry.item for entry in entries])
        except Exception as error:  # noqa: BLE001 - whatever a model raises becomes data
            trouble = error
        else:
            if callable(made):
                return _Begun(entries, made, began_s)
            self._deliver(entries, made, began_s)
            return None
        self._recover(entries, trouble)
        return None

    def _finish(self, begun: _Begun) -> None:
        try:
            made = begun.wait()
        except Exception as error:  # noqa: BLE001 - whatever a model raises becomes data
            trouble = error
        else:
            self._deliver(begun.entries, made, begun.began_s)
            return
        self._recover(begun.entries, trouble)

    def _again(self, entries: list[Entry]) -> None:
        begun = self._begin(entries) if self.alive else None
        if begun is not None:
            self._finish(begun)

    def _recover(self, entries: list[Entry], error: Exception) -> None:
        """Serve whom the failed batch can still serve; the model has let go of it by now."""
        # its traceback holds the tensors of the call
        error = error.with_traceback(None)
        if self._is_dead(error):
            self._die(error)
            return
        if is_full := out_of_memory(error):
            self._relieve()
        if len(entries) == 1:
            logger.warning("model=%s an item failed: %s", self.name, first_line(error))
            self._counts.failed += 1
            self._settle(entries, [error], 0.0)
        elif is_full:
            self._halve(entries)
        else:
            middle = len(entries) // 2
            self._again(entries[:middle])
            self._again(entries[middle:])

    def _halve(self, entries: list[Entry]) -> None:
        longest = max(entry.cost for entry in entries)
        self.budget = min(self.budget, longest * len(entries)) / 2
        self._counts.halvings += 1
        logger.warning("model=%s out of memory: a batch costs at most %g from now on", self.name, self.budget)
        rest = longest_first(entries)
        while rest:
            if batch := self._queue.cut(rest, self.budget):
                self._again(batch)

    def _deliver(self, entries: list[Entry], made: Sequence[Any], began_s: float) -> None:
        if len(made) != len(entries):
            self._recover(entries, ValueError(f"the model gave {len(made)} results for {len(entries)} items"))
            return
        now_s = time.perf_counter()
        counts, self.last_good_s = self._counts, time.monotonic()
        counts.batches += 1
        counts.items += len(entries)
        counts.cost += sum(entry.cost for entry in entries)
        counts.padded_cost += max(entry.cost for entry in entries) * len(entries)
        counts.model_s += now_s - began_s
        self._settle(entries, made, now_s - began_s)

    def _settle(self, entries: list[Entry], results: Sequence[Any], model_s: float) -> None:
        """Hand results to their calls; those that are complete end, in one wake-up of each event loop."""
        calls = dict.fromkeys(entry.call for entry in entries)
        for entry, result in zip(entries, results, strict=True):
            entry.call.results[entry.place] = result
            entry.call.left -= 1
        for call in calls:
            call.model_s += model_s
        complete = [call for call in calls if not call.left]
        for loop in dict.fromkeys(call.loop for call in complete):
            _tell(loop, _complete, [call for call in complete if call.loop is loop])

    def _die(self, error: BaseException) -> None:
        logger.error("model=%s the device is lost: %s", self.name, first_line(error))
        self._stop(f"the {self.name} model is being replaced: {first_line(error)}")

    def _stop(self, end: str) -> None:
        with self._changed:
            self._end = end = self._end or end
            self._queue.clear()
            left = list(self._open)
            self._changed.notify_all()
        for call in left:
            _tell(call.loop, _fail, call, end)


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[..., None], *words: Any) -> None:
    # a loop that is closed has nobody who waits
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(what, *words)


def _complete(calls: Iterable[Call]) -> None:
    for call in calls:
        if not call.future.done():
            total_s = time.perf_counter() - call.began_s
            call.future.set_result(Done(call.results, max(0.0, total_s - call.model_s), call.model_s))


def _fail(call: Call, why: str) -> None:
    if not call.future.done():
        call.future.set_exception(UnavailableError(why))
