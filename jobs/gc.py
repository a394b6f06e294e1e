"""Clearing out: retired spaces, what old fingerprints left, and copies of content that nobody needs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from actors.lanes import cache_dir, fingerprints, space_identities, stored_fingerprints
from cluster.db import gc, runs
from cluster.db.patience import Session
from cluster.db.spaces import space_name
from cluster.db.stored import stored_transcripts
from cluster.media.sweep import unneeded_copies
from cluster.settings import Settings


@dataclass(frozen=True, slots=True)
class Unneeded:
    """What can go: things in the database, and files of this node with their bytes."""

    found: list[gc.Found]
    copies: list[tuple[Path, int]]

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.found or self.copies)

    @property
    def copies_bytes(self) -> int:
        """Bytes of the files."""
        return sum(size for _, size in self.copies)


@dataclass(slots=True)
class Swept:
    """What went, and the bytes that came back; `left` names spaces that somebody took into use meanwhile."""

    spaces: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    copies: int = 0
    database_freed_bytes: int = 0
    copies_freed_bytes: int = 0
    left: list[str] = field(default_factory=list)


def survey(session: Session, settings: Settings) -> Unneeded:
    """What nobody needs under these settings; units of dead runs are returned first."""
    session.run(runs.recover_dead_runs)
    keep = _keep(session, settings)
    needed = session.run(gc.needed_copies)
    return Unneeded(
        session.run(lambda conn: gc.find_unneeded(conn, keep)),
        unneeded_copies(cache_dir(settings), needed, time.time()),
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
    return swept


def _keep(session: Session, settings: Settings) -> gc.Keep:
    prints = set(fingerprints(settings).values())
    for speech in session.run(stored_transcripts):
        prints.add(stored_fingerprints(settings, speech)["texts"])
    names = {space_name(kind, *one) for kind, one in space_identities(settings).items()}
    return gc.Keep(frozenset(prints), frozenset(names))
