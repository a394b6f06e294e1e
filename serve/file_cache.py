"""Files that were made once and may be asked for again, bounded in bytes; the one unused for longest goes first.

Several processes of a node may share a folder: files appear whole, and one that goes stays readable for those
who have it open.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cluster.media.original import LocalBytes, open_bytes

# What a process that died left behind.
STALE_S = 3_600.0


class FileCache:
    """A folder of at most `most_bytes`, made with its first file."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self.most_bytes = folder, most_bytes

    def find(self, name: str) -> LocalBytes | None:
        """The file of this name, noted as used; None when it is not there."""
        path = self.folder / name
        try:
            found = open_bytes(path)
            # The time of change is part of its tag and stays.
            os.utime(path, ns=(time.time_ns(), found.stamp.mtime_ns))
        except FileNotFoundError:
            return None
        return found

    def make(self, name: str, write: Callable[[int], None]) -> LocalBytes:
        """The file that `write` fills by its descriptor, under this name from then on; raises what `write` raises."""
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=".part-", dir=self.folder)
        try:
            try:
                write(handle)
            finally:
                os.close(handle)
            found = open_bytes(part)
            Path(part).replace(self.folder / name)
        finally:
            Path(part).unlink(missing_ok=True)
        self._sweep(keep=name)
        return found

    def _sweep(self, keep: str) -> None:
        kept, total_bytes = [], 0
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):
                status = entry.stat()
                if entry.name.startswith(".part-"):
                    if time.time() - status.st_mtime > STALE_S:
                        Path(entry.path).unlink()
                    continue
                total_bytes += status.st_size
                if entry.name != keep:
                    kept.append((status.st_atime_ns, entry.path, status.st_size))
        for _, path, size_bytes in sorted(kept):
            if total_bytes <= self.most_bytes:
                return
            Path(path).unlink(missing_ok=True)
            total_bytes -= size_bytes
