"""The name of a content is its SHA-256; the stamp of a file says whether it still is the one that was read.

A stamp is size and time of change, as the file system tells them. It misses a change of equal size
within one tick of the file system's clock (milliseconds on local disks, 2 s on FAT), and one whose
author set the old time again.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import BadMediaError


class ChangingError(OSError):
    """The file was written to while it was read."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file as it was at one moment: bytes, and nanoseconds since 1970."""

    byte_size: int
    mtime_ns: int


def open_regular(path: str | Path) -> int:
    """A descriptor for reading one file; `BadMediaError` for what is no file, such as a pipe or a device.

    A file may be replaced at any moment, so the descriptor is looked at too; it opens without waiting.
    Raises `OSError` as the file system does.
    """
    _require_regular(Path(path).stat().st_mode)
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _require_regular(os.fstat(handle).st_mode)
    except BaseException:
        os.close(handle)
        raise
    return handle


def stamp_of(file: int | str | Path) -> Stamp:
    """The stamp of an open descriptor, or of what a path leads to now; `OSError` as the file system does."""
    status = os.fstat(file) if isinstance(file, int) else Path(file).stat()
    return Stamp(status.st_size, status.st_mtime_ns)


def require_unchanged(handle: int, before: Stamp, path: str | Path) -> None:
    """Raise `ChangingError` when the open file is no longer what it was."""
    after = stamp_of(handle)
    if after != before:
        raise ChangingError(
            f"{path} changed while it was read ({before.byte_size} bytes before, {after.byte_size} after): "
            "ingest it again when it is complete"
        )


def hash_file(path: str | Path) -> tuple[str, Stamp]:
    """The SHA-256 of a file's bytes, 64 hex digits, and the stamp it had all the while.

    Raises `ChangingError` for a file that is being written, `BadMediaError` for what is no file and
    `OSError` as the file system does.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        before = stamp_of(file.fileno())
        digest = hashlib.file_digest(file, "sha256")
        require_unchanged(file.fileno(), before, path)
    return digest.hexdigest(), before


def _require_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise BadMediaError("it is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise BadMediaError("it is a pipe, a socket or a device, not a file")
