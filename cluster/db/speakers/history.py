"""The log of decisions as a person reads it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, LiteralString

import psycopg

from cluster.words import short_uri


@dataclass(frozen=True, slots=True)
class Place:
    """A time of an asset that an event points at, and whom it named there (None: nobody known)."""

    asset: str
    sha256: str
    start_ms: int
    end_ms: int
    scope: str
    name: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of the log.

    `name` and `into` are what people were called then; `undone_by` is the event that took this one back, None
    while it stands.
    """

    event: int
    at: datetime
    author: str
    kind: str
    name: str | None
    into: str | None
    new_name: str | None
    undoes: int | None
    stands: bool
    undone_by: int | None
    places: list[Place] = field(default_factory=list)

    def in_words(self) -> str:
        """What was decided, in a few words."""
        if self.kind in ("undo", "redo"):
            return f"{'took back' if self.kind == 'undo' else 'brought back'} event {self.undoes}"
        if self.kind == "merge":
            return f"{self.name} is {self.into}"
        if self.kind == "rename":
            return f"{self.name} is called {self.new_name}"
        if self.kind == "part":
            return f"divided a cluster: {len(self.places)} voice(s) placed"
        what = {"enroll": "enrolled", "split": "split off"}.get(self.kind)
        who = self.name or "nobody known"
        return f"{who}{f' ({what})' if what else ''}: {self._where()}"

    def _where(self) -> str:
        if not self.places:
            return "in an asset that was forgotten"
        first = self.places[0]
        minutes, rest_ms = divmod(first.start_ms // 100 * 100, 60_000)
        only = " (this segment only)" if first.scope == "segment" else ""
        more = f" and {len(self.places) - 1} more place(s)" if len(self.places) > 1 else ""
        return f"{short_uri(first.asset)} at {minutes}:{rest_ms / 1000:04.1f}{only}{more}"


_EVENTS: LiteralString = """
SELECT e.event_id, e.at, e.author, e.kind,
  coalesce((SELECT r.name FROM speaker_events r WHERE r.kind = 'rename' AND r.speaker_id = e.speaker_id
    AND r.event_id < e.event_id ORDER BY r.event_id DESC LIMIT 1), p.first_name),
  coalesce((SELECT r.name FROM speaker_events r WHERE r.kind = 'rename' AND r.speaker_id = e.into_id
    AND r.event_id < e.event_id ORDER BY r.event_id DESC LIMIT 1), i.first_name), e.name, e.undoes,
  u.event_id IS NULL OR u.kind = 'redo', CASE WHEN u.kind = 'undo' THEN u.event_id END
FROM speaker_events e LEFT JOIN speakers p ON p.speaker_id = e.speaker_id
LEFT JOIN speakers i ON i.speaker_id = e.into_id
LEFT JOIN LATERAL (SELECT event_id, kind FROM speaker_events u WHERE u.undoes = e.event_id
  ORDER BY event_id DESC LIMIT 1) u ON true
WHERE (%(events)s::bigint[] IS NULL OR e.event_id = ANY(%(events)s))
  AND (%(people)s::bigint[] IS NULL OR e.speaker_id = ANY(%(people)s) OR e.into_id = ANY(%(people)s)
    OR coalesce(e.undoes, e.event_id) IN (SELECT event_id FROM speaker_marks WHERE speaker_id = ANY(%(people)s))
    OR e.undoes IN (SELECT event_id FROM speaker_events WHERE speaker_id = ANY(%(people)s)
      OR into_id = ANY(%(people)s)))
  AND (%(before)s::bigint IS NULL OR e.event_id < %(before)s)
ORDER BY e.event_id DESC LIMIT %(limit)s
"""
_PLACES: LiteralString = """
SELECT m.event_id, n.name, encode(a.sha256, 'hex'), m.start_ms, m.end_ms, m.scope, p.name FROM speaker_marks m
JOIN assets a USING (asset_id) JOIN asset_names n USING (asset_id) LEFT JOIN speakers p ON p.speaker_id = m.speaker_id
WHERE m.event_id = ANY(%s) ORDER BY m.mark_id
"""


def read_history(
    conn: psycopg.Connection[Any],
    *,
    people: Iterable[int] | None = None,
    event_ids: Iterable[int] | None = None,
    before: int | None = None,
    limit: int | None = None,
) -> list[Entry]:
    """The events, latest first: all, or those about these people, or these numbers; at most `limit`.

    `before` leaves out this event and all after it.
    """
    values = {
        "people": None if people is None else sorted(set(people)),
        "events": None if event_ids is None else sorted(set(event_ids)),
        "before": before,
        "limit": limit,
    }
    entries = {row[0]: Entry(*row) for row in conn.execute(_EVENTS, values)}
    for number, *place in conn.execute(_PLACES, (list(entries),)):
        entries[number].places.append(Place(*place))
    return list(entries.values())


def bearers(conn: psycopg.Connection[Any], name: str) -> list[int]:
    """Everybody who has or had this name in any case, in use or not, with whom they are merged."""
    rows = conn.execute(
        "WITH named AS (SELECT coalesce(root_id, speaker_id) FROM speakers s"
        "  WHERE lower(%(name)s) IN (lower(name), lower(first_name)) OR EXISTS (SELECT 1 FROM speaker_events e"
        "   WHERE e.speaker_id = s.speaker_id AND e.kind = 'rename' AND lower(e.name) = lower(%(name)s)))"
        " SELECT speaker_id FROM speakers WHERE coalesce(root_id, speaker_id) IN (SELECT * FROM named)",
        {"name": name},
    )
    return [row[0] for row in rows]
