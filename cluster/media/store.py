"""Bytes from wherever they lie: local files as they are, object-store keys through the cache of this node."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cluster.errors import BadMediaError, MediaResourceError, UsageError
from cluster.media import remote
from cluster.media.hashing import Stamp, hash_file, stamp_of
from cluster.media.node_cache import NodeCache
from cluster.tally import TALLY

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

# A copy may be evicted between its fetch and its lock, hardly ever again and again.
HOLDS = 3


@dataclass(frozen=True, slots=True)
class Fetched:
    """A content by name (SHA-256, hex), the local file that holds it, its stamp as it was read, its store's mark."""

    sha256: str
    path: Path
    stamp: Stamp
    etag: str | None = field(default=None, compare=False)


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


def fetch(uri: str, cache: NodeCache) -> Fetched:
    """Read the content once: hash a local file, tee an object-store key into the cache.

    Raises `FileNotFoundError` and `PermissionError` as they are, `ConnectionError` for other trouble
    with the object store, `MediaResourceError` without room in the cache, `ChangingError` for what is
    written to while it is read and `BadMediaError` for what is no file.
    """
    if is_remote(uri):
        return _bring(uri, cache)
    sha256, stamp = hash_file(uri)
    return Fetched(sha256, Path(uri), stamp)


def find_registered(uri: str, sha256: str, stamp: Stamp | None, cache: NodeCache) -> Fetched:
    """The file to decode for a registered content: the path itself, or the cached copy of its key.

    A local file whose stamp is not the registered one is hashed again, a key that is not in the cache is
    fetched again; `BadMediaError` when the content is another by now, `FileNotFoundError` when it is gone.
    """
    if is_remote(uri):
        copy = cache.find(sha256)
        found = _bring(uri, cache, sha256) if copy is None else Fetched(sha256, *copy)
    else:
        found = _local(uri, sha256, stamp, cache)
    if found.sha256 != sha256:
        raise BadMediaError(
            f"{uri} changed since it was registered (was {sha256[:12]}, is {found.sha256[:12]}): ingest it again"
        )
    return found


@contextmanager
def holding(find: Callable[[], Fetched], cache: NodeCache) -> Iterator[Fetched]:
    """What `find` finds; inside the block no other process evicts it from the cache. Raises as `find`."""
    for left in reversed(range(HOLDS)):
        with ExitStack() as stack:
            found = find()
            try:
                if found.path.is_relative_to(cache.folder):
                    stack.enter_context(cache.pinned(found.path))
            except FileNotFoundError:
                if not left:
                    raise
                continue
            yield found
            return


def cached_copy(cache_dir: Path, sha256: str) -> Path | None:
    """This node's copy of a content that lies in an object store, if it has one."""
    path = _cached(cache_dir, sha256)
    return path if path.exists() else None


def drop_cached(cache_dir: Path, sha256: str) -> None:
    """Delete this node's copy of a content that lies in an object store, if it has one."""
    _cached(cache_dir, sha256).unlink(missing_ok=True)


def _bring(uri: str, cache: NodeCache, sha256: str | None = None) -> Fetched:
    contents: list[remote.Content] = []

    def fetch_into(file: BinaryIO, reserve: Callable[[int], None]) -> str:
        filesystem, path = remote.patiently(uri, lambda: resolve(uri))
        contents.append(remote.read(filesystem, path, uri, file, reserve))
        TALLY.fetched_bytes += file.tell()
        return contents[0].sha256

    try:
        copy = cache.bring(uri, fetch_into, sha256)
    except MediaResourceError as error:
        raise MediaResourceError(f"{uri}: {error}") from error
    etag = contents[0].etag if contents else None
    return Fetched(copy.path.name, *copy, etag)


def _local(uri: str, sha256: str, stamp: Stamp | None, cache: NodeCache) -> Fetched:
    try:
        now = stamp_of(uri)
        return Fetched(sha256, Path(uri), now) if now == stamp else fetch(uri, cache)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{uri} is no longer there: bring it back, or ingest it from where it is now"
        ) from error
    except BadMediaError as error:
        raise BadMediaError(f"{uri} changed since it was registered: {error}") from error


def _filesystem(uri: str) -> tuple[FileSystem, str]:
    return remote.filesystem_of(uri) if is_remote(uri) else _local_filesystem(uri)


def _local_filesystem(uri: str) -> tuple[FileSystem, str]:
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(uri)


def _cached(cache_dir: Path, sha256: str) -> Path:
    return cache_dir / sha256[:2] / sha256
