"""Speakers by name, and what follows for them from the standing events: name, merges, whether they are in use."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psycopg

from cluster.errors import RushesError, UsageError

MOST_CHARS = 200


@dataclass(frozen=True, slots=True)
class Speaker:
    """A named person."""

    speaker_id: int
    name: str


def clean_name(name: str) -> str:
    """The name on one line; `UsageError` for one that is empty or too long or means nobody."""
    cleaned = " ".join("".join(char if char.isprintable() else " " for char in name).split())
    if not cleaned or len(cleaned) > MOST_CHARS or cleaned.upper() == "UNKNOWN":
        raise UsageError(f"{name!r} is no name of a person: give 1 to {MOST_CHARS} characters, and not UNKNOWN")
    return cleaned


def find_speaker(conn: psycopg.Connection[Any], name: str) -> Speaker | None:
    """The person in use of this name, whatever its case; None when there is none."""
    row = conn.execute(
        "SELECT speaker_id, name FROM speakers WHERE lower(name) = lower(%s) AND is_used AND merged_into IS NULL",
        (clean_name(name),),
    ).fetchone()
    return None if row is None else Speaker(*row)


def known_speaker(conn: psycopg.Connection[Any], name: str) -> Speaker:
    """The person of this name; a `UsageError` that says who is meant perhaps when there is none."""
    found = find_speaker(conn, name)
    if found is not None:
        return found
    merged = conn.execute(
        "SELECT s.name, r.name FROM speakers s JOIN speakers r ON r.speaker_id = s.root_id"
        " WHERE lower(s.name) = lower(%s) AND s.merged_into IS NOT NULL AND r.is_used ORDER BY s.speaker_id DESC",
        (clean_name(name),),
    ).fetchone()
    if merged is not None:
        raise UsageError(f"{merged[0]} was merged into {merged[1]}: use that name, or undo the merge")
    raise UsageError(f"nobody is called {name!r}; {alike_names(conn, name)}")


def alike_names(conn: psycopg.Connection[Any], name: str) -> str:
    """`did you mean ...?` with the names that begin alike or are spelled alike, else which names there are."""
    names = [row[0] for row in conn.execute("SELECT name FROM speakers WHERE is_used AND merged_into IS NULL")]
    wanted = name.casefold().strip()
    begin = [one for one in names if one.casefold().startswith(wanted)]
    near = difflib.get_close_matches(name, names, 5, 0.75)
    found = sorted({*begin, *near})[:5]
    if found:
        return f"did you mean {' or '.join(found)}?"
    return f"known: {', '.join(sorted(names)[:20])}" if names else "nobody has a name yet: `rushes speakers label`"


def ensure_speaker(conn: psycopg.Connection[Any], name: str) -> tuple[Speaker, bool]:
    """The person of this name, made when there is none, and whether it is new."""
    cleaned = clean_name(name)
    found = find_speaker(conn, cleaned)
    if found is not None:
        return found, False
    # One that an undo took out of use comes back under its own name, so that a redo finds it.
    row = conn.execute(
        "SELECT speaker_id FROM speakers WHERE name = %s AND NOT is_used AND merged_into IS NULL"
        " ORDER BY speaker_id DESC LIMIT 1",
        (cleaned,),
    ).fetchone()
    row = (
        row
        or conn.execute(
            "INSERT INTO speakers (name, first_name) VALUES (%s, %s) RETURNING speaker_id", (cleaned, cleaned)
        ).fetchone()
    )
    assert row is not None
    return Speaker(row[0], cleaned), True


def family_of(conn: psycopg.Connection[Any], speaker_ids: Iterable[int]) -> list[int]:
    """These speakers, those they are merged into, and all that are merged into the same, by id."""
    rows = conn.execute(
        "SELECT speaker_id FROM speakers WHERE speaker_id = ANY(%(ids)s) OR coalesce(root_id, speaker_id) IN"
        " (SELECT coalesce(root_id, speaker_id) FROM speakers WHERE speaker_id = ANY(%(ids)s)) ORDER BY 1",
        {"ids": sorted(set(speaker_ids))},
    )
    return [row[0] for row in rows]


def derive_speakers(conn: psycopg.Connection[Any], speaker_ids: Iterable[int]) -> None:
    """Set what follows for these speakers and their families from the standing events.

    Raises `RushesError` when two people in use would have one name, or merges would run in a circle.
    """
    before = family_of(conn, speaker_ids)
    conn.execute(
        "UPDATE speakers s SET merged_into = (SELECT e.into_id FROM standing_events e"
        "  WHERE e.kind = 'merge' AND e.speaker_id = s.speaker_id ORDER BY e.event_id DESC LIMIT 1),"
        " name = coalesce((SELECT e.name FROM standing_events e WHERE e.kind = 'rename'"
        "  AND e.speaker_id = s.speaker_id ORDER BY e.event_id DESC LIMIT 1), first_name),"
        # not yet: the next statement says so, once all names are as they will be
        " is_used = false WHERE speaker_id = ANY(%s)",
        (before,),
    )
    _derive_roots(conn)
    touched = family_of(conn, before)
    try:
        conn.execute(
            "UPDATE speakers s SET is_used = EXISTS (SELECT 1 FROM standing_marks m JOIN speakers f"
            "  ON f.speaker_id = m.speaker_id WHERE f.root_id = s.root_id) WHERE speaker_id = ANY(%s)",
            (touched,),
        )
    except psycopg.errors.UniqueViolation as error:
        raise RushesError(f"two people would be called {_name_in(error)}: rename or merge one of them first") from error


def _derive_roots(conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        "WITH RECURSIVE up AS (SELECT speaker_id, speaker_id AS root FROM speakers WHERE merged_into IS NULL"
        "  UNION ALL SELECT s.speaker_id, up.root FROM speakers s JOIN up ON s.merged_into = up.speaker_id)"
        " UPDATE speakers s SET root_id = up.root FROM up"
        " WHERE up.speaker_id = s.speaker_id AND s.root_id IS DISTINCT FROM up.root"
    )
    row = conn.execute(
        "WITH RECURSIVE up AS (SELECT speaker_id FROM speakers WHERE merged_into IS NULL"
        "  UNION ALL SELECT s.speaker_id FROM speakers s JOIN up ON s.merged_into = up.speaker_id)"
        " SELECT string_agg(name, ', ') FROM speakers WHERE speaker_id NOT IN (SELECT speaker_id FROM up)"
    ).fetchone()
    if row is not None and row[0] is not None:
        raise RushesError(f"{row[0]} would be merged into each other: undo the other merge first")


def _name_in(error: psycopg.Error) -> str:
    detail = error.diag.message_detail or ""
    return detail.partition("=(")[2].rpartition(") already")[0] or "the same"
