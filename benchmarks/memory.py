"""What the processes below this one hold at the most: bytes of their own, and bytes they share.

`benchmarks.process_tree` sums by kind, and counts shared pages with the rest; here a bound is held against each
process, and against the shared memory of all of them (Ray's object store, and sound on its way from a decoder).
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Self

from benchmarks.process_tree import processes

LOOK_S = 0.25
# Part of the command line -> kind; the first that fits.
KINDS = (("cluster.media.child_main", "child"), ("ray::MapWorker", "worker"), ("jobs.worker_main", "worker"))
STORE = "raylet/raylet"


class Memory:
    """Looks at all descendants of this process while the block runs."""

    def __init__(self) -> None:
        self._own: dict[str, int] = {}
        self._shared = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def peaks_gib(self) -> dict[str, float]:
        """The most that one process of each kind held of its own, and all of them together of shared memory."""
        return {kind: round(size / 2**30, 3) for kind, size in {**self._own, "shared": self._shared}.items()}

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_S):
            shared = 0
            for pid in _below(os.getpid()):
                kind = _kind(pid)
                if kind is None:
                    continue
                sizes = _sizes(pid)
                shared += sizes.get("Pss_Shmem", 0)
                if kind != STORE:
                    self._own[kind] = max(self._own.get(kind, 0), sizes.get("Pss_Anon", 0))
            self._shared = max(self._shared, shared)


def _below(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process.pid)
    found, rest = [], [root]
    while rest:
        below = children.get(rest.pop(), [])
        found += below
        rest += below
    return found


def _kind(pid: int) -> str | None:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None
    return next((kind for part, kind in (*KINDS, (STORE, STORE)) if part in words), None)


def _sizes(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_")}
