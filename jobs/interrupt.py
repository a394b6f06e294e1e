"""Ctrl-C, and SIGTERM like it, wait for the commit that is in progress."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def commit_first() -> Iterator[None]:
    """Hold an interrupt back until the block is left, then raise it; main thread only."""
    if not _in_main_thread():
        yield
        return
    caught: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    before = {number: signal.signal(number, remember) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if caught:
            raise KeyboardInterrupt


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside the block SIGTERM ends the work like Ctrl-C: so do `ray job stop`, systemd and Kubernetes ask for it."""
    if not _in_main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    take_sigterm()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def take_sigterm() -> None:
    """Take SIGTERM again from whoever took it, as Ray does when it starts; main thread only, elsewhere nothing."""
    if _in_main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def interrupt_main() -> None:
    """End the work of the main thread like Ctrl-C, from another one.

    By SIGTERM, because what Ray starts as a job has SIGINT blocked.
    """
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, signal.SIGTERM)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
