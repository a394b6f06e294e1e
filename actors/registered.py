"""Reading the content that was registered: a file that changed since is no longer it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cluster.errors import StageError
from cluster.media.hashing import ChangingError, Stamp
from cluster.media.node_cache import NodeCache
from cluster.media.store import Fetched, find_registered, holding

# A file may be replaced between the look at it and its opening; one that is replaced again and again is given up.
READS = 3


class Stamped(Protocol):
    """What was read, with the stamp its file had all the while."""

    @property
    def stamp(self) -> Stamp:
        """Size and time of change."""
        ...


Found = TypeVar("Found", bound=Stamped)


def read_registered(row: Mapping[str, Any], cache: NodeCache, read: Callable[[Path], Found]) -> Found:
    """What `read` makes of the row's content (`uri`, `sha256`, `byte_size`, `mtime_ns`).

    Raises what `read` raises, `BadMediaError` for a file with other content by now, `FileNotFoundError` for one
    that is gone, `ChangingError` for one that keeps changing.
    """
    for _ in range(READS):
        with holding(partial(_find, row, cache), cache) as known:
            try:
                found = read(known.path)
            except (StageError, OSError):
                if _find(row, cache) == known:
                    raise
                continue
        if found.stamp == known.stamp:
            return found
    raise ChangingError(f"{row['uri']} keeps changing while it is decoded: ingest it again when it is complete")


def _find(row: Mapping[str, Any], cache: NodeCache) -> Fetched:
    stamp = None if row["mtime_ns"] is None else Stamp(row["byte_size"], row["mtime_ns"])
    return find_registered(row["uri"], row["sha256"], stamp, cache)
