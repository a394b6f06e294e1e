"""What a decision about people came to, as it is answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from cluster.db.assets import shas_and_names
from cluster.db.speakers.actions import Decision
from cluster.db.speakers.events import Target
from cluster.db.speakers.names import Speaker
from cluster.db.speakers.outcome import Outcome, decide
from cluster.db.speakers.state import lock_decisions
from cluster.words import short_uri

T = TypeVar("T")


class Person(BaseModel):
    """Somebody with a name."""

    speaker_id: int
    name: str


class Reach(BaseModel):
    """How far the name goes now: voices by what gave it to them (human, cluster, knn), their segments and assets."""

    voices: dict[str, int]
    segments: int
    assets: int


class HeldBack(BaseModel):
    """Voices of a cluster that did not get the name, counted by why."""

    cluster_id: int
    reasons: dict[str, int]


class AssetCounts(BaseModel):
    """An asset that was pointed at, and how many of its segments are of known people now."""

    sha256: str
    source: str
    segments: int
    known: int
    unknown: int


class Decided(BaseModel):
    """What was decided and what followed. A dry run changes nothing and has no event."""

    event_id: int | None = Field(description="`POST /v1/speakers/undo` with it takes the decision back, exactly.")
    author: str
    dry_run: bool
    speaker: Person | None = Field(description="Whom it is about; null: nobody known, or several.")
    is_new: bool
    reach: Reach | None
    held_back: list[HeldBack]
    assets: list[AssetCounts]
    unnamed: int = Field(description="Voices recognised by it before that are unknown now: identify looks again.")


def one_decision(conn: Any, work: Callable[[], T]) -> T:
    """`work()` in one transaction in which nobody else decides: what it looks up stays true until it is done."""
    with conn.transaction():
        lock_decisions(conn)
        return work()


def decided(
    conn: Any, action: Callable[[], Decision], author: str, targets: Sequence[Target] = (), *, dry_run: bool = False
) -> Decided:
    """Do it and tell what followed."""
    return _answer(conn, decide(conn, action, targets, dry_run=dry_run), author, dry_run)


def person_of(speaker: Speaker | None) -> Person | None:
    """The same for an answer."""
    return None if speaker is None else Person(speaker_id=speaker.speaker_id, name=speaker.name)


def _answer(conn: Any, found: Outcome, author: str, dry_run: bool) -> Decided:
    reach, labels = found.reach, shas_and_names(conn, list(found.voices))
    return Decided(
        event_id=None if dry_run else found.decision.event_id,
        author=author,
        dry_run=dry_run,
        speaker=person_of(found.decision.speaker),
        is_new=found.decision.is_new,
        reach=None if reach is None else Reach(voices=reach.voices, segments=reach.segments, assets=reach.assets),
        held_back=[HeldBack(cluster_id=one.cluster_id, reasons=dict(one.reasons)) for one in found.held_back],
        assets=[_counts(*labels[asset_id], found.voices[asset_id]) for asset_id in found.voices],
        unnamed=found.unnamed,
    )


def _counts(sha256: str, name: str, voices: Any) -> AssetCounts:
    known, total = sum(n for who, n in voices.items() if who.speaker_id is not None), sum(voices.values())
    return AssetCounts(sha256=sha256, source=short_uri(name), segments=total, known=known, unknown=total - known)
