"""Thumbnails by their content: `STORE/thumbnails/ab/<sha256>.jpg`, on any file system that pyarrow knows.

A name never changes meaning, so two processes that write the same picture do each other no harm. Files are
written before the rows that name them are committed; those that no row names are swept later, after a grace.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import FailureClass, RushesError, StageError
from cluster.media.store import resolve

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

# A file this young may belong to a row that waits, behind a model, for its commit.
GRACE_S = 86_400.0
_FOLDER = "thumbnails"
_NAME = re.compile(r"[0-9a-f]{64}\.jpg|\.part-.*")


class StoreError(RushesError, StageError):
    """The store takes or gives no file now; a transient failure that would strike every row just the same."""

    failure = FailureClass.TRANSIENT
    about_rows = False


class StoreFullError(StoreError):
    """There is no room in the store."""

    failure = FailureClass.RESOURCE


class NoBlobError(StoreError):
    """The store does not have this content, or only a damaged copy of it."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A file in the store: its path there, the SHA-256 (hex) it is named by (None: broken off), its bytes."""

    path: str
    sha256: str | None
    size_bytes: int


def check_store(root: str) -> None:
    """Make the folder of a local store; raises `UsageError` for an address that no file system serves."""
    filesystem, path = _place(root)
    if _is_local(filesystem):
        with _told(root):
            Path(path).mkdir(parents=True, exist_ok=True)


def blob_path(root: str, sha256: str) -> str:
    """Where the content of this SHA-256 (hex) lies, as a person or a browser of the store names it."""
    base, mark, query = root.partition("?") if "://" in root else (root, "", "")
    return f"{base.rstrip('/')}/{_FOLDER}/{sha256[:2]}/{sha256}.jpg{mark}{query}"


def write_blob(root: str, data: bytes) -> str:
    """Put a JPEG into the store; returns its SHA-256 (hex). Raises `StoreError`.

    It is written even where it lies already: a damaged copy is mended, and a sweep, which looks at the time of
    a file right before it deletes it, sees that somebody needs it again.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    filesystem, path = _place(root)
    target = f"{path}/{sha256[:2]}/{sha256}.jpg"
    with _told(root):
        if _is_local(filesystem):
            _write_local(Path(target), data)
        else:
            _write_remote(filesystem, target, data)
    return sha256


def read_blob(root: str, sha256: str) -> bytes:
    """The JPEG of this SHA-256 (hex); raises `NoBlobError` when it is missing or damaged, else `StoreError`."""
    filesystem, path = _place(root)
    try:
        with _told(root), filesystem.open_input_stream(f"{path}/{sha256[:2]}/{sha256}.jpg", compression=None) as stream:
            data = stream.read()
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise NoBlobError(f"{blob_path(root, sha256)} is not there: {_MEND}") from error
        raise
    if hashlib.sha256(data).hexdigest() != sha256:
        raise NoBlobError(f"{blob_path(root, sha256)} is damaged: {_MEND}")
    return data


def old_blobs(root: str, now_s: float) -> Iterator[list[Blob]]:
    """Files of the store that are older than the grace, folder by folder, broken-off ones too."""
    filesystem, path = _place(root)
    with _told(root):
        for folder in sorted(_listed(filesystem, path), key=lambda info: info.path):
            if folder.is_file or not re.fullmatch("[0-9a-f]{2}", folder.base_name):
                continue
            infos = sorted(_listed(filesystem, folder.path), key=lambda info: info.path)
            found = [_blob(info) for info in infos if _NAME.fullmatch(info.base_name) and _is_old(info, now_s)]
            if found:
                yield found


def drop_blob(root: str, blob: Blob, now_s: float) -> bool:
    """Delete a file unless it was written anew meanwhile; False when it was, or when it is gone already."""
    filesystem, _ = _place(root)
    with _told(root):
        info = filesystem.get_file_info(blob.path)
        if not info.is_file or not _is_old(info, now_s):
            return False
        filesystem.delete_file(blob.path)
    return True


_MEND = "`rushes ingest --lanes frames --force` makes it again"


def _blob(info: FileInfo) -> Blob:
    name = info.base_name
    return Blob(info.path, None if name.startswith(".part-") else name.removesuffix(".jpg"), info.size)


def _is_old(info: FileInfo, now_s: float) -> bool:
    return info.mtime is not None and now_s - info.mtime.timestamp() > GRACE_S


def _listed(filesystem: FileSystem, path: str) -> list[FileInfo]:
    from pyarrow.fs import FileSelector

    return filesystem.get_file_info(FileSelector(path, allow_not_found=True))


@lru_cache(maxsize=4)
def _place(root: str) -> tuple[FileSystem, str]:
    filesystem, path = resolve(root)
    return filesystem, f"{path.rstrip('/')}/{_FOLDER}"


def _is_local(filesystem: FileSystem) -> bool:
    from pyarrow.fs import LocalFileSystem

    return isinstance(filesystem, LocalFileSystem)


def _write_local(target: Path, data: bytes) -> None:
    if not target.parent.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        _keep_names(target.parent.parent)
    handle, name = tempfile.mkstemp(prefix=".part-", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            # A row that names it survives the loss of the machine, and so must the file.
            os.fsync(file.fileno())
        Path(name).replace(target)
        _keep_names(target.parent)
    finally:
        Path(name).unlink(missing_ok=True)


def _keep_names(folder: Path) -> None:
    """The names in a folder survive the loss of the machine only once the folder itself is on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        # some network file systems know no such thing
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _write_remote(filesystem: FileSystem, target: str, data: bytes) -> None:
    try:
        stream = filesystem.open_output_stream(target, compression=None)
    except FileNotFoundError:
        # Object stores have no folders; what has them may want them made.
        filesystem.create_dir(target.rpartition("/")[0], recursive=True)
        stream = filesystem.open_output_stream(target, compression=None)
    with stream:
        stream.write(data)


@contextmanager
def _told(root: str) -> Iterator[None]:
    """A fault of the file system as one line that names the setting."""
    try:
        yield
    except OSError as error:
        kind = StoreFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreError
        said = (error.strerror or str(error)).strip()
        raise kind(f"the store {root.partition('?')[0]} (RUSHES_STORE): {said}") from error
