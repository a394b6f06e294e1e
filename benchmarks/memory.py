"""What the processes below this one hold at the most: bytes of their own, and bytes they share.

`benchmarks.process_tree` sums by kind, and counts shared pages with the rest; here a bound is held against each
process, and against the shared memory of all of them (Ray's object store, and sound on its way from a decoder).
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.process_tree import descendants, pss_sizes
from cluster.watcher import Watcher

LOOK_S = 0.25
# Part of the command line -> kind; the first that fits.
KINDS = (("cluster.media.child_main", "child"), ("ray::MapWorker", "worker"), ("jobs.worker_main", "worker"))
STORE = "raylet/raylet"


class Memory(Watcher):
    """Looks at all descendants of this process while the block runs."""

    every_s = LOOK_S

    def __init__(self) -> None:
        super().__init__()
        self._own: dict[str, int] = {}
        self._shared = 0

    def peaks_gib(self) -> dict[str, float]:
        """The most that one process of each kind held of its own, and all of them together of shared memory."""
        return {kind: round(size / 2**30, 3) for kind, size in {**self._own, "shared": self._shared}.items()}

    def look(self) -> bool:
        """See the class."""
        shared = 0
        for process in descendants():
            kind = _kind(process.pid)
            if kind is None:
                continue
            sizes = pss_sizes(process.pid)
            shared += sizes.get("Pss_Shmem", 0)
            if kind != STORE:
                self._own[kind] = max(self._own.get(kind, 0), sizes.get("Pss_Anon", 0))
        self._shared = max(self._shared, shared)
        return True


def _kind(pid: int) -> str | None:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None
    return next((kind for part, kind in (*KINDS, (STORE, STORE)) if part in words), None)
