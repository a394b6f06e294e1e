"""Registration: list, skip the unchanged, hash and probe the rest, commit what was found.

Probing runs in bounded child processes, a few at a time; each file is committed as soon as it is
known, so that a registration that dies goes on where it stopped.
"""

from __future__ import annotations

import logging
import os.path
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from cluster.db import register as db
from cluster.db.info import apply_info
from cluster.errors import FailureClass, RushesError, StageError, classify, os_reason
from cluster.formats.info_json import Info, read_info, sidecar_of
from cluster.media.inputs import Listing, Refused, SourceFile

if TYPE_CHECKING:
    from cluster.media.node_cache import NodeCache
    from cluster.media.store import Fetched

PROBE_DEADLINE_S = 60.0
# A file that is written to while it is read is read once more, then reported.
READS = 2
PROBE_MEMORY_BYTES = 2 * 2**30
MAX_WORKERS = 4
# Looks at objects, which wait for the store and for nothing else.
LOOKS_IN_FLIGHT = 16
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Registered:
    """What registration found: assets by source, and what it could not read."""

    asset_ids: dict[str, int] = field(default_factory=dict)
    unreadable: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    no_content: list[Refused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def assets(self) -> list[int]:
        """Every asset the sources lead to, once."""
        return sorted(set(self.asset_ids.values()))


@dataclass(frozen=True, slots=True)
class _Found:
    file: SourceFile
    asset: db.NewAsset | None
    failure: FailureClass | None = None
    message: str = ""
    info: Info | None = None
    note: str = ""


def changed(conn: Any, listing: Listing, *, retry_unreadable: bool) -> tuple[list[SourceFile], dict[str, int]]:
    """The files to read, and uri -> asset of those that are known and unchanged."""
    known = db.known_sources(conn, [file.uri for file in listing.files])
    retry = db.unreadable_assets(conn, [k.asset_id for k in known.values()], told=retry_unreadable)
    todo, same = [], {}
    for file in listing.files:
        have = known.get(file.uri)
        if have is None or have.asset_id in retry or file.byte_size != have.byte_size:
            todo.append(file)
        elif file.mtime_ns != have.mtime_ns:
            todo.append(replace(file, etag=have.etag))
        else:
            same[file.uri] = have.asset_id
    return todo, same


def register(
    session: Any,
    files: Sequence[SourceFile],
    cache: NodeCache,
    on_file: Callable[[int], None] = lambda done: None,
    *,
    tell_again: bool = False,
) -> Registered:
    """Hash and probe `files` and commit each; what cannot be read becomes data, not an exception.

    Objects whose time moved and whose mark did not are not read. A source that cannot be read for a reason
    already on record is told again only if asked for.
    """
    registered = Registered()
    registered.asset_ids |= _touched(session, files)
    left = [file for file in files if file.uri not in registered.asset_ids]
    for done, found in enumerate(_read_all(left, cache) if left else (), len(files) - len(left) + 1):
        session.run(partial(_commit, found=found, registered=registered))
        on_file(done)
    if not tell_again:
        registered.no_content = session.run(partial(db.new_refusals, refused=registered.no_content))
    return registered


def _touched(session: Any, files: Sequence[SourceFile]) -> dict[str, int]:
    """Source -> asset of the objects that were written again with the content that is registered."""
    marked = [file for file in files if file.etag is not None]
    if not marked:
        return {}
    with ThreadPoolExecutor(LOOKS_IN_FLIGHT) as pool:
        same = list(pool.map(_has_its_mark, marked))
    times = {file.uri: file.mtime_ns for file, same in zip(marked, same, strict=True) if same}
    return session.run(lambda conn: db.touch_sources(conn, times))


def _has_its_mark(file: SourceFile) -> bool:
    from cluster.media import remote, store

    try:
        filesystem, path = store.resolve(file.uri)
        return remote.look(filesystem, path, file.uri) == (file.byte_size, file.etag)
    except OSError:  # reading it tells what is wrong
        return False


def _commit(conn: Any, found: _Found, registered: Registered) -> None:
    file = found.file
    if found.asset is None:
        registered.no_content.append(Refused(file.uri, found.message, found.failure or FailureClass.BUG))
        return
    with conn.transaction():
        asset_id = db.add_asset(conn, found.asset)
        db.add_source(conn, file.uri, asset_id, file.byte_size, file.mtime_ns, file.etag)
        if found.info is not None:
            apply_info(conn, asset_id, found.info)
    if found.note:
        registered.notes.append(found.note)
    registered.asset_ids[file.uri] = asset_id
    if found.failure is not None:
        registered.unreadable[asset_id] = (file.uri, found.failure.value, found.message)


def _read_all(files: Sequence[SourceFile], cache: NodeCache) -> Iterator[_Found]:
    from cluster.media.child import MediaChild

    workers = max(1, min(MAX_WORKERS, len(files)))
    children: queue.SimpleQueue[MediaChild] = queue.SimpleQueue()
    made = [MediaChild(PROBE_MEMORY_BYTES) for _ in range(workers)]
    for child in made:
        children.put(child)

    def read(file: SourceFile) -> _Found:
        child = children.get()
        try:
            return _with_sidecar(_read(file, child, cache))
        finally:
            children.put(child)

    try:
        with ThreadPoolExecutor(workers) as pool:
            futures: list[Future[_Found]] = [pool.submit(read, file) for file in files]
            for future in futures:
                yield future.result()
    finally:
        for child in made:
            child.close()


def _with_sidecar(found: _Found) -> _Found:
    """What was found and what the downloader's side-car says; one that cannot be read costs the file nothing."""
    from cluster.media.store import is_remote

    if found.asset is None or is_remote(found.file.uri):
        return found
    path = sidecar_of(Path(found.file.uri))
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for long names
        return found
    try:
        return replace(found, info=read_info(path))
    except OSError as error:
        return replace(found, note=f"side-car left out: {path}: {_reason(error)}")
    except RushesError as error:
        return replace(found, note=f"side-car left out: {error}")


def _read(file: SourceFile, child: Any, cache: NodeCache) -> _Found:
    for _ in range(READS):
        found = _read_once(file, child, cache)
        if found is not None:
            return found
    message = "it keeps changing while it is read: ingest it again when it is complete"
    return _Found(file, None, FailureClass.TRANSIENT, message)


def _read_once(file: SourceFile, child: Any, cache: NodeCache) -> _Found | None:
    """What the file holds; None when it changed between its hash and the end of its probe."""
    from cluster.media import store
    from cluster.media.hashing import ChangingError

    with ExitStack() as held:
        try:
            fetched = held.enter_context(store.holding(lambda: store.fetch(file.uri, cache), cache))
        except ChangingError:
            return None
        except (OSError, StageError) as error:
            return _Found(file, None, classify(error), _reason(error))
        return _probed(file, fetched, child)


def _probed(file: SourceFile, fetched: Fetched, child: Any) -> _Found | None:
    from cluster.media.hashing import stamp_of
    from cluster.media.store import is_remote

    # What was read, not what was listed: the file may have been replaced between the two.
    mtime_ns = file.mtime_ns if is_remote(file.uri) else fetched.stamp.mtime_ns
    file = replace(file, byte_size=fetched.stamp.byte_size, mtime_ns=mtime_ns, etag=fetched.etag)
    try:
        probe = child.probe(fetched.path, PROBE_DEADLINE_S)
        return _described(file, fetched.sha256, probe) if probe.stamp == fetched.stamp else None
    except (OSError, StageError) as error:
        try:
            if stamp_of(fetched.path) != fetched.stamp:
                return None
        except OSError as gone:
            return _Found(file, None, classify(gone), _reason(gone))
        return _Found(file, db.NewAsset(fetched.sha256, file.byte_size), classify(error), _reason(error))


def _described(file: SourceFile, sha256: str, probe: Any) -> _Found:
    from cluster.media.probe import recorded_at

    when, origin = recorded_at(probe.recorded_at, Path(file.uri).name, file.mtime_ns)
    asset = db.NewAsset(
        sha256=sha256,
        byte_size=file.byte_size,
        media_kind=probe.kind,
        container=probe.container,
        duration_ms=probe.duration_ms,
        audio_stream=probe.audio_stream,
        width=probe.width,
        height=probe.height,
        fps=probe.fps,
        sample_rate_hz=probe.sample_rate_hz,
        channels=probe.channels,
        recorded_at=when,
        recorded_at_origin=origin,
    )
    return _Found(file, asset)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return os_reason(error)
    return str(error) or type(error).__name__


def record_failures(conn: Any, run_id: UUID, registered: Registered, prints: dict[str, str]) -> None:
    """File what could not be read under the run: units failed, history appended."""
    from cluster.db.ledger import CHARGED
    from cluster.db.settling import fail_units

    db.forget_registration(conn, run_id)
    for asset_id, (uri, failure, message) in registered.unreadable.items():
        with conn.transaction():
            fail_units(conn, asset_id, prints, [CHARGED], message)
            db.add_failure(
                conn,
                run_id=run_id,
                asset_id=asset_id,
                uri=uri,
                lane=CHARGED,
                fingerprint=prints[CHARGED],
                failure=failure,
                stage="register",
                message=message,
            )
    for uri, message, failure in registered.no_content:
        db.add_failure(
            conn, run_id=run_id, asset_id=None, uri=uri, lane=None, fingerprint=None,
            failure=failure.value, stage="register", message=message,
        )  # fmt: skip
