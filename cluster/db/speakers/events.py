"""The log of human decisions: append-only, attached to times of assets, which outlive every segmentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from cluster.db.speakers.state import pieces_of
from cluster.errors import RushesError, UsageError
from cluster.speakers.decide import Mark, superseded

Scope = Literal["segment", "speaker"]


@dataclass(frozen=True, slots=True)
class Target:
    """A time of an asset that a person points at: who speaks then (`segment`), or whose the voice is (`speaker`)."""

    asset_id: int
    start_ms: int
    end_ms: int
    scope: Scope = "speaker"


@dataclass(frozen=True, slots=True)
class Event:
    """One human decision as the log has it; `stands` until somebody takes it back."""

    event_id: int
    kind: str
    speaker_id: int | None
    into_id: int | None
    undoes: int | None
    stands: bool


def record(
    conn: psycopg.Connection[Any],
    kind: str,
    author: str,
    *,
    speaker_id: int | None = None,
    into_id: int | None = None,
    name: str | None = None,
    undoes: int | None = None,
) -> int:
    """Add one event; returns its number."""
    row = conn.execute(
        "INSERT INTO speaker_events (kind, speaker_id, into_id, name, undoes, author) VALUES (%s, %s, %s, %s, %s, %s)"
        " RETURNING event_id",
        (kind, speaker_id, into_id, name, undoes, author),
    ).fetchone()
    assert row is not None
    return row[0]


def add_mark(conn: psycopg.Connection[Any], event_id: int, target: Target, speaker_id: int | None) -> set[int]:
    """Attach the event to a time; what was said of the same voice before is superseded.

    That goes for what was taken back too: brought back, it still is older than this. Returns the speakers that
    were named there before.
    """
    row = conn.execute(
        "INSERT INTO speaker_marks (event_id, asset_id, start_ms, end_ms, scope, speaker_id)"
        " VALUES (%s, %s, %s, %s, %s, %s) RETURNING mark_id",
        (event_id, target.asset_id, target.start_ms, target.end_ms, target.scope, speaker_id),
    ).fetchone()
    assert row is not None
    mark = Mark(row[0], target.start_ms, target.end_ms, target.scope, speaker_id, None)
    others = [one for one in _marks_ever(conn, target.asset_id) if one.mark_id != row[0]]
    old = superseded(mark, others, pieces_of(conn, target.asset_id))
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO superseded_marks (mark_id, by_mark_id) VALUES (%s, %s)", [(one, row[0]) for one in old]
        )
    return {one.speaker for one in others if one.mark_id in old and one.speaker is not None}


def _marks_ever(conn: psycopg.Connection[Any], asset_id: int) -> list[Mark]:
    rows = conn.execute(
        "SELECT mark_id, start_ms, end_ms, scope, speaker_id, NULL::bigint FROM speaker_marks"
        " WHERE asset_id = %s AND scope <> 'part'",
        (asset_id,),
    )
    return [Mark(*row) for row in rows]


def read_event(conn: psycopg.Connection[Any], event_id: int | None) -> Event:
    """The event of this number, None for the latest that stands; `UsageError` when there is none."""
    row = conn.execute(
        "SELECT event_id, kind, speaker_id, into_id, undoes, event_id IN (SELECT event_id FROM standing_events)"
        " FROM speaker_events WHERE event_id = coalesce(%s, (SELECT max(event_id) FROM standing_events))",
        (event_id,),
    ).fetchone()
    if row is None and event_id is None:
        raise UsageError("there is nothing to undo: nobody decided anything that still stands")
    if row is None:
        raise UsageError(f"there is no event {event_id}: see `rushes speakers history`")
    return Event(*row)


def last_event(conn: psycopg.Connection[Any]) -> int:
    """The number of the latest event, 0 before the first."""
    row = conn.execute("SELECT coalesce(max(event_id), 0) FROM speaker_events").fetchone()
    assert row is not None
    return row[0]


def latest_by(conn: psycopg.Connection[Any]) -> tuple[int, str] | None:
    """Number and author of the latest event; None when all are forgotten."""
    return conn.execute("SELECT event_id, author FROM speaker_events ORDER BY event_id DESC LIMIT 1").fetchone()


def taken_back_by(conn: psycopg.Connection[Any], event_id: int) -> tuple[int, str]:
    """Number and author of the undo that took the event back."""
    row = conn.execute(
        "SELECT event_id, author FROM speaker_events WHERE undoes = %s ORDER BY event_id DESC LIMIT 1", (event_id,)
    ).fetchone()
    assert row is not None
    return row


def speakers_marked(conn: psycopg.Connection[Any], event_id: int) -> set[int]:
    """Whom the event names, and whom it took the place of."""
    rows = conn.execute(
        "SELECT speaker_id FROM speaker_marks WHERE event_id = %(event)s UNION"
        " SELECT o.speaker_id FROM superseded_marks s JOIN speaker_marks m ON m.mark_id = s.by_mark_id"
        " JOIN speaker_marks o ON o.mark_id = s.mark_id WHERE m.event_id = %(event)s",
        {"event": event_id},
    )
    return {row[0] for row in rows if row[0] is not None}


def assets_marked(conn: psycopg.Connection[Any], event_id: int) -> set[int]:
    """The assets that the event points at."""
    rows = conn.execute("SELECT DISTINCT asset_id FROM speaker_marks WHERE event_id = %s", (event_id,))
    return {row[0] for row in rows}


def targets_of(conn: psycopg.Connection[Any], event_id: int) -> list[Target]:
    """The times that the event points at, those of divided clusters left out."""
    rows = conn.execute(
        "SELECT asset_id, start_ms, end_ms, scope FROM speaker_marks WHERE event_id = %s AND scope <> 'part'"
        " ORDER BY mark_id",
        (event_id,),
    )
    return [Target(*row) for row in rows]


def assets_naming(conn: psycopg.Connection[Any], speaker_ids: Iterable[int]) -> set[int]:
    """The assets where any of these is or might be a speaker."""
    rows = conn.execute(
        "SELECT asset_id FROM local_speakers WHERE speaker_id = ANY(%(ids)s)"
        " UNION SELECT asset_id FROM speaker_marks WHERE speaker_id = ANY(%(ids)s)"
        " UNION SELECT asset_id FROM cluster_members WHERE speaker_id = ANY(%(ids)s)"
        " UNION SELECT asset_id FROM identifications WHERE speaker_id = ANY(%(ids)s)",
        {"ids": sorted(set(speaker_ids))},
    )
    return {row[0] for row in rows}


def recognised_from(conn: psycopg.Connection[Any], event_id: int) -> list[tuple[int, int]]:
    """The (asset, local speaker) recognised by what the event says, takes the place of, takes or brings back."""
    return conn.execute(
        "WITH marked AS (SELECT mark_id FROM speaker_marks WHERE event_id = (SELECT coalesce(undoes, event_id)"
        "  FROM speaker_events WHERE event_id = %s))"
        " SELECT DISTINCT asset_id, local_speaker FROM identifications JOIN recognised_from USING (run_id, speaker_id)"
        " WHERE is_accepted AND mark_id IN (SELECT mark_id FROM marked UNION"
        "  SELECT s.mark_id FROM superseded_marks s JOIN marked m ON m.mark_id = s.by_mark_id)",
        (event_id,),
    ).fetchall()


def count_unnamed(conn: psycopg.Connection[Any], event_id: int) -> int:
    """How many voices recognised by what the event is about are unknown."""
    voices = recognised_from(conn, event_id)
    row = conn.execute(
        "SELECT count(*) FROM unnest(%s::bigint[], %s::int[]) t(asset_id, local_speaker)"
        " JOIN local_speakers l USING (asset_id, local_speaker) WHERE l.speaker_id IS NULL AND l.method IS NULL",
        ([one[0] for one in voices], [one[1] for one in voices]),
    ).fetchone()
    assert row is not None
    return row[0]


def point_at(conn: psycopg.Connection[Any], asset_id: int, name: str, at_ms: int, scope: Scope = "speaker") -> Target:
    """The segment that is spoken at `at_ms` of the asset called `name`; `RushesError` when nobody speaks then.

    Transcripts show tenths of a second, so a segment that begins inside the tenth is the one that is meant.
    """
    pieces = pieces_of(conn, asset_id)
    begin = [piece for piece in pieces if at_ms <= piece.start_ms < at_ms + 100 and at_ms % 100 == 0]
    there = begin or [piece for piece in pieces if piece.start_ms <= at_ms < piece.end_ms]
    if there:
        # of people who talk at once, the one who holds the floor shortest is meant by pointing here
        best = min(there, key=lambda piece: (piece.end_ms - piece.start_ms, piece.start_ms))
        return Target(asset_id, best.start_ms, best.end_ms, scope)
    if not pieces:
        raise without_segments(conn, asset_id, name)
    near = min(pieces, key=lambda piece: max(piece.start_ms - at_ms, at_ms - piece.end_ms))
    raise RushesError(
        f"nobody speaks at {at_ms / 1000:.1f} s of {name}; the nearest speech is from {near.start_ms / 1000:.1f}"
        f" to {near.end_ms / 1000:.1f} s"
    )


def without_segments(conn: psycopg.Connection[Any], asset_id: int, name: str) -> RushesError:
    """Why there is nobody to name in an asset without segments."""
    done = conn.execute("SELECT 1 FROM units WHERE asset_id = %s AND lane = 'speech' AND state = 'done'", (asset_id,))
    if done.fetchone() is not None:
        return RushesError(f"nobody speaks in {name}: it has no segments")
    return RushesError(f"{name} has no transcript: run `rushes ingest` on it first")


def targets_listed(targets: Sequence[Target]) -> list[int]:
    """The assets of the targets, each once, by id."""
    return sorted({target.asset_id for target in targets})
