"""One disturbance: drawn from a seed, struck at its moment."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from benchmarks.chaos_world import Command, World, is_alive, session_members, status
from cluster.faults import MARKER, FaultPoint

POLL_S = 0.002
CHILD_WAIT_S = 5.0
CHILD = b"cluster.media.child_main"
DELAYS_S = (0.0, 0.01, 0.1, 0.5)
PAUSES_S = (0.0, 1.0, 3.0)


class Kind(StrEnum):
    """What is disturbed."""

    DRIVER = "driver"
    ACTOR = "actor"
    WRITER = "writer"
    DECODE_CHILD = "decode-child"
    CONNECTION = "database-connection"
    SERVER = "database-server"


# The decode child alone comes by there.
READING = FaultPoint.READING
ALL = tuple(point for point in FaultPoint if point is not READING)
DRIVERS = (
    FaultPoint.REGISTERED,
    FaultPoint.RUN_STARTED,
    FaultPoint.COMPARED,
    FaultPoint.RECONCILED,
    FaultPoint.RUN_FINISHED,
)
ONCE = (*DRIVERS, FaultPoint.LOADING)
# So little comes after them that a kill from outside would be late, and a connection is closed.
LAST = (FaultPoint.RECONCILED, FaultPoint.RUN_FINISHED)
ROWS = tuple(point for point in ALL if point not in ONCE)
COMMIT = ROWS[ROWS.index(FaultPoint.COMMIT_BEGUN) : ROWS.index(FaultPoint.COMMITTED)]
POINTS = {
    Kind.DRIVER: ALL,
    Kind.ACTOR: (FaultPoint.LOADING, *ROWS),
    Kind.WRITER: COMMIT,
    Kind.DECODE_CHILD: (*ROWS, READING),
    Kind.CONNECTION: tuple(point for point in ALL if point is not FaultPoint.RUN_FINISHED),
    Kind.SERVER: ALL,
}


@dataclass(frozen=True, slots=True)
class Blow:
    """What happens when: at the `visit`-th visit of `point` (`exact`), or `delay_s` after it.

    `whole` takes the driver's other processes with it, or aborts the server instead of killing it;
    `pause_s` is how long the server is away; `pick` chooses the connection.
    """

    kind: Kind
    point: FaultPoint
    visit: int = 1
    delay_s: float = 0.0
    exact: bool = False
    whole: bool = True
    pause_s: float = 1.0
    pick: int = 0

    def fault(self, folder: Path) -> str:
        """The value of `RUSHES_FAULT` that brings it about, or says when to."""
        action = "kill" if self.exact else "note"
        return json.dumps({"point": self.point, "visit": self.visit, "action": action, "folder": str(folder)})

    def sooner(self) -> Blow:
        """The same at once and at the first visit, for a blow that came too late."""
        return replace(self, visit=1, delay_s=0.0)


def draw(kind: Kind, number: int, seed: int, rows: int, runner: str) -> Blow:
    """The blow of run `number`: the points take turns, the rest is chance; the same for the same seed."""
    points = list(POINTS[kind])
    random.Random(f"{seed}/{kind}").shuffle(points)
    point, chance = points[number % len(points)], random.Random(f"{seed}/{kind}/{number}")
    return Blow(
        kind,
        point,
        visit=1 if point in ONCE else chance.randint(1, rows),
        delay_s=0.0 if kind is Kind.WRITER or point in LAST else chance.choice(DELAYS_S) * chance.random(),
        exact=(chance.random() < 0.5 or point in LAST) and _meets_itself(kind, point, runner),
        whole=chance.random() < 0.5,
        pause_s=chance.choice(PAUSES_S),
        pick=chance.randrange(60),
    )


def _meets_itself(kind: Kind, point: FaultPoint, runner: str) -> bool:
    """Whether the process that comes by is the one to be killed: then it can end itself exactly there."""
    match kind:
        case Kind.DRIVER:
            return point in DRIVERS or runner == "inline"
        case Kind.DECODE_CHILD:
            return point is READING
        case _:
            return kind in (Kind.ACTOR, Kind.WRITER)


@dataclass(frozen=True, slots=True)
class Struck:
    """That it happened, to which process, and how long after the note, in seconds."""

    pid: int
    delay_s: float


def strike(world: World, blow: Blow, command: Command, url: str, folder: Path, patience_s: float) -> Struck | None:
    """Wait for the moment and strike; None when the command ended first."""
    note = _await_note(command, folder / MARKER, patience_s)
    if note is None:
        return None
    if blow.exact:
        return Struck(note["pid"], 0.0)
    time.sleep(blow.delay_s)
    pid = _hit(world, blow, command, note["pid"], url)
    return None if pid is None else Struck(pid, time.time() - (folder / MARKER).stat().st_mtime)


def _await_note(command: Command, marker: Path, patience_s: float) -> dict[str, Any] | None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        ended = command.process.poll() is not None
        if marker.exists():
            return json.loads(marker.read_text("utf-8"))
        if ended:
            return None
        time.sleep(POLL_S)
    return None


def _hit(world: World, blow: Blow, command: Command, pid: int, url: str) -> int | None:
    match blow.kind:
        case Kind.DRIVER:
            return _kill_driver(command, blow.whole)
        case Kind.ACTOR | Kind.WRITER:
            return _kill(pid)
        case Kind.DECODE_CHILD:
            child = pid if blow.point is READING else _decode_child(command, pid)
            return None if child is None else _kill(child)
        case Kind.CONNECTION:
            return _end_backend(world, url, blow.pick)
        case Kind.SERVER:
            return _restart(world, blow)


def _kill(pid: int) -> int | None:
    # A process that has ended already takes the signal without a word until it is reaped.
    if is_alive(pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return pid
    return None


def _kill_driver(command: Command, whole: bool) -> int | None:
    if command.process.poll() is not None:
        return None
    command.process.kill()
    if whole:
        command.end()
    return command.process.pid if command.process.wait() == -signal.SIGKILL else None


def _decode_child(command: Command, parent: int) -> int | None:
    deadline = time.monotonic() + CHILD_WAIT_S
    while time.monotonic() < deadline and command.process.poll() is None:
        for pid in session_members(command.process.pid):
            if status(pid)[1] == str(parent) and CHILD in _words(pid):
                return pid
        time.sleep(POLL_S)
    return None


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _end_backend(world: World, url: str, pick: int) -> int | None:
    """One of the run's connections, the driver's or another."""
    pids = world.admin(
        "SELECT pid FROM pg_stat_activity WHERE datname = %s AND application_name = 'rushes' ORDER BY backend_start",
        conninfo_to_dict(url)["dbname"],
    )
    if not pids:
        return None
    (pid,) = pids[pick % len(pids)]
    return pid if world.admin("SELECT pg_terminate_backend(%s)", pid) == [(True,)] else None


def _restart(world: World, blow: Blow) -> int:
    pid = world.bring_down(immediate=blow.whole)
    time.sleep(blow.pause_s)
    world.server.start()
    return pid
