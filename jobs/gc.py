"""Clearing out: retired spaces, what old fingerprints left, thumbnails and copies of content that nobody needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from actors.lanes import cache_dir, fingerprints, space_identities, stored_fingerprints
from cluster.db import gc, runs
from cluster.db.patience import Session
from cluster.db.spaces import space_name
from cluster.db.stored import stored_transcripts
from cluster.media.blobs import Blob, drop_blob, old_blobs
from cluster.media.sweep import unneeded_copies
from cluster.settings import Settings

_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Unneeded:
    """What can go: things in the database, files of this node with their bytes, and files of the store."""

    found: list[gc.Found]
    copies: list[tuple[Path, int]]
    thumbnails: list[Blob]

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.found or self.copies or self.thumbnails)

    @property
    def copies_bytes(self) -> int:
        """Bytes of the files."""
        return sum(size for _, size in self.copies)

    @property
    def thumbnails_bytes(self) -> int:
        """Bytes of the files in the store."""
        return sum(blob.size_bytes for blob in self.thumbnails)


@dataclass(slots=True)
class Swept:
    """What went, and the bytes that came back; `left` names spaces that somebody took into use meanwhile."""

    spaces: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    copies: int = 0
    thumbnails: int = 0
    database_freed_bytes: int = 0
    copies_freed_bytes: int = 0
    thumbnails_freed_bytes: int = 0
    left: list[str] = field(default_factory=list)


def survey(session: Session, settings: Settings) -> Unneeded:
    """What nobody needs under these settings; units of dead runs are returned first."""
    session.run(runs.recover_dead_runs)
    keep = _keep(session, settings)
    needed = session.run(gc.needed_copies)
    return Unneeded(
        session.run(lambda conn: gc.find_unneeded(conn, keep)),
        unneeded_copies(cache_dir(settings), needed, time.time()),
        [blob for batch in old_blobs(settings.store_root(), time.time()) for blob in _unneeded(session, batch)],
    )


def sweep(session: Session, settings: Settings, unneeded: Unneeded) -> Swept:
    """Drop it; safe beside running jobs and searches, and to be repeated after a crash."""
    keep, swept = _keep(session, settings), Swept()
    before = session.run(gc.database_bytes)
    for found in unneeded.found:
        space = found.space
        if space is not None:
            dropped = session.run(lambda conn, space=space: gc.drop_space(conn, space))
            (swept.spaces if dropped else swept.left).append(found.what)
    swept.rows = session.run(lambda conn: gc.drop_rest(conn, keep))
    session.run(gc.give_space_back)
    swept.database_freed_bytes = max(0, before - session.run(gc.database_bytes))
    for path, size_bytes in unneeded.copies:
        path.unlink(missing_ok=True)
        swept.copies, swept.copies_freed_bytes = swept.copies + 1, swept.copies_freed_bytes + size_bytes
    _sweep_thumbnails(session, settings.store_root(), unneeded.thumbnails, swept)
    return swept


def _sweep_thumbnails(session: Session, root: str, found: Sequence[Blob], swept: Swept) -> None:
    """Drop them unless a frame came to need them, or they were written anew, since they were found."""
    for first in range(0, len(found), _BATCH):
        for blob in _unneeded(session, found[first : first + _BATCH]):
            if drop_blob(root, blob, time.time()):
                swept.thumbnails += 1
                swept.thumbnails_freed_bytes += blob.size_bytes


def _unneeded(session: Session, batch: Sequence[Blob]) -> list[Blob]:
    names = {blob.sha256 for blob in batch if blob.sha256 is not None}
    gone = session.run(lambda conn: gc.unneeded_thumbnails(conn, names))
    return [blob for blob in batch if blob.sha256 is None or blob.sha256 in gone]


def _keep(session: Session, settings: Settings) -> gc.Keep:
    prints = set(fingerprints(settings).values())
    for speech in session.run(stored_transcripts):
        prints.add(stored_fingerprints(settings, speech)["texts"])
    names = {space_name(kind, *one) for kind, one in space_identities(settings).items()}
    return gc.Keep(frozenset(prints), frozenset(names))
