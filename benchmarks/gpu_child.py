"""Work in a process of its own, as an actor is one: watched from outside, ended when it takes too long."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SPAWN = multiprocessing.get_context("spawn")


class ChildError(RuntimeError):
    """What went wrong in a child, in one line; the rest stands on its standard error."""


class Child:
    """`function(*arguments)` begun in a new process; what it returns must be picklable."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._answer, there = SPAWN.Pipe(duplex=False)
        self.process = SPAWN.Process(target=_run, args=(there, function, arguments))
        self.process.start()
        there.close()

    def result(self, till_s: float) -> Any:
        """What the function returned, at `till_s` of `time.monotonic()` at the latest; raises `ChildError`."""
        if not self._answer.poll(max(0.0, till_s - time.monotonic())):
            raise ChildError("it took longer than the time that was left")
        try:
            kind, value = self._answer.recv()
        except EOFError:
            self.process.join(5)
            raise ChildError(f"its process ended with {self.process.exitcode}") from None
        if kind == "error":
            raise ChildError(value)
        return value

    def end(self) -> None:
        """Wait for the process, or end it when it does not come to an end by itself."""
        self.process.join(5)
        for stop in (self.process.terminate, self.process.kill):
            if self.process.is_alive():
                stop()
                self.process.join(5)


def in_child(seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)` in a process of its own that may take `seconds`; raises `ChildError`."""
    child = Child(function, *arguments)
    try:
        return child.result(time.monotonic() + seconds)
    finally:
        child.end()


def _run(answer: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        value = ("value", function(*arguments))
    except BaseException as error:  # noqa: BLE001 - whatever it was, the parent tells it
        traceback.print_exc()
        value = ("error", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
    answer.send(value)


def peak_host_gib(*more: int | None) -> float:
    """The most memory that this process ever held, and that of the processes `more`, in GiB."""
    held_kib = 0
    for pid in (os.getpid(), *(pid for pid in more if pid is not None)):
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
            held_kib += next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
    return held_kib / 2**20
