"""What people decide about pairs of assets: append-only events, which no rerun of the machine touches.

A copy is a copy of one asset, which may be a copy itself: whoever is left at the end stands for all. A decision that
would contradict one in force is refused and names it, so that of two people at once one is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Any, LiteralString

import psycopg

from cluster.db.report import asset_names
from cluster.duplicates.groups import way
from cluster.errors import RushesError, UsageError
from cluster.words import short_uri

_LOCK_KEY = 0x5665_7264_6963_74


class ContradictionError(RushesError):
    """The decision does not go together with one that is in force."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision in force about two assets, the smaller id first; `kept` is None for different ones."""

    event_id: int
    author: str
    asset_a: int
    asset_b: int
    kept: int | None

    @property
    def copy(self) -> int | None:
        """The asset that the other one stands for."""
        return None if self.kept is None else self.asset_a if self.kept == self.asset_b else self.asset_b


@dataclass(frozen=True, slots=True)
class Decisions:
    """Every decision in force, and what follows from all of them."""

    verdicts: Sequence[Verdict]
    kept: Mapping[int, int]
    apart: Mapping[tuple[int, int], Verdict]

    def root(self, asset_id: int) -> int:
        """The asset that stands for this one, itself when none does."""
        return self.way(asset_id)[-1]

    def way(self, asset_id: int) -> list[int]:
        """From this asset over what each is a copy of to the one that stands for all."""
        return way(self.kept, asset_id)

    def decided(self, one: int, other: int) -> str | None:
        """`copy` or `different` when it follows from what was decided, None for an open pair."""
        if self.root(one) == self.root(other):
            return "copy"
        return "different" if self.told_apart(one, other) else None

    def told_apart(self, one: int, other: int) -> Verdict | None:
        """The decision by which these two, or whom they are copies of, are different."""
        low, high = sorted((self.root(one), self.root(other)))
        return self.apart.get((low, high))

    def of_copy(self, asset_id: int) -> Verdict | None:
        """The decision by which this asset is a copy."""
        return next((verdict for verdict in self.verdicts if verdict.copy == asset_id), None)


def read_decisions(conn: psycopg.Connection[Any]) -> Decisions:
    """All that is in force now."""
    rows = conn.execute("SELECT event_id, author, asset_a, asset_b, kept FROM duplicate_decisions ORDER BY event_id")
    verdicts = [Verdict(*row) for row in rows]
    kept = {verdict.copy: verdict.kept for verdict in verdicts if verdict.copy is not None and verdict.kept is not None}
    apart: dict[tuple[int, int], Verdict] = {}
    for verdict in verdicts:
        if verdict.kept is None:
            low, high = sorted((way(kept, verdict.asset_a)[-1], way(kept, verdict.asset_b)[-1]))
            apart.setdefault((low, high), verdict)
    return Decisions(verdicts, kept, apart)


def resolve_copies(conn: psycopg.Connection[Any], keep: int, copies: Sequence[int], author: str) -> list[int]:
    """Say that `keep` stands for each of `copies`; returns the new events, none for what is in force already.

    Raises `ContradictionError` where a decision in force says otherwise, `UsageError` for a copy of itself.
    """
    made = []
    with conn.transaction():
        _begin(conn, [keep, *copies])
        for copy in dict.fromkeys(copies):
            now = read_decisions(conn)
            if not _says_already(conn, now, keep, copy):
                made.append(_record(conn, "copy", author, keep, copy, kept=keep))
    return made


def resolve_different(conn: psycopg.Connection[Any], assets: Sequence[int], author: str) -> list[int]:
    """Say that each two of these assets are different; returns the new events, none for what is in force already.

    Raises `ContradictionError` for assets of which one stands for the other, `UsageError` for fewer than two.
    """
    ids = list(dict.fromkeys(assets))
    if len(ids) < 2 or len(ids) < len(assets):
        raise UsageError("name two or more assets, each once: an asset is not different from itself")
    with conn.transaction():
        _begin(conn, ids)
        now = read_decisions(conn)
        for one, other in combinations(ids, 2):
            if now.root(one) == now.root(other):
                verdict = now.of_copy(one) or now.of_copy(other)
                assert verdict is not None
                raise _contradicts(conn, verdict)
        known = {(verdict.asset_a, verdict.asset_b) for verdict in now.verdicts}
        pairs = [pair for pair in combinations(sorted(ids), 2) if pair not in known]
        return [_record(conn, "different", author, *pair) for pair in pairs]


def latest(conn: psycopg.Connection[Any]) -> int:
    """The latest decision in force; `UsageError` when there is none."""
    row = conn.execute("SELECT max(event_id) FROM duplicate_decisions").fetchone()
    if row is None or row[0] is None:
        raise UsageError("there is nothing to undo: nobody decided anything that still stands")
    return int(row[0])


def undo(conn: psycopg.Connection[Any], event_id: int | None, author: str) -> Entry:
    """Take a decision back, the latest in force when no number is given; returns it.

    Raises `UsageError` for one that was taken back, or is no decision.
    """
    with conn.transaction():
        _begin(conn, [])
        if event_id is None:
            event_id = latest(conn)
        entry = next(iter(read_history(conn, event_id=event_id)), None)
        if entry is None:
            raise UsageError(f"there is no event {event_id}: see `rushes dupes history`")
        if entry.verdict == "undo":
            raise UsageError(f"event {event_id} took event {entry.undoes} back: to decide it again, resolve it anew")
        if entry.undone_by is not None:
            raise UsageError(f"event {event_id} was taken back already, by event {entry.undone_by}")
        conn.execute(
            "INSERT INTO duplicate_events (author, verdict, asset_a, asset_b, undoes)"
            " SELECT %s, 'undo', asset_a, asset_b, event_id FROM duplicate_events WHERE event_id = %s",
            (author, event_id),
        )
        return entry


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of the log; `undone_by` is the event that took it back, None while it stands."""

    event: int
    at: datetime
    author: str
    verdict: str
    asset_a: str
    asset_b: str
    kept: str | None
    undoes: int | None
    undone_by: int | None
    sha256_a: str
    sha256_b: str

    def in_words(self) -> str:
        """What was decided, in a few words."""
        if self.verdict == "undo":
            return f"took back event {self.undoes}"
        if self.kept is None:
            return f"{short_uri(self.asset_a)} and {short_uri(self.asset_b)} are different"
        copy = self.asset_a if self.kept == self.asset_b else self.asset_b
        return f"{short_uri(copy)} is a copy of {short_uri(self.kept)}"


_HISTORY: LiteralString = """
SELECT e.event_id, e.at, e.author, e.verdict, a.name, b.name, CASE e.kept WHEN e.asset_a THEN a.name
  WHEN e.asset_b THEN b.name END, e.undoes, u.event_id,
  (SELECT encode(sha256, 'hex') FROM assets WHERE asset_id = e.asset_a),
  (SELECT encode(sha256, 'hex') FROM assets WHERE asset_id = e.asset_b)
FROM duplicate_events e JOIN asset_names a ON a.asset_id = e.asset_a JOIN asset_names b ON b.asset_id = e.asset_b
LEFT JOIN duplicate_events u ON u.undoes = e.event_id
WHERE (%(event)s::bigint IS NULL OR e.event_id = %(event)s)
  AND (%(asset)s::bigint IS NULL OR %(asset)s IN (e.asset_a, e.asset_b))
  AND (%(before)s::bigint IS NULL OR e.event_id < %(before)s)
ORDER BY e.event_id DESC LIMIT %(limit)s
"""


def read_history(
    conn: psycopg.Connection[Any],
    *,
    event_id: int | None = None,
    asset_id: int | None = None,
    before: int | None = None,
    limit: int | None = None,
) -> Iterator[Entry]:
    """The events, latest first: all, this one, or those about this asset; at most `limit`, those `before` another."""
    values = {"event": event_id, "asset": asset_id, "before": before, "limit": limit}
    return (Entry(*row) for row in conn.execute(_HISTORY, values))


def _begin(conn: psycopg.Connection[Any], ids: Sequence[int]) -> None:
    """One decision about copies at a time; the assets stay until it is made."""
    conn.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
    there = conn.execute(
        "SELECT 1 FROM assets WHERE asset_id = ANY(%s) ORDER BY asset_id FOR KEY SHARE", (sorted(set(ids)),)
    ).rowcount
    if there != len(set(ids)):
        raise RushesError("an asset that was named was forgotten a moment ago; nothing was changed")


def _says_already(conn: psycopg.Connection[Any], now: Decisions, keep: int, copy: int) -> bool:
    """Whether `copy` is a copy of `keep` already; raises what stands against it."""
    if keep == copy:
        raise UsageError(f"{_name(conn, keep)} cannot be a copy of itself")
    if now.kept.get(copy) == keep:
        return True
    against = now.of_copy(copy) or now.told_apart(keep, copy)
    if against is None and now.root(keep) == copy:
        against = now.of_copy(keep)
    if against is not None:
        raise _contradicts(conn, against)
    return False


def _contradicts(conn: psycopg.Connection[Any], verdict: Verdict) -> ContradictionError:
    entry = next(iter(read_history(conn, event_id=verdict.event_id)))
    return ContradictionError(
        f"{entry.in_words()} (event {entry.event} by {entry.author}); nothing was changed:"
        f" `rushes dupes undo {entry.event}` takes that back"
    )


def _record(
    conn: psycopg.Connection[Any], verdict: str, author: str, one: int, other: int, kept: int | None = None
) -> int:
    row = conn.execute(
        "INSERT INTO duplicate_events (author, verdict, asset_a, asset_b, kept) VALUES (%s, %s, %s, %s, %s)"
        " RETURNING event_id",
        (author, verdict, min(one, other), max(one, other), kept),
    ).fetchone()
    assert row is not None
    return row[0]


def _name(conn: psycopg.Connection[Any], asset_id: int) -> str:
    return short_uri(asset_names(conn, [asset_id])[asset_id])
