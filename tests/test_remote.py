"""Items of many requests ride in few calls, and everyone gets their own answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast
from unittest.mock import MagicMock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve import remote
from serve.engines.base import Answers
from serve.errors import ApiError, InvalidError, UnavailableError
from serve.models import HearRequest, Timing
from serve.remote import Coalescer, Recording, Watch, hearing_caller

WAIT_S = 20.0


def answers_to(items: list[int]) -> Answers:
    """The value of an item is itself; a negative one is an error."""
    errors = {number: f"bad {item}" for number, item in enumerate(items) if item < 0}
    values = np.asarray(items, np.float32)[:, None]
    return Answers(values, list(items), errors, dict.fromkeys(errors, 422), Timing(0.0, 0.5))


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(work(), WAIT_S)

    return asyncio.run(bounded())


class Replica:
    """Holds its calls back until `gate` is set."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.gate = asyncio.Event()
        self.cancelled = 0
        self.under_way = self.most_under_way = 0

    async def send(self, items: list[int]) -> Answers:
        self.calls.append(items)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
            return answers_to(items)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1


def test_what_waits_rides_together_in_the_next_call():
    async def work():
        replica = Replica()
        coalescer = Coalescer(replica.send, calls=2, items_per_call=100)
        asked = []
        for number in range(10):
            asked.append(asyncio.ensure_future(coalescer.run([number])))
            await asyncio.sleep(0.001)
        assert replica.calls == [[0], [1]]
        replica.gate.set()
        got = await asyncio.gather(*asked)
        assert [one.values[0, 0] for one in got] == list(range(10))
        assert replica.calls == [[0], [1], list(range(2, 10))]

    run(work)


def test_requests_of_one_moment_ride_together_at_once():
    async def work():
        replica = Replica()
        replica.gate.set()
        coalescer = Coalescer(replica.send, calls=2, items_per_call=100)
        await asyncio.gather(*(coalescer.run([number]) for number in range(8)))
        assert replica.calls == [list(range(8))]

    run(work)


def test_a_long_list_lets_those_behind_it_ride_in_the_next_call():
    async def work():
        replica = Replica()
        coalescer = Coalescer(replica.send, calls=1, items_per_call=4)
        long, short = (asyncio.ensure_future(coalescer.run(items)) for items in (list(range(12)), [20]))
        await asyncio.sleep(0.001)
        replica.gate.set()
        assert (await short).tokens == [20]
        assert (await long).tokens == list(range(12))
        assert replica.calls == [[0, 1, 2, 3], [20, 4, 5, 6], [7, 8, 9, 10], [11]]

    run(work)


def test_what_is_under_way_of_a_request_that_failed_is_cancelled():
    async def work():
        replica = Replica()

        async def send(items: list[int]) -> Answers:
            if 1 in items:
                await asyncio.sleep(0.001)
                raise UnavailableError("gone")
            return await replica.send(items)

        coalescer = Coalescer(send, calls=2, items_per_call=1)
        with pytest.raises(UnavailableError):
            await coalescer.run([1, 2])
        await asyncio.sleep(0.001)
        assert (replica.calls, replica.cancelled) == ([[2]], 1)

    run(work)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(-5, 1000), min_size=1, max_size=30), min_size=1, max_size=20),
    st.integers(1, 3),
    st.integers(1, 17),
    st.sets(st.integers(0, 19)),
)
def test_everyone_gets_their_own_answers_whoever_else_leaves(requests, calls, room, leaving):
    async def work():
        replica = Replica()
        replica.gate.set()
        coalescer = Coalescer(replica.send, calls=calls, items_per_call=room)
        asked = [asyncio.ensure_future(coalescer.run(items)) for items in requests]
        await asyncio.sleep(0)
        for number in leaving:
            if number < len(asked):
                asked[number].cancel()
        for number, (items, one) in enumerate(zip(requests, asked, strict=True)):
            if number in leaving:
                continue
            got = await one
            assert got.values[:, 0].tolist() == items
            assert got.tokens == items
            assert got.errors == {place: f"bad {item}" for place, item in enumerate(items) if item < 0}
            assert set(got.statuses) == set(got.errors)
        assert replica.most_under_way <= calls
        assert all(len(call) <= room for call in replica.calls)

    run(work)


def test_a_request_that_left_is_not_sent_and_a_call_of_nobody_is_cancelled():
    async def work():
        replica = Replica()
        coalescer = Coalescer(replica.send, calls=1, items_per_call=10)
        first = asyncio.ensure_future(coalescer.run([1]))
        await asyncio.sleep(0.001)
        second, third = (asyncio.ensure_future(coalescer.run([number])) for number in (2, 3))
        await asyncio.sleep(0.001)
        second.cancel()
        first.cancel()
        await asyncio.sleep(0.001)
        assert replica.cancelled == 1
        replica.gate.set()
        assert (await third).tokens == [3]
        assert replica.calls == [[1], [3]]

    run(work)


def test_a_call_goes_on_while_anybody_waits_for_a_part_of_it():
    async def work():
        replica = Replica()
        coalescer = Coalescer(replica.send, calls=1, items_per_call=10)
        first, second = (asyncio.ensure_future(coalescer.run([number])) for number in (1, 2))
        await asyncio.sleep(0.001)
        first.cancel()
        await asyncio.sleep(0.001)
        replica.gate.set()
        assert (await second).tokens == [2]
        assert replica.cancelled == 0

    run(work)


@pytest.mark.parametrize(
    "failure",
    [UnavailableError("gone"), RuntimeError("secret words"), None],
    ids=["away", "fault", "too few answers"],
)
def test_a_call_that_fails_fails_its_requests_alone_and_the_next_goes_on(failure):
    async def work():
        failing = True

        async def send(items: list[int]) -> Answers:
            if not failing:
                return answers_to(items)
            await asyncio.sleep(0)
            if failure is not None:
                raise failure
            return answers_to(items[1:])

        coalescer = Coalescer(send, calls=1, items_per_call=4)
        # The second is in two calls; what is left of it is not sent after the first has failed.
        asked = [asyncio.ensure_future(coalescer.run(items)) for items in ([1, 2, 3], [4, 5, 6])]
        for one in asked:
            with pytest.raises(UnavailableError) as caught:
                await one
            assert "secret" not in str(caught.value)
        failing = False
        assert (await coalescer.run([7])).tokens == [7]

    run(work)


def test_readiness_names_what_does_not_work_and_asks_once_a_moment():
    async def work():
        asked = 0

        async def well() -> None:
            nonlocal asked
            asked += 1

        async def hangs() -> None:
            await asyncio.sleep(WAIT_S)

        async def gone() -> None:
            raise UnavailableError("the device is dead")

        watch = Watch(
            {"text": (["text"], well), "image": (["image"], hangs), "audio": (["voice", "diarizer"], gone)}, 0.05
        )
        found = await asyncio.gather(*(watch.troubles() for _ in range(50)))
        assert asked == 1
        assert found[0] == {
            "image": "no replica answered within 0.05 s",
            "voice": "the device is dead",
            "diarizer": "the device is dead",
        }

    run(work)


class Refusing:
    """A replica and its handle, with an engine that takes no recording."""

    def __init__(self, error: ApiError) -> None:
        from serve.app import Hearing

        self.error = error
        self.replica = object.__new__(cast(Any, Hearing).func_or_class)
        self.replica.engine = self

    async def hear(self, path: str, asked: HearRequest) -> Any:
        raise self.error

    def close(self) -> None:
        pass


def test_a_fault_of_the_client_leaves_no_traceback_in_the_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    no_sound = InvalidError("file: it has no sound", param="file")
    asked, sent = HearRequest(frozenset({"words"})), Recording("", "a.wav", b"RIFF")
    answered = run(lambda: Refusing(no_sound).replica.hear(sent, asked))
    assert answered is no_sound
    with pytest.raises(UnavailableError):
        run(lambda: Refusing(UnavailableError("the device is dead")).replica.hear(sent, asked))

    async def ask(role: str, method: Any, *args: Any) -> Any:
        return answered

    monkeypatch.setattr(remote, "ask", ask)
    monkeypatch.setattr(remote.ray, "get_runtime_context", MagicMock())
    with pytest.raises(InvalidError, match="no sound"):
        run(lambda: hearing_caller(MagicMock(), 1)("a.wav", asked))
