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
from cluster.media.hashing import sha256_file

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Fetched:
    """A content by name (SHA-256, hex) and the local file that holds it."""

    sha256: str
    path: Path


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
    with the object store and `MediaResourceError` when the cache is full.
    """
    if not is_remote(uri):
        return Fetched(sha256_file(uri), Path(uri))
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
    return Fetched(sha256, final)


def local_path(uri: str, sha256: str, cache_dir: Path) -> Path:
    """The file to decode for a registered content: the path itself, or the cached copy of its key.

    A key that is not in the cache is fetched again; `BadMediaError` when its content is another by now.
    """
    if not is_remote(uri):
        return Path(uri)
    cached = _cached(cache_dir, sha256)
    if cached.exists():
        return cached
    fetched = fetch(uri, cache_dir)
    if fetched.sha256 != sha256:
        raise BadMediaError(
            f"{uri} changed since it was registered (was {sha256[:12]}, is {fetched.sha256[:12]}): ingest it again"
        )
    return fetched.path


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
