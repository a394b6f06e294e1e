"""CPU and memory of a command and of every process it starts, daemons included.

`getrusage` sees waited-for children only: Ray's raylet lets the kernel reap its workers, and their
CPU time with them. A cgroup counts everything, but making one needs rights that most containers and
laptops do not give. So the process that measures becomes a child subreaper, which keeps daemons in
its tree, and a thread reads /proc: CPU is each process's own user and system time, as last seen for
one that ended. At most `LOOK_S` of each ended process is lost, and it is the same for all who are
compared. Memory is the proportional set size (PSS): shared pages count once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cluster.watcher import Watcher

PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37
LOOK_S = 0.1
Key = tuple[int, int]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
DATABASE, OTHERS = "database", "others"
# Ray Data's own actors (statistics, autoscaling), which start when the first rows do.
_HELPER_WORD = "ray::_"
_WORKER_WORDS = ("ray::MapWorker", "jobs.worker_main", "cluster.media.child_main")


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc: `key` is pid and start time, for pids come again."""

    pid: int
    parent: int
    state: str
    key: Key
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Look:
    """What every process seen so far had spent at a moment; `machine_s`: everybody's busy time on all cores."""

    time_s: float
    cpu_s: Mapping[Key, float]
    machine_s: float
    pss_bytes: Mapping[Key, int] | None


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished command; `cpu_s` is exact for the command and the children it waited for."""

    started_s: float
    ended_s: float
    code: int
    cpu_s: float


class Meter(Watcher):
    """Looks at all descendants of this process while the block runs; times are `time.time()`.

    What the block started and left behind is killed. A server counts as a descendant when it was
    started under `adopt_orphans`.
    """

    every_s = LOOK_S
    # Reading PSS walks page tables: some 10 ms per process that holds models.
    looks_per_pss = 10

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[Look] = []
        self._spent: dict[Key, float] = {}
        self._kinds: dict[Key, str] = {}
        self._root = 0
        self._adopted = False
        self._before: set[Key] = set()

    def __enter__(self) -> Self:
        self._adopted = adopt_orphans(True)
        self._before = {process.key for process in descendants()}
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        for process in descendants():
            if process.key not in self._before and self._name(process) != DATABASE:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        adopt_orphans(self._adopted)

    def run(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> Ended:
        """Run a command to its end; what it says goes to `log`."""
        with log.open("wb") as said:
            started_s = time.time()
            process = subprocess.Popen(command, env=dict(env), stdin=subprocess.DEVNULL, stdout=said, stderr=said)
            self._root = process.pid
            _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return Ended(started_s, time.time(), process.returncode, used.ru_utime + used.ru_stime)

    def spent(self, start_s: float, end_s: float) -> dict[str, Any]:
        """Wall and CPU seconds between two moments, by kind of process, and the cores that others used."""
        first, last = self._at(start_s), self._at(end_s)
        by_kind = self._by_kind({key: seconds - first.cpu_s.get(key, 0.0) for key, seconds in last.cpu_s.items()})
        wall_s, cpu_s = end_s - start_s, sum(by_kind.values())
        foreign_s = last.machine_s - first.machine_s - cpu_s
        return {
            "wall_s": round(wall_s, 2),
            "cpu_s": round(cpu_s, 2),
            "cpu_s_by": {kind: round(seconds, 2) for kind, seconds in by_kind.items() if seconds >= 0.005},
            "foreign_cores": round(max(0.0, foreign_s) / max(wall_s, LOOK_S), 2),
        }

    def peak_pss(self) -> dict[str, float]:
        """GiB at the moment of the greatest sum; without the database server, which keeps what it cached."""
        sums = [self._by_kind(look.pss_bytes) for look in self.looks if look.pss_bytes is not None]
        for sizes in sums:
            sizes.pop(DATABASE, None)
        peak = max(sums, key=lambda sizes: sum(sizes.values()))
        return {kind: round(size / 2**30, 3) for kind, size in {**peak, "all": sum(peak.values())}.items()}

    def _by_kind(self, amounts: Mapping[Key, float]) -> dict[str, float]:
        """Sums by what each process turned out to be: Ray starts processes first and gives them work later."""
        sums: dict[str, float] = {}
        for key, amount in amounts.items():
            kind = self._kinds.get(key, OTHERS)
            sums[kind] = sums.get(kind, 0.0) + amount
        return dict(sorted(sums.items()))

    def look(self) -> bool:
        """Always at memory too when it is the first or the last."""
        memory = self._over.is_set() or len(self.looks) % self.looks_per_pss == 0
        tree = descendants()
        for process in tree:
            self._name(process)
            self._spent[process.key] = process.cpu_s
        sizes = {process.key: pss_bytes(process.pid) for process in tree} if memory else None
        self.looks.append(Look(time.time(), dict(self._spent), machine_busy_s(), sizes))
        self._bury([process for process in tree if process.state == "Z"])
        return True

    def _bury(self, dead: Sequence[Process]) -> None:
        """Orphans come to the subreaper; the command itself is waited for in `run`."""
        for process in dead:
            if process.parent == os.getpid() and process.pid != self._root and process.key not in self._before:
                with suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)

    def _name(self, process: Process) -> str:
        """`driver`, `workers` (whoever runs stages), `database`, `ray_data`, or `others`: the rest of Ray."""
        known = self._kinds.get(process.key, OTHERS)
        if known == OTHERS:
            known = self._kinds[process.key] = _kind_of(process.pid, self._root)
        return known

    def _at(self, time_s: float) -> Look:
        """What had been spent at a moment, by interpolation between two looks."""
        place = bisect_left(self.looks, time_s, key=lambda look: look.time_s)
        after = self.looks[min(place, len(self.looks) - 1)]
        before = self.looks[max(place - 1, 0)]
        span_s = after.time_s - before.time_s
        share = min(1.0, max(0.0, (time_s - before.time_s) / span_s)) if span_s else 0.0
        cpu_s = {
            key: before.cpu_s.get(key, 0.0) + share * (seconds - before.cpu_s.get(key, 0.0))
            for key, seconds in after.cpu_s.items()
        }
        machine_s = before.machine_s + share * (after.machine_s - before.machine_s)
        return Look(time_s, cpu_s, machine_s, None)


def adopt_orphans(yes: bool) -> bool:
    """Whether descendants that lose their parent come to this process; returns how it was before."""
    libc, before = ctypes.CDLL(None, use_errno=True), ctypes.c_int()
    libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "this system has no child subreapers")
    return bool(before.value)


def processes() -> list[Process]:
    """Every process there is."""
    found = (process_of(int(name)) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208 - ten a second
    return [process for process in found if process is not None]


def descendants() -> list[Process]:
    """Every process below this one."""
    children: dict[int, list[Process]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process)
    found, rest = [], [os.getpid()]
    while rest:
        below = children.get(rest.pop(), [])
        found += below
        rest += [process.pid for process in below]
    return found


def process_of(pid: int) -> Process | None:
    """One process, None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - hundreds a second
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    seconds = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return Process(pid, int(fields[1]), fields[0].decode(), (pid, int(fields[19])), seconds)


def cpu_s_of(pid: int | None) -> float:
    """User and system seconds of one process so far; 0 for none."""
    process = None if pid is None else process_of(pid)
    return process.cpu_s if process is not None else 0.0


def pss_bytes(pid: int) -> int:
    """The proportional set size of a process; 0 when it is gone."""
    return pss_sizes(pid).get("Pss", 0)


def pss_sizes(pid: int) -> dict[str, int]:
    """The kernel's name of each part of it -> bytes, `Pss` being the whole; empty when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss")}


def machine_busy_s() -> float:
    """Seconds that all cores together have been busy since boot, waiting for the disk excluded."""
    with open("/proc/stat", "rb") as file:  # noqa: PTH123 - ten a second
        user, nice, system, _, _, irq, softirq = map(int, file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / TICKS_PER_S


def _kind_of(pid: int, root: int) -> str:
    if pid == root:
        return "driver"
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return OTHERS
    if "postgres" in words.partition(" ")[0]:
        return DATABASE
    if any(word in words for word in _WORKER_WORDS):
        return "workers"
    return "ray_data" if words.startswith(_HELPER_WORD) else OTHERS
