"""Looks after a cluster while the driver waits for rows: what Ray waits for in silence ends the run with a line."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from cluster.errors import RushesError
from cluster.reach import knock

EVERY_S = 2.0
# Longer than a head that restarts on the same address needs, shorter than the minute after which Ray itself
# ends this process without a word.
HEAD_WAIT_S = 20.0
# A node that was lost may come back, and an autoscaler starts another in minutes.
ROOM_WAIT_S = 120.0
# What Ray does at its end may wait for the head as well.
LAST_WORDS_S = 20.0
_SIGNAL = signal.SIGUSR2


class HeadLostError(RushesError):
    """The head of the cluster does not answer any more."""


class NoRoomError(RushesError):
    """Actors wait for a node that has room, and nothing goes on without them."""


@contextmanager
def watched(ray: Any, head_wait_s: float = HEAD_WAIT_S, room_wait_s: float = ROOM_WAIT_S) -> Iterator[None]:
    """Inside the block a lost head, or actors that wait for room in vain, raise in the main thread.

    A head is lost when nothing listens there for `head_wait_s`; `room_wait_s` is how long the run may stand
    because actors have no node. Where the block does not end within `LAST_WORDS_S` of a lost head, the process does.
    """
    ended, address = threading.Event(), ray.get_runtime_context().gcs_address
    job = ray.get_runtime_context().get_job_id()
    looks = (
        lambda: _watch_head(address, head_wait_s, ended),
        lambda: _watch_room(lambda: _placement(ray, job), room_wait_s, ended),
    )
    with _raising():
        for look in looks:
            threading.Thread(target=look, name="ray-watch", daemon=True).start()
        try:
            yield
        finally:
            ended.set()


_told: list[RushesError] = []


@contextmanager
def _raising() -> Iterator[None]:
    """Let the watch raise in the main thread; elsewhere only the last words are left."""
    _told.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(_SIGNAL, _raise)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [_SIGNAL])
    try:
        yield
    finally:
        signal.signal(_SIGNAL, before)


def _raise(number: int, frame: FrameType | None) -> None:
    raise _told[-1]


def _tell(error: RushesError) -> None:
    _told.append(error)
    main = threading.main_thread().ident
    if signal.getsignal(_SIGNAL) is _raise and main is not None:
        signal.pthread_kill(main, _SIGNAL)


def _watch_head(address: str, wait_s: float, ended: threading.Event) -> None:
    seen = time.monotonic()
    while not ended.wait(EVERY_S):
        try:
            knock(address)
            seen = time.monotonic()
        except RushesError:
            if time.monotonic() - seen < wait_s:
                continue
            error = HeadLostError(
                f"the head of the Ray cluster at {address} has not answered for {wait_s:.0f} s; "
                "what was committed is safe: start the cluster, and the same command goes on"
            )
            _tell(error)
            if not ended.wait(LAST_WORDS_S):
                print(f"error: {error}", file=sys.stderr, flush=True)
                os._exit(1)
            return


def _watch_room(count: Callable[[], tuple[int, int]], wait_s: float, ended: threading.Event) -> None:
    """Ray begins when every actor has started, and goes on for as long as one is left."""
    since, begun = time.monotonic(), False
    while not ended.wait(EVERY_S):
        try:
            waiting, placed = count()
        except Exception:  # noqa: BLE001 - Ray ends, or its head is gone: others say so, and a trace here says nothing
            since = time.monotonic()
            continue
        begun = begun or (placed > 0 and not waiting)
        if not waiting or (begun and placed):
            since = time.monotonic()
        elif time.monotonic() - since >= wait_s:
            _tell(
                NoRoomError(
                    f"{waiting} of {waiting + placed} actors have waited {wait_s:.0f} s for a node that has room for "
                    "one: nodes were lost, or others hold them; what was committed is safe: free them or start more, "
                    "and the same command goes on with what is there"
                )
            )
            return


def _placement(ray: Any, job: str) -> tuple[int, int]:
    """How many actors of the job wait for a node, and how many have one."""
    # Ray has no public name for it that works without its dashboard.
    found = ray._private.state.actors().values()
    living = [
        one
        for one in found
        if one["JobID"] == job and one["ActorClassName"].startswith("MapWorker") and one["State"] != "DEAD"
    ]
    placed = sum(one["State"] == "ALIVE" or bool(one["Address"]["IPAddress"]) for one in living)
    return len(living) - placed, placed
