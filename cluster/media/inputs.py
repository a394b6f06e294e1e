"""From what a person names (files, folders, globs, lists, object-store keys) to a list of files."""

from __future__ import annotations

import errno
import glob
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, NamedTuple, TextIO
from urllib.parse import quote, unquote, urlsplit

from cluster.errors import FailureClass, RushesError, UsageError, classify
from cluster.media import remote, store

_AUDIO = (
    ".aac .ac3 .aif .aifc .aiff .amr .ape .au .caf .dts .eac3 .flac .m4a .m4b .mka .mp2 .mp3 .oga .ogg .opus "
    ".ra .spx .tta .w64 .wav .wma .wv"
)
_VIDEO = (
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .gxf .m1v .m2t .m2ts .m2v .m4v .mkv .mod .mov .mp4 .mpeg .mpg "
    ".mts .mxf .ogm .ogv .qt .rm .rmvb .tod .ts .vob .webm .wmv .wtv"
)
_IMAGE = (
    ".apng .avif .bmp .dib .gif .heic .heif .hif .ico .j2k .jfif .jp2 .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pgm "
    ".png .pnm .ppm .psd .qoi .tif .tiff .webp"
)
MEDIA_SUFFIXES = frozenset(f"{_AUDIO} {_VIDEO} {_IMAGE}".split())
# The index over source names takes entries of up to 2,700 bytes.
URI_BYTES = 2_000
# What no second look mends: the name leads in a circle, or is longer than the file system takes.
_NEVER = (errno.ELOOP, errno.ENAMETOOLONG)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file found: an absolute local path or an object-store URI, always valid UTF-8.

    `etag` is the store's mark of the content that is registered, where size and time leave it open.
    """

    uri: str
    byte_size: int
    mtime_ns: int | None
    etag: str | None


class Refused(NamedTuple):
    """A source whose content is not known, why, and what kind of failure that is."""

    uri: str
    message: str
    failure: FailureClass


class Folder(NamedTuple):
    """A folder or prefix that was listed: every source below it begins and ends like this."""

    start: str
    end: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """What was found: files without repeats, in order; the count of others; what could not be looked at.

    `folders` were listed whole; `keys` is every object met below those of them that lie in an object store.
    """

    files: list[SourceFile]
    ignored: int
    unreadable: list[Refused]
    folders: list[Folder] = field(default_factory=list)
    keys: frozenset[str] = frozenset()

    def gone(self, uris: Iterable[str]) -> list[str]:
        """Those of `uris` that are certainly not there any more.

        A local path that cannot be looked at, and a key outside the listed prefixes, may still be there.
        """
        return [uri for uri in uris if (self._deleted(uri) if store.is_remote(uri) else is_missing(uri))]

    def _deleted(self, uri: str) -> bool:
        below = any(uri.startswith(folder.start) and uri.endswith(folder.end) for folder in self.folders)
        return below and uri not in self.keys


def is_missing(path: str) -> bool:
    """Whether nothing has this local path; False for one that cannot be looked at."""
    try:
        os.stat(path)  # noqa: PTH116 - a Path for each of ten thousand sources costs more than the look
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def first_present(sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first of these (with `uri`) that is there, as far as a look tells; `RushesError` without any."""
    for row in sources:
        if store.is_remote(row["uri"]) or not is_missing(row["uri"]):
            return dict(row)
    raise RushesError(f"no source of it is there now: {sources[0]['uri'] if sources else 'all are gone'}")


def list_inputs(
    inputs: Sequence[str],
    list_files: Sequence[str] = (),
    stdin: TextIO | None = None,
    had_sources: Callable[[Folder], bool] = lambda folder: False,
) -> Listing:
    """Every file that `inputs` and the lines of `list_files` name.

    An input is a file (tried whatever its suffix), a folder (recursive, media suffixes only, hidden
    names skipped), a glob, an object-store URI or `-` for a list on `stdin`. A list has one input per
    line, relative to the working directory; blank lines and lines that start with # are skipped.
    A name that is not valid UTF-8 or too long is reported as unreadable: the database could not hold it.
    A folder or prefix that does not exist counts as empty if it `had_sources`: its disk is not mounted.
    Raises `UsageError` for another name that does not exist and for what is neither file nor folder.
    """
    collector = _Collector(had_sources)
    for name in inputs:
        if name == "-":
            collector.add_all(_lines(stdin))
        else:
            collector.add(name)
    for name in list_files:
        collector.add_all(_lines(stdin) if name == "-" else _list_file(name))
    return Listing(
        list(collector.files.values()),
        collector.ignored,
        list(collector.unreadable.values()),
        collector.listed,
        frozenset(collector.keys),
    )


def _lines(stream: Iterable[str] | None) -> list[str]:
    if stream is None:
        raise UsageError("- reads names from standard input, but there is none here")
    lines = (line.strip() for line in stream)
    return [line for line in lines if line and not line.startswith("#")]


def _list_file(name: str) -> list[str]:
    try:
        with Path(name).open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            return _lines(lines)
    except OSError as error:
        raise UsageError(f"list file {name}: {error.strerror}") from error


@dataclass(slots=True)
class _Collector:
    had_sources: Callable[[Folder], bool]
    files: dict[str, SourceFile] = field(default_factory=dict)
    ignored: int = 0
    unreadable: dict[str, Refused] = field(default_factory=dict)
    folders: set[tuple[int, int]] = field(default_factory=set)
    listed: list[Folder] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    def add_all(self, names: Iterable[str]) -> None:
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        if store.is_remote(name):
            self._add_remote(name)
        elif name.startswith("file://"):
            self._add_local(_path_of(name))
        elif name and glob.has_magic(name) and not os.path.lexists(name):
            self._add_glob(name)
        else:
            self._add_local(name)

    def _add_glob(self, pattern: str) -> None:
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - takes absolute patterns
        if not matches:
            raise UsageError(f"{_printable(pattern)}: no file matches this pattern")
        for match in matches:
            self._add_local(match)

    def _add_local(self, name: str) -> None:
        path = Path(os.path.abspath(name))  # noqa: PTH100 - resolve() would follow symlinks
        try:
            status = path.stat() if name else None
        except (FileNotFoundError, NotADirectoryError, ValueError):
            status = None
        except OSError as error:
            self._refuse(path, error)
            return
        if status is None:
            self._note_absent(_local_folder(path), name, f"{_printable(name)!r} does not exist")
            return
        if stat.S_ISDIR(status.st_mode):
            self._add_folder(path, status)
        elif stat.S_ISREG(status.st_mode):
            self._keep(_source(path, status))
        else:
            raise UsageError(f"{_printable(name)!r} is neither a file nor a folder")

    def _note_absent(self, folder: Folder, name: str, message: str) -> None:
        if not name or not self.had_sources(folder):
            raise UsageError(message)
        self.listed.append(folder)

    def _add_folder(self, path: Path, status: os.stat_result) -> None:
        self.listed.append(_local_folder(path))
        waiting = [(path, status)]
        while waiting:
            folder, status = waiting.pop()
            if (status.st_dev, status.st_ino) not in self.folders:
                self.folders.add((status.st_dev, status.st_ino))
                waiting.extend(reversed(self._scan(folder)))

    def _scan(self, folder: Path) -> list[tuple[Path, os.stat_result]]:
        """Keep the media of one folder; returns the folders inside it."""
        try:
            paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        except OSError as error:
            self._refuse(folder, error)
            return []
        inner = []
        for path in paths:
            try:
                status = path.stat()
            except OSError as error:
                self._skip(path, error)
                continue
            if stat.S_ISDIR(status.st_mode):
                inner.append((path, status))
            elif stat.S_ISREG(status.st_mode) and _is_media(path):
                self._keep(_source(path, status))
            else:
                self.ignored += 1
        return inner

    def _add_remote(self, uri: str) -> None:
        from pyarrow import ArrowInvalid
        from pyarrow.fs import FileSelector, FileType

        filesystem, path = store.resolve(uri)
        try:
            info = remote.patiently(uri, lambda: filesystem.get_file_info(path))
            folder = FileSelector(path, recursive=True)
            is_folder = info.type == FileType.Directory
            inside = remote.patiently(uri, lambda: filesystem.get_file_info(folder)) if is_folder else []
        except (FileNotFoundError, PermissionError) as error:
            raise RushesError(f"{uri}: {error.strerror}") from error
        except OSError as error:
            raise RushesError(str(error)) from error
        except ArrowInvalid as error:
            raise UsageError(f"{uri}: {error}") from error
        if info.type == FileType.File:
            self._keep(SourceFile(uri, info.size, remote.whole_seconds(info.mtime_ns), None))
            return
        if info.type == FileType.NotFound:
            self._note_absent(_remote_folder(uri), uri, f"{uri} does not exist")
            return
        self.listed.append(_remote_folder(uri))
        for item in sorted(inside, key=lambda item: item.path):
            relative = item.path[len(path.rstrip("/")) :].removeprefix("/")
            child = _child_uri(uri, relative)
            self.keys.add(child)
            if item.type != FileType.File or any(part.startswith(".") for part in relative.split("/")):
                continue
            if not _is_media(PurePosixPath(relative)):
                self.ignored += 1
            elif "//" in item.path:
                self._cannot_name(child, "its key has an empty part (//), and pyarrow opens no such key: rename it")
            else:
                self._keep(SourceFile(child, item.size, remote.whole_seconds(item.mtime_ns), None))

    def _keep(self, file: SourceFile) -> None:
        if _printable(file.uri) != file.uri:
            self._cannot_name(file.uri, "its name is not valid UTF-8: rename it")
        elif len(file.uri.encode()) > URI_BYTES:
            self._cannot_name(file.uri, f"its path is longer than {URI_BYTES} bytes: move it")
        else:
            self.files.setdefault(file.uri, file)

    def _skip(self, path: Path, error: OSError) -> None:
        if _is_media(path):
            self._refuse(path, error)
        else:
            self.ignored += 1

    def _refuse(self, path: Path, error: OSError) -> None:
        uri = _printable(str(path))
        failure = FailureClass.BAD_MEDIA if error.errno in _NEVER else classify(error)
        self.unreadable[uri] = Refused(uri, error.strerror or str(error), failure)

    def _cannot_name(self, uri: str, why: str) -> None:
        uri = _printable(uri)
        self.unreadable[uri] = Refused(uri, why, FailureClass.BAD_MEDIA)


def _source(path: Path, status: os.stat_result) -> SourceFile:
    return SourceFile(str(path), status.st_size, status.st_mtime_ns, None)


def _is_media(path: PurePath) -> bool:
    return path.suffix.lower() in MEDIA_SUFFIXES


def _printable(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _path_of(uri: str) -> str:
    parts = urlsplit(re.sub(r"[?#]", lambda found: quote(found.group()), uri))
    if parts.netloc not in ("", "localhost"):
        raise UsageError(f"{uri} names another machine: give file:///path, or a path that is mounted here")
    return unquote(parts.path, errors="surrogateescape")


def _local_folder(path: Path) -> Folder:
    return Folder(f"{_printable(str(path)).rstrip('/')}/")


def _remote_folder(uri: str) -> Folder:
    base, mark, query = uri.partition("?")
    return Folder(f"{base.rstrip('/')}/", mark + query)


def _child_uri(uri: str, relative: str) -> str:
    base, mark, query = uri.partition("?")
    return f"{base.rstrip('/')}/{quote(relative)}{mark}{query}"
