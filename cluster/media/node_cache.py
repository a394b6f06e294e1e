"""This node's copies of object-store content, bounded in bytes: the one unused for longest goes first.

Content-addressed (`FOLDER/ab/abcdef...`), so a name never changes meaning. Several processes of a node share the
folder, and any of them may die at any moment: what one reads it holds by a shared file lock, what one fetches is
a `.part-` file under an exclusive one, with its whole size allocated. A lock goes with its process, so that a part
without one is a left-over. Local files never enter.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from cluster.errors import MediaResourceError, os_reason
from cluster.media.hashing import Stamp, stamp_of

# A node whose disk is full takes so long over one asset that the others do the work.
ROOM_WAIT_S = 60.0
FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 10.0
_NAME = re.compile(r"[0-9a-f]{64}")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# A disk that is lost, or that the system made read-only because it fails.
_LOST = (errno.EIO, errno.EROFS, errno.ENXIO, errno.ENODEV, errno.ESTALE)


class Copy(NamedTuple):
    """A copy on this node, and its stamp."""

    path: Path
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class NodeCache:
    """A folder of at most `most_bytes`, made with its first file."""

    folder: Path
    most_bytes: int

    def place(self, sha256: str) -> Path:
        """Where the content of this SHA-256 (hex) lies, if it is here."""
        return self.folder / sha256[:2] / sha256

    def find(self, sha256: str) -> Copy | None:
        """The copy of this content, noted as used; None when it is not here."""
        path = self.place(sha256)
        with suppress(FileNotFoundError):
            stamp = stamp_of(path)
            # The time of change is part of its stamp and stays.
            os.utime(path, ns=(time.time_ns(), stamp.mtime_ns))
            return Copy(path, stamp)
        return None

    @contextmanager
    def pinned(self, path: Path) -> Iterator[None]:
        """Nobody evicts this copy inside the block; `FileNotFoundError` when somebody did before."""
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            if not _leads_to(path, file):
                raise FileNotFoundError(errno.ENOENT, "the copy was evicted", str(path))
            yield

    def bring(
        self, key: str, fetch: Callable[[BinaryIO, Callable[[int], None]], str], sha256: str | None = None
    ) -> Copy:
        """The copy of what `fetch(file, reserve)` writes; it returns the SHA-256 (hex) and tells the size before.

        `key` names what is fetched: of several processes that want the same one fetches, and with `sha256` known
        the others take its copy. Raises what `fetch` raises, `MediaResourceError` without room.
        """
        with self._part(key) as (part, file):
            if sha256 is not None and (found := self.find(sha256)) is not None:
                part.unlink()
                return found
            try:
                final = self.place(fetch(file, lambda size: self._reserve(file, size)))
                file.flush()
                os.fsync(file.fileno())
                final.parent.mkdir(exist_ok=True)
                part.replace(final)
            except BaseException as error:
                # not afterwards: by then another process may have made its own part of this name
                with suppress(OSError):
                    part.unlink()
                if isinstance(error, OSError) and error.errno in _FULL:
                    raise MediaResourceError(f"no room in the cache folder {self.folder}: {_GROW}") from error
                if isinstance(error, OSError) and error.errno in _LOST:
                    raise self._refusal(error) from error
                raise
            return Copy(final, stamp_of(file.fileno()))

    def size_bytes(self) -> int:
        """What the copies take now, those on their way too."""
        # In this order, and each file once: a part that becomes a copy meanwhile is not missed.
        found = {status.st_ino: status.st_size for _, status in [*self._parts(), *self._copies()]}
        return sum(found.values())

    @contextmanager
    def _part(self, key: str) -> Iterator[tuple[Path, BinaryIO]]:
        """An empty file that is this process's alone, and is swept when it dies."""
        part = self.folder / f".part-{hashlib.sha256(key.encode()).hexdigest()}"
        while True:
            with self._opened(part) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                # another process finished it, or swept it, while this one waited
                if not _leads_to(part, file):
                    continue
                file.truncate(0)
                yield part, file
                return

    def _opened(self, part: Path) -> BinaryIO:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b")
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> MediaResourceError:
        """What the disk of the cache says, told of the cache and not of what was to be read."""
        return MediaResourceError(f"the cache folder {self.folder} takes no files ({os_reason(error)}): {_GROW}")

    def _reserve(self, file: BinaryIO, size: int) -> None:
        """Allocate the bytes now, so that neither cap nor disk ends a download half way."""
        if size > self.most_bytes:
            raise MediaResourceError(
                f"it is {gib(size)} and the node cache {self.folder} takes {gib(self.most_bytes)}: raise "
                "RUSHES_CACHE_BYTES"
            )
        deadline, delay_s = time.monotonic() + ROOM_WAIT_S, FIRST_DELAY_S
        while not self._make_room(file, size):
            if time.monotonic() + delay_s > deadline:
                free = shutil.disk_usage(self.folder).free
                raise MediaResourceError(
                    f"no room in the cache folder {self.folder} for {gib(size)}: {gib(self.size_bytes())} of "
                    f"{gib(self.most_bytes)} are in use, {gib(free)} are free on its disk: {_GROW}"
                )
            time.sleep(delay_s * (1 - random.random() / 2))
            delay_s = min(2 * delay_s, LONGEST_DELAY_S)

    def _make_room(self, file: BinaryIO, size: int) -> bool:
        """Whether the file has its bytes now; copies that nobody reads are evicted for it."""
        with self._alone():
            self._sweep()
            oldest = sorted(self._copies(), key=lambda found: found[1].st_atime_ns)
            used = self.size_bytes()
            for path, status in [*oldest, (None, None)]:
                if used + size <= self.most_bytes and _allocate(file, size):
                    return True
                if path is not None and status is not None and _evict(path):
                    used -= status.st_size
        return False

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _sweep(self) -> None:
        """Drop the parts of processes that died."""
        for path, _ in self._parts():
            _evict(path)

    def _copies(self) -> list[tuple[Path, os.stat_result]]:
        return _stats(path for path in self.folder.glob("[0-9a-f][0-9a-f]/*") if _NAME.fullmatch(path.name))

    def _parts(self) -> list[tuple[Path, os.stat_result]]:
        return _stats(self.folder.glob(".part-*"))


_GROW = "make room, or set RUSHES_DATA_DIR to a larger disk"


def _stats(paths: Iterator[Path]) -> list[tuple[Path, os.stat_result]]:
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            found.append((path, path.stat()))
    return found


def _evict(path: Path) -> bool:
    """Drop a file unless a living process reads or writes it."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _leads_to(path, file):
                path.unlink()
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    return True


def _leads_to(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _allocate(file: BinaryIO, size: int) -> bool:
    try:
        if size:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        file.truncate(0)
        return False
    return True


def gib(size_bytes: int) -> str:
    """As people say it, to 10 MiB."""
    return f"{size_bytes / 2**30:.2f} GiB"
