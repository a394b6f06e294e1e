"""Bytes from wherever they lie: local files as they are, object-store keys through a node cache.

The cache is content-addressed (`cache_dir/ab/abcdef...`), so a name in it never changes meaning and
two processes that fetch the same key do each other no harm.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cluster.errors import BadMediaError, MediaResourceError, UsageError
from cluster.media.hashing import Stamp, hash_file, stamp_of

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Fetched:
    """A content by name (SHA-256, hex), the local file that holds it, and its stamp as it was read."""

    sha256: str
    path: Path
    stamp: Stamp


def is_remote(uri: str) -> bool:
    """Whether `uri` names an object-store key rather than a local path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", uri) is not None and not uri.startswith("file://")


def resolve(uri: str) -> tuple[FileSystem, str]:
    """The pyarrow file system and the path in it; `UsageError` for an address that none serves."""
    import pyarrow

    try:
        return _filesystem(uri)
    except pyarrow.ArrowInvalid as error:
        raise UsageError(f"{uri}: {error}; known are local paths, s3://, gs://, hdfs://, abfs://") from error


def fetch(uri: str, cache_dir: Path) -> Fetched:
    """Read the content once: hash a local file, tee an object-store key into the cache.

    Raises `FileNotFoundError` and `PermissionError` as they are, `ConnectionError` for other trouble
    with the object store, `MediaResourceError` when the cache is full, `ChangingError` for a local file
    that is being written and `BadMediaError` for what is no file.
    """
    if not is_remote(uri):
        sha256, stamp = hash_file(uri)
        return Fetched(sha256, Path(uri), stamp)
    cache_dir.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".part-", dir=cache_dir)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            sha256 = _tee(uri, file)
        final = _cached(cache_dir, sha256)
        final.parent.mkdir(exist_ok=True)
        part.replace(final)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MediaResourceError(f"{uri}: no room in the cache folder {cache_dir}") from error
        raise
    finally:
        part.unlink(missing_ok=True)
    return Fetched(sha256, final, stamp_of(final))


def find_registered(uri: str, sha256: str, stamp: Stamp | None, cache_dir: Path) -> Fetched:
    """The file to decode for a registered content: the path itself, or the cached copy of its key.

    A local file whose stamp is not the registered one is hashed again, a key that is not in the cache is
    fetched again; `BadMediaError` when the content is another by now, `FileNotFoundError` when it is gone.
    """
    if is_remote(uri):
        cached = _cached(cache_dir, sha256)
        found = Fetched(sha256, cached, stamp_of(cached)) if cached.exists() else fetch(uri, cache_dir)
    else:
        found = _local(uri, sha256, stamp, cache_dir)
    if found.sha256 != sha256:
        raise BadMediaError(
            f"{uri} changed since it was registered (was {sha256[:12]}, is {found.sha256[:12]}): ingest it again"
        )
    return found


def cached_copy(cache_dir: Path, sha256: str) -> Path | None:
    """This node's copy of a content that lies in an object store, if it has one."""
    path = _cached(cache_dir, sha256)
    return path if path.exists() else None


def drop_cached(cache_dir: Path, sha256: str) -> None:
    """Delete this node's copy of a content that lies in an object store, if it has one."""
    _cached(cache_dir, sha256).unlink(missing_ok=True)


def _local(uri: str, sha256: str, stamp: Stamp | None, cache_dir: Path) -> Fetched:
    try:
        now = stamp_of(uri)
        return Fetched(sha256, Path(uri), now) if now == stamp else fetch(uri, cache_dir)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{uri} is no longer there: bring it back, or ingest it from where it is now"
        ) from error
    except BadMediaError as error:
        raise BadMediaError(f"{uri} changed since it was registered: {error}") from error


def _filesystem(uri: str) -> tuple[FileSystem, str]:
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(uri)


def _cached(cache_dir: Path, sha256: str) -> Path:
    return cache_dir / sha256[:2] / sha256


def _tee(uri: str, file: BinaryIO) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(uri):
        digest.update(piece)
        file.write(piece)
    file.flush()
    os.fsync(file.fileno())
    return digest.hexdigest()


def _pieces(uri: str) -> Iterator[bytes]:
    try:
        filesystem, path = resolve(uri)
        with filesystem.open_input_stream(path, compression=None) as stream:
            while piece := stream.read(PIECE_BYTES):
                yield piece
    except (FileNotFoundError, PermissionError) as error:
        raise type(error)(error.errno, error.strerror or str(error), uri) from error
    except OSError as error:
        raise ConnectionError(f"{uri}: {error}") from error
