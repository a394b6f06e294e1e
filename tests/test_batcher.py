"""The batcher: full batches without a timer, everybody's own answer, and nobody left waiting."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.batcher import Batcher, device_died
from serve.errors import UnavailableError

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


class Device:
    """A model that doubles numbers; it begins no batch while `open` is not set, and remembers what it was given."""

    def __init__(self, fails=lambda items: None):
        self.batches, self.open, self.begun = [], threading.Event(), threading.Event()
        self.open.set()
        self._fails = fails

    def __call__(self, items):
        self.batches.append(list(items))
        self.begun.set()
        assert self.open.wait(20)
        if error := self._fails(items):
            raise error
        return [2 * item for item in items]

    def hold(self):
        self.begun.clear()
        self.open.clear()


def batcher_of(device, budget=1000.0, **more):
    return Batcher(device, float, budget, **more)


async def until(condition):
    """The event loop's own turn, again and again, until it holds."""
    while not condition():
        await asyncio.sleep(0.001)


async def blocked(batcher, device):
    """Somebody's item, long enough to be alone, holds the device; the call to wait for afterwards."""
    device.hold()
    first = asyncio.ensure_future(batcher.run([1]))
    await until(device.begun.is_set)
    return first


async def test_an_idle_device_begins_at_once_without_a_timer(monkeypatch):
    loop = asyncio.get_running_loop()
    timers = []
    monkeypatch.setattr(loop, "call_later", lambda *words, **_: timers.append(words))
    monkeypatch.setattr(loop, "call_at", lambda *words, **_: timers.append(words))
    device = Device()
    batcher = batcher_of(device)
    sleep, here = time.sleep, threading.current_thread()

    def slept(seconds):
        # threads that tests before this one left behind may sleep as they like
        own = threading.current_thread() in (here, batcher._thread)
        (timers.append if own else sleep)(seconds)

    monkeypatch.setattr(time, "sleep", slept)
    waits = []
    wait = threading.Condition.wait
    monkeypatch.setattr(
        batcher._changed, "wait", lambda timeout=None: (waits.append(timeout), wait(batcher._changed))[1]
    )
    for number in range(5):
        assert (await batcher.run([number])).results == [2 * number]
    assert device.batches == [[0], [1], [2], [3], [4]]
    assert (timers, set(waits)) == ([], {None})


async def test_what_waits_for_a_busy_device_shares_the_next_batch():
    device = Device()
    batcher = batcher_of(device)
    first = await blocked(batcher, device)
    others = [asyncio.ensure_future(batcher.run([number, 10 + number])) for number in (2, 3, 4)]
    await until(lambda: batcher.waiting == 6)
    device.open.set()
    assert [(await other).results for other in others] == [[4, 24], [6, 26], [8, 28]]
    assert (await first).results == [2]
    assert [sorted(batch) for batch in device.batches] == [[1], [2, 3, 4, 12, 13, 14]]
    assert batcher.counts.batches == 2


@given(
    costs=st.lists(st.integers(1, 60), min_size=1, max_size=80),
    budget=st.integers(1, 200),
    window=st.integers(1, 30),
    call_cost=st.sampled_from([None, 0, 10, 100]),
)
@settings(max_examples=60, deadline=None)
def test_batches_keep_to_the_budget_and_nobody_is_overtaken_by_a_window(costs, budget, window, call_cost):
    served = []

    def model(items):
        served.append(list(items))
        return items

    async def all_of_them():
        batcher = Batcher(model, lambda item: item[1], budget, window=window, call_cost=call_cost)
        items = list(enumerate(costs))
        assert (await batcher.run(items)).results == items
        return batcher

    batcher = asyncio.run(all_of_them())
    for batch in served:
        lengths = [cost for _, cost in batch]
        assert len(batch) == 1 or max(lengths) * len(batch) <= budget
        assert len(batch) == 1 or call_cost is None or max(lengths) * len(batch) - sum(lengths) <= call_cost
    order = [number for batch in served for number, _ in batch]
    assert sorted(order) == list(range(len(costs)))
    for at, number in enumerate(order):
        assert sum(later > number for later in order[:at]) < window
    assert batcher.counts.cost == sum(costs)
    assert batcher.counts.padded_cost == sum(max(cost for _, cost in batch) * len(batch) for batch in served)
    assert 0 < batcher.counts.fill <= 1


async def test_a_long_item_is_served_while_short_ones_keep_coming():
    device = Device()
    batcher = batcher_of(device, budget=100, window=8)
    first = await blocked(batcher, device)
    long = asyncio.ensure_future(batcher.run([90]))
    shorts = [asyncio.ensure_future(batcher.run([1])) for _ in range(50)]
    await until(lambda: batcher.waiting == 51)
    device.open.set()
    await asyncio.gather(first, long, *shorts)
    assert 90 in [item for batch in device.batches[:3] for item in batch]


async def test_what_was_cancelled_is_not_computed():
    device = Device()
    batcher = batcher_of(device)
    first = await blocked(batcher, device)
    gone = asyncio.ensure_future(batcher.run([7, 8]))
    stays = asyncio.ensure_future(batcher.run([9]))
    await until(lambda: batcher.waiting == 3)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    device.open.set()
    assert (await stays).results == [18]
    assert (await first).results == [2]
    assert device.batches == [[1], [9]]
    assert batcher.counts.dropped == 2


async def test_the_guilty_item_is_found_and_its_neighbours_are_served():
    device = Device(lambda items: ValueError("it is thirteen") if 13 in items else None)
    batcher = batcher_of(device, budget=10_000)
    items = list(range(64))
    results = (await batcher.run(items)).results
    assert str(results.pop(13)) == "it is thirteen"
    assert results == [2 * item for item in items if item != 13]
    assert len(device.batches) <= 1 + 2 * math.log2(64)
    assert batcher.counts.failed == 1


async def test_a_model_that_always_fails_blames_every_item():
    batcher = batcher_of(Device(lambda items: KeyError("broken")))
    results = (await batcher.run([1, 2, 3])).results
    assert [type(result) for result in results] == [KeyError] * 3
    assert batcher.alive


async def test_a_model_that_loses_results_blames_nobody_else():
    batcher = Batcher(lambda items: [item for item in items if item != 3], float, 100)
    results = (await batcher.run([1, 2, 3, 4])).results
    assert results[:2] == [1, 2]
    assert results[3] == 4
    assert "0 results for 1 items" in str(results[2])


async def test_a_lack_of_memory_halves_the_budget_for_good():
    relieved = []
    device = Device(lambda items: RuntimeError("CUDA out of memory") if max(items) * len(items) > 40 else None)
    batcher = batcher_of(device, budget=128, relieve=lambda: relieved.append(1))
    results = (await batcher.run([4] * 32)).results
    assert results == [8] * 32
    assert (batcher.budget, batcher.counts.halvings, len(relieved)) == (32, 2, 2)
    before = len(device.batches)
    assert (await batcher.run([4] * 32)).results == [8] * 32
    assert len(device.batches) == before + 4


async def test_an_item_that_does_not_fit_alone_costs_only_itself():
    device = Device(lambda items: MemoryError("no") if 50 in items else None)
    batcher = batcher_of(device, budget=200)
    results = (await batcher.run([1, 50, 2, 3])).results
    assert isinstance(results[1], MemoryError)
    assert (results[0], *results[2:]) == (2, 4, 6)
    assert batcher.budget >= 25
    assert (await batcher.run([50])).results[0].args == ("no",)
    assert batcher.alive


async def test_a_dead_device_fails_everything_at_once_and_is_not_asked_again():
    device = Device(lambda items: RuntimeError("CUDA error: device-side assert triggered"))
    batcher = batcher_of(device, budget=10)
    first = await blocked(batcher, device)
    others = [asyncio.ensure_future(batcher.run([number, 9])) for number in (2, 3)]
    await until(lambda: batcher.waiting == 4)
    device.open.set()
    for call in (first, *others):
        with pytest.raises(UnavailableError, match="device-side assert"):
            await call
    assert not batcher.alive
    assert device.batches == [[1]]
    with pytest.raises(UnavailableError):
        await batcher.run([5])
    assert (device.batches, batcher.waiting) == ([[1]], 0)


@pytest.mark.parametrize(
    ("error", "died"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("cudaErrorLaunchFailure: unspecified launch failure"), True),
        (RuntimeError("uncorrectable ECC error encountered"), True),
        (RuntimeError("CUDA error: out of memory"), False),
        (RuntimeError("expected scalar type Float but found Half"), False),
        (ValueError("CUDA error: so the text says"), False),
    ],
)
def test_a_lost_device_is_told_from_a_full_one_and_from_a_bad_item(error, died):
    assert device_died(error) is died


async def test_an_error_outside_the_model_leaves_nobody_waiting():
    class Odd:
        def __call__(self, items):
            raise SystemExit("not an Exception")

    batcher = Batcher(Odd(), lambda item: 1, 10)
    with pytest.raises(UnavailableError, match="not an Exception"):
        await batcher.run([1, 2])
    assert not batcher.alive


async def test_closing_tells_those_who_wait():
    device = Device()
    batcher = batcher_of(device)
    first = await blocked(batcher, device)
    other = asyncio.ensure_future(batcher.run([2]))
    await until(lambda: batcher.waiting == 1)
    batcher.close()
    for call in (first, other):
        with pytest.raises(UnavailableError):
            await call
    device.open.set()


def test_an_event_loop_that_ends_in_the_middle_does_not_end_the_batcher():
    device = Device()
    batcher = batcher_of(device)

    async def leave():
        asyncio.ensure_future(batcher.run([5, 6]))  # noqa: RUF006 - nobody is there when it is done
        await until(device.begun.is_set)

    device.hold()
    asyncio.run(leave())
    device.open.set()
    assert asyncio.run(batcher.run([7])).results == [14]
    assert batcher.alive


class Card:
    """A device that works on its own: what is begun is finished later."""

    def __init__(self):
        self.log = []

    def __call__(self, items):
        self.log.append(("begin", len(items)))

        def wait():
            self.log.append(("wait", len(items)))
            return [2 * item for item in items]

        return wait


async def test_a_device_that_works_on_its_own_gets_one_batch_ahead():
    card = Card()
    results = (await batcher_of(card, budget=4, window=16).run([1] * 12)).results
    assert results == [2] * 12
    assert [word for word, _ in card.log] == ["begin", "begin", "wait", "begin", "wait", "wait"]


async def test_a_batch_that_others_could_still_fill_is_not_begun_ahead():
    card = Card()
    batcher = batcher_of(card, budget=4)
    first = batcher.submit([1] * 4)
    await first
    await asyncio.gather(batcher.submit([1]), batcher.submit([1]))
    begun = [count for word, count in card.log if word == "begin"]
    waited = [count for word, count in card.log if word == "wait"]
    assert begun == waited
    depth = [0]
    for word, _ in card.log:
        depth.append(depth[-1] + (1 if word == "begin" else -1))
    assert max(depth) == 1


TROUBLES = [ValueError("bad"), RuntimeError("out of memory"), KeyError("x"), RuntimeError("CUDA error: lost")]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_happens_everybody_gets_an_own_answer_or_an_error(data):
    """Failures by item and at random, cancellations, a device that dies: no call hangs, no answer is another's."""
    calls = data.draw(st.lists(st.lists(st.integers(1, 40), max_size=12), min_size=1, max_size=12))
    cancelled = data.draw(st.sets(st.integers(0, len(calls) - 1)))
    guilty = data.draw(st.sets(st.integers(1, 40), max_size=4))
    # how often the device thread asks is a matter of time, so its numbers are not hypothesis's own
    random = Random(data.draw(st.integers(0, 2**32)))
    rate, kinds = data.draw(st.floats(0, 0.4)), data.draw(st.lists(st.sampled_from(TROUBLES), min_size=1, max_size=3))
    is_card = data.draw(st.booleans())

    def model(items):
        def finish():
            if random.random() < rate:
                raise random.choice(kinds)
            if guilty & {item for _, item in items}:
                raise ValueError("guilty")
            return [(call, 2 * item) for call, item in items]

        return finish if is_card else finish()

    async def main():
        batcher = Batcher(model, lambda item: item[1], 64, window=16)
        tasks = [asyncio.ensure_future(batcher.run([(at, item) for item in call])) for at, call in enumerate(calls)]
        await asyncio.sleep(0)
        for at in cancelled:
            tasks[at].cancel()
        done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        with suppress(UnavailableError):
            await asyncio.wait_for(batcher.run([(0, 41)]), 10)
        return done

    for at, (call, done) in enumerate(zip(calls, asyncio.run(main()), strict=True)):
        if isinstance(done, BaseException):
            assert isinstance(done, (UnavailableError, asyncio.CancelledError))
            assert at in cancelled or isinstance(done, UnavailableError)
            continue
        assert len(done.results) == len(call)
        for item, result in zip(call, done.results, strict=True):
            assert isinstance(result, Exception) or result == (at, 2 * item)
            assert item not in guilty or isinstance(result, Exception)


async def test_times_are_told():
    batcher = Batcher(lambda items: time.sleep(0.02) or items, lambda item: 1, 10)
    done = await batcher.run([1])
    assert done.model_s >= 0.02
    assert done.queue_s < 10 * done.model_s
    assert batcher.counts.model_s == pytest.approx(done.model_s, rel=0.5)


async def test_a_device_that_hangs_has_been_busy_since_it_began_whoever_gives_up_waiting():
    device = Device()
    batcher = batcher_of(device)
    first = await blocked(batcher, device)
    began_s = batcher.busy_since_s
    first.cancel()
    await asyncio.sleep(0.01)
    second = asyncio.ensure_future(batcher.run([2]))
    await asyncio.sleep(0.01)
    assert batcher.busy_since_s == began_s
    device.open.set()
    await second
    await until(lambda: batcher.busy_since_s is None)
    batcher.close()
