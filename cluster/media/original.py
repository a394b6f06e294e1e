"""The registered content as bytes, any part of it: from a local file, a copy on this node, or an object store."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from cluster.errors import BadMediaError
from cluster.media.hashing import ChangingError, Stamp, open_regular, stamp_of
from cluster.media.remote import patiently, whole_seconds
from cluster.media.store import cached_copy, is_remote, resolve

if TYPE_CHECKING:
    from pyarrow import NativeFile


class Bytes(Protocol):
    """Bytes that can be read anywhere, by one caller at a time."""

    @property
    def size_bytes(self) -> int:
        """How many there are."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on; `OSError` when they cannot be read, or are no longer the same."""
        ...


@dataclass(frozen=True, slots=True)
class LocalBytes:
    """A local file, closed with its last user; `stamp` is what it has to be until then."""

    file: BinaryIO
    stamp: Stamp

    @property
    def size_bytes(self) -> int:
        """How many there are."""
        return self.stamp.byte_size

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on; `ChangingError` for a file that was written to."""
        data = os.pread(self.file.fileno(), size, offset)
        if stamp_of(self.file.fileno()) != self.stamp or len(data) != size:
            raise ChangingError("it changed while it was read")
        return data


@dataclass(frozen=True, slots=True)
class RemoteBytes:
    """An object of a store."""

    file: NativeFile
    size_bytes: int

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on."""
        data = self.file.read_at(size, offset)
        if len(data) != size:
            raise ChangingError("it changed while it was read")
        return data


def open_bytes(path: str | Path) -> LocalBytes:
    """A local file as it is now; `BadMediaError` for what is no file, `OSError` as the file system does."""
    file = os.fdopen(open_regular(path), "rb", buffering=0)
    return LocalBytes(file, stamp_of(file.fileno()))


def open_original(sources: Sequence[Mapping[str, Any]], cache_dir: Path) -> Bytes:
    """The content of the first of these sources (rows of `readable_sources`) that still has it.

    Whether it does is seen by size and time of change. Raises `BadMediaError` when each holds something else by
    now, `FileNotFoundError` when none is there, `OSError` for one that cannot be read.
    """
    trouble: Exception = FileNotFoundError("no source of it is there any more")
    for row in sources:
        try:
            return _open(row, cache_dir)
        except (OSError, BadMediaError) as error:
            # a source that is there says more than one that is not
            if not isinstance(error, FileNotFoundError) or isinstance(trouble, FileNotFoundError):
                trouble = error
    raise trouble


def _open(row: Mapping[str, Any], cache_dir: Path) -> Bytes:
    if not is_remote(row["uri"]):
        found = open_bytes(row["uri"])
        if found.stamp != Stamp(row["byte_size"], row["mtime_ns"]):
            raise BadMediaError(f"{row['uri']} changed since it was registered: ingest it again")
        return found
    copy = cached_copy(cache_dir, row["sha256"])
    return _remote(row) if copy is None else open_bytes(copy)


def _remote(row: Mapping[str, Any]) -> RemoteBytes:
    from pyarrow.fs import FileType

    filesystem, path = resolve(row["uri"])
    info = patiently(row["uri"], lambda: filesystem.get_file_info(path))
    if info.type != FileType.File:
        raise FileNotFoundError(f"{row['uri']} is no longer there")
    if (info.size, whole_seconds(info.mtime_ns)) != (row["byte_size"], whole_seconds(row["mtime_ns"])):
        raise BadMediaError(f"{row['uri']} changed since it was registered: ingest it again")
    return RemoteBytes(patiently(row["uri"], lambda: filesystem.open_input_file(path)), info.size)
