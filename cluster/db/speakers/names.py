"""Speakers by name, and what follows for them from the standing events: name, merges, whether they are in use."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from cluster.errors import RushesError, UsageError

MOST_CHARS = 200


@dataclass(frozen=True, slots=True)
class Speaker:
    """A named person."""

    speaker_id: int
    name: str


def clean_name(name: str) -> str:
    """The name on one line; `UsageError` for one that is empty, too long, or an unknown voice's in transcripts."""
    printable = "".join(char if char.isprintable() else " " for char in unicodedata.normalize("NFC", name))
    cleaned = " ".join(printable.split())
    is_voice = len(cleaned) == 1 and cleaned.isascii() and cleaned.isalpha()
    if not cleaned or len(cleaned) > MOST_CHARS or cleaned.upper() == "UNKNOWN" or is_voice:
        raise UsageError(
            f"{shortened(name)} is no name of a person: give 1 to {MOST_CHARS} characters, not UNKNOWN, and no single"
            " letter, which unknown voices have"
        )
    return cleaned


def shortened(name: str) -> str:
    """The name in quotes, as much of it as fits into a message."""
    return repr(name if len(name) <= 60 else f"{name[:60]}...")


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
    merged = _merged_speaker(conn, clean_name(name))
    if merged is not None:
        root = root_of(conn, merged)
        raise UsageError(f"{merged.name} was merged into {root.name}: use that name, or undo the merge")
    raise UsageError(f"nobody is called {shortened(name)}; {alike_names(conn, name)}")


def speaker_by_id(conn: psycopg.Connection[Any], speaker_id: int) -> Speaker | None:
    """The person in use of this number; None for one that is not, or was merged into somebody."""
    row = conn.execute(
        "SELECT speaker_id, name FROM speakers WHERE speaker_id = %s AND is_used AND merged_into IS NULL", (speaker_id,)
    ).fetchone()
    return None if row is None else Speaker(*row)


def alike_names(conn: psycopg.Connection[Any], name: str) -> str:
    """`did you mean ...?` with the names that begin alike or are spelled alike, else which names there are."""
    names, found = _names_in_use(conn), similar_names(conn, name)
    if found:
        return f"did you mean {' or '.join(found)}?"
    return f"known: {', '.join(names[:20])}" if names else "nobody has a name yet: `rushes speakers label`"


def similar_names(conn: psycopg.Connection[Any], name: str) -> list[str]:
    """The names in use that begin alike or are spelled alike, at most five; not the name itself."""
    wanted = clean_name(name).casefold()
    names = {one.casefold(): one for one in _names_in_use(conn) if one.casefold() != wanted}
    begin = [folded for folded in names if folded.startswith(wanted)]
    return sorted(names[folded] for folded in {*begin, *difflib.get_close_matches(wanted, names, 5, 0.75)})[:5]


def _names_in_use(conn: psycopg.Connection[Any]) -> list[str]:
    rows = conn.execute("SELECT name FROM speakers WHERE is_used AND merged_into IS NULL ORDER BY name")
    return [row[0] for row in rows]


def names_of(conn: psycopg.Connection[Any], speaker_ids: Iterable[int]) -> dict[int, str]:
    """Speaker -> name."""
    rows = conn.execute("SELECT speaker_id, name FROM speakers WHERE speaker_id = ANY(%s)", (sorted(set(speaker_ids)),))
    return dict(rows.fetchall())


def ensure_speaker(conn: psycopg.Connection[Any], name: str) -> tuple[Speaker, bool]:
    """The person of this name, made when there is none, and whether it is new.

    A name that was merged into another one stays that of its bearer, who is no root then.
    """
    cleaned = clean_name(name)
    found = find_speaker(conn, cleaned) or _merged_speaker(conn, cleaned)
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


def _merged_speaker(conn: psycopg.Connection[Any], name: str) -> Speaker | None:
    row = conn.execute(
        "SELECT s.speaker_id, s.name FROM speakers s JOIN speakers r ON r.speaker_id = s.root_id"
        " WHERE lower(s.name) = lower(%s) AND s.merged_into IS NOT NULL AND r.is_used ORDER BY s.speaker_id DESC",
        (name,),
    ).fetchone()
    return None if row is None else Speaker(*row)


def root_of(conn: psycopg.Connection[Any], speaker: Speaker) -> Speaker:
    """Whom this one is merged into, itself when not."""
    row = conn.execute(
        "SELECT r.speaker_id, r.name FROM speakers s JOIN speakers r ON r.speaker_id = s.root_id"
        " WHERE s.speaker_id = %s",
        (speaker.speaker_id,),
    ).fetchone()
    return speaker if row is None else Speaker(*row)


def family_of(conn: psycopg.Connection[Any], speaker_ids: Iterable[int]) -> list[int]:
    """These speakers, those they are merged into, and all that are merged into the same, by id."""
    rows = conn.execute(
        "SELECT speaker_id FROM speakers WHERE speaker_id = ANY(%(ids)s) OR coalesce(root_id, speaker_id) IN"
        " (SELECT coalesce(root_id, speaker_id) FROM speakers WHERE speaker_id = ANY(%(ids)s)) ORDER BY 1",
        {"ids": sorted(set(speaker_ids))},
    )
    return [row[0] for row in rows]


@dataclass(frozen=True, slots=True)
class Derived:
    """What the standing events make of a speaker; `was` is the root and the use it had before."""

    speaker_id: int
    name: str
    merged_into: int | None
    root_id: int
    is_used: bool
    was: tuple[int | None, bool]

    @property
    def is_another(self) -> bool:
        """Whether it counts as another person than before, or as nobody, or as somebody again."""
        return self.was != (self.root_id, self.is_used)


_DERIVED: LiteralString = """
WITH RECURSIVE said AS (
  SELECT speaker_id, CASE WHEN speaker_id = ANY(%(ids)s) THEN (SELECT e.into_id FROM standing_events e
      WHERE e.kind = 'merge' AND e.speaker_id = s.speaker_id ORDER BY e.event_id DESC LIMIT 1)
    ELSE merged_into END AS merged_into FROM speakers s),
up AS (
  SELECT speaker_id, speaker_id AS root FROM said WHERE merged_into IS NULL
  UNION ALL SELECT s.speaker_id, up.root FROM said s JOIN up ON s.merged_into = up.speaker_id),
affected AS (
  SELECT speaker_id, root, EXISTS (SELECT 1 FROM standing_marks m WHERE m.speaker_id = up.speaker_id) AS is_marked
  FROM up WHERE root IN (SELECT root FROM up WHERE speaker_id = ANY(%(ids)s))),
now AS (
  SELECT s.speaker_id, coalesce((SELECT e.name FROM standing_events e WHERE e.kind = 'rename'
      AND e.speaker_id = s.speaker_id ORDER BY e.event_id DESC LIMIT 1), s.first_name) AS name,
    said.merged_into, a.root, (SELECT bool_or(b.is_marked) FROM affected b WHERE b.root = a.root) AS is_used
  FROM affected a JOIN said USING (speaker_id) JOIN speakers s USING (speaker_id))
SELECT n.speaker_id, n.name, n.merged_into, n.root, n.is_used, s.root_id, s.is_used
FROM now n JOIN speakers s USING (speaker_id)
WHERE (n.name, n.merged_into, n.root, n.is_used) IS DISTINCT FROM (s.name, s.merged_into, s.root_id, s.is_used)
ORDER BY 1
"""
_CIRCLE: LiteralString = """
WITH RECURSIVE said AS (SELECT speaker_id, name, (SELECT e.into_id FROM standing_events e
    WHERE e.kind = 'merge' AND e.speaker_id = s.speaker_id ORDER BY e.event_id DESC LIMIT 1) AS merged_into
  FROM speakers s WHERE speaker_id = ANY(%(ids)s)),
up AS (SELECT speaker_id, merged_into FROM said
  UNION SELECT up.speaker_id, s.merged_into FROM up JOIN said s ON s.speaker_id = up.merged_into)
SELECT string_agg(DISTINCT name, ', ') FROM up JOIN said USING (speaker_id) WHERE up.merged_into = up.speaker_id
"""


def speakers_due(conn: psycopg.Connection[Any], speaker_ids: Iterable[int]) -> list[Derived]:
    """What the standing events make of these speakers and their families, as far as it is not so yet; by id.

    Writes nothing. Raises `RushesError` when merges would run in a circle.
    """
    values = {"ids": family_of(conn, speaker_ids)}
    circle = conn.execute(_CIRCLE, values).fetchone()
    if circle is not None and circle[0] is not None:
        raise RushesError(f"{circle[0]} would be merged into each other: undo the other merge first")
    return [Derived(*row[:-2], was=row[-2:]) for row in conn.execute(_DERIVED, values)]


def derive_speakers(conn: psycopg.Connection[Any], speaker_ids: Iterable[int]) -> None:
    """`speakers_due`, written; raises what `write_speakers` raises."""
    write_speakers(conn, speakers_due(conn, speaker_ids))


def write_speakers(conn: psycopg.Connection[Any], derived: Sequence[Derived]) -> None:
    """Write it; raises `RushesError` when two people in use would have one name.

    The caller holds the lock on decisions, and on the assets where these people speak.
    """
    rows = [(one.speaker_id, one.name, one.merged_into, one.root_id, one.is_used) for one in derived]
    if not rows:
        return
    columns = [list(column) for column in zip(*rows, strict=True)]
    # Names are given up before they are taken: two people may change places.
    conn.execute("UPDATE speakers SET is_used = false WHERE speaker_id = ANY(%s) AND is_used", (columns[0],))
    try:
        conn.execute(
            "UPDATE speakers s SET name = t.name, merged_into = t.merged_into, root_id = t.root_id,"
            " is_used = t.is_used FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::bigint[], %s::bool[])"
            "  t(speaker_id, name, merged_into, root_id, is_used) WHERE s.speaker_id = t.speaker_id",
            columns,
        )
    except psycopg.errors.UniqueViolation as error:
        raise RushesError(f"two people would be called {_name_in(error)}: rename or merge one of them first") from error


def _name_in(error: psycopg.Error) -> str:
    detail = error.diag.message_detail or ""
    return detail.partition("=(")[2].rpartition(") already")[0] or "the same"
