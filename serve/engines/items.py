"""What the engines of items have in common: preparing off the loop, a batcher, errors as data, and health."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np

from cluster.errors import RushesError, first_line, out_of_memory
from serve.batcher import Batcher, Done
from serve.engines.base import Answers
from serve.models import Timing

I = TypeVar("I")  # noqa: E741
P = TypeVar("P")

# A forward that succeeded so recently speaks for the model.
FRESH_S = 10.0
# So long may the device work without a result before that is a sign: a check behind its queue would wait for all of it.
LONGEST_WORK_S = 60.0
# Preparing less than this takes less time than handing it to a thread and waiting for the interpreter.
INLINE_BYTES = 4096
# The device begins with the first of a long list while the rest is prepared.
AT_ONCE = 128
INVALID, FAILED = 422, 500

_SURROGATE = re.compile("[\\ud800-\\udfff]")


class Preparer(Generic[I, P]):
    """Makes of items what the model reads, in one thread; what is little is done at once, in the caller's."""

    def __init__(
        self, prepare: Callable[[Sequence[I]], list[P | ValueError]], size_bytes: Callable[[I], int], name: str
    ) -> None:
        """`prepare` gives a `ValueError` for an item that the model cannot take, and is never called twice at once."""
        self._prepare, self._size_bytes = prepare, size_bytes
        self._one = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"prepare-{name}")

    async def run(self, items: Sequence[I]) -> list[P | ValueError]:
        """The prepared items, in their order."""
        if sum(map(self._size_bytes, items)) <= INLINE_BYTES and self._one.acquire(blocking=False):
            try:
                return self._prepare(items)
            finally:
                self._one.release()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._alone, items)

    def close(self) -> None:
        """End the thread after what it does."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _alone(self, items: Sequence[I]) -> list[P | ValueError]:
        with self._one:
            return self._prepare(items)


async def answer(
    items: Sequence[I],
    preparer: Preparer[I, P],
    batcher: Batcher[P, Any],
    dimension: int,
    count_tokens: Callable[[P], int],
    at_once: int = AT_ONCE,
) -> Answers:
    """The answers of one call of an engine; see `ItemEngine.run`."""
    batcher.require_alive()
    began_s = time.perf_counter()
    values, tokens = np.full((len(items), dimension), np.nan, np.float32), [0] * len(items)
    errors: dict[int, tuple[int, str]] = {}
    parts: list[tuple[list[int], asyncio.Future[Done[Any]]]] = []
    try:
        for start in range(0, len(items), at_once):
            good: dict[int, P] = {}
            for number, one in enumerate(await preparer.run(items[start : start + at_once]), start):
                if isinstance(one, ValueError):
                    errors[number] = INVALID, str(one)
                else:
                    good[number], tokens[number] = one, count_tokens(one)
            parts.append((list(good), batcher.submit(list(good.values()))))
        done = [(numbers, await part) for numbers, part in parts]
    finally:
        for _, part in parts:
            part.cancel()
    for numbers, part in done:
        for number, result in zip(numbers, part.results, strict=True):
            if isinstance(result, Exception):
                errors[number] = FAILED, _reason(result)
            else:
                values[number] = result
    for number in np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist():
        errors.setdefault(number, (FAILED, "the model gave no finite numbers for it"))
    said = {number: words for number, (_, words) in sorted(errors.items())}
    statuses = {number: status for number, (status, _) in sorted(errors.items())}
    model_s = sum(part.model_s for _, part in done)
    waited_s = time.perf_counter() - began_s - model_s
    return Answers(values, tokens, said, statuses, Timing(max(0.0, waited_s), model_s))


async def check(batcher: Batcher[P, Any], smallest: P) -> None:
    """A forward of `smallest`, unless one succeeded of late or the device is at work on others.

    Raises what the forward raises, and `UnavailableError` for a dead device.
    """
    batcher.require_alive()
    now_s, busy_since_s = time.monotonic(), batcher.busy_since_s
    if busy_since_s is not None and now_s - max(busy_since_s, batcher.last_good_s) < LONGEST_WORK_S:
        return
    if now_s - batcher.last_good_s > FRESH_S:
        (result,) = (await batcher.submit([smallest])).results
        if isinstance(result, Exception):
            raise result


def text_problem(text: str) -> ValueError | None:
    """Why no model can read this text; None when one can."""
    if not text.strip():
        return ValueError("it is empty")
    if not text.isascii() and _SURROGATE.search(text):
        return ValueError("it is no text: it holds half of a surrogate pair")
    return None


def _reason(error: Exception) -> str:
    if out_of_memory(error):
        return "it does not fit the memory of the device"
    if isinstance(error, RushesError):
        return str(error)
    return f"the model failed on it: {first_line(error)}"
