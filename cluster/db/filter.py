"""Which assets a command or a search is about: by channel, tag, collection, kind, date, content and who speaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg

from cluster.db.knn import Scope
from cluster.db.speakers.names import known_speaker
from cluster.errors import UsageError

_KNOWN: dict[str, LiteralString] = {
    "channel": "SELECT DISTINCT channel FROM assets WHERE channel IS NOT NULL ORDER BY 1",
    "tag": "SELECT DISTINCT tag FROM asset_tags ORDER BY 1",
    "collection": "SELECT DISTINCT collection FROM asset_collections ORDER BY 1",
}
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class AssetFilter:
    """Names of each kind are alternatives; the kinds given must all hold. Case does not count.

    `sha256s` are whole, in hexadecimal. `since` and `until` bound when an asset was recorded, `until` not included;
    an asset without a date is in no such bounds. `kinds` are `video`, `audio` and `image`.
    """

    channels: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    collections: tuple[str, ...] = ()
    sha256s: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    def __bool__(self) -> bool:
        """Whether anything is asked for."""
        return any(astuple(self))


def matching(conn: psycopg.Connection[Any], chosen: AssetFilter, asset_ids: Sequence[int] | None = None) -> list[int]:
    """The assets, of `asset_ids` or of all, that the filter lets through, in the order of their ids.

    Raises `UsageError` for a name or a content that no asset has.
    """
    _check_content(conn, chosen.sha256s)
    for kind, names in (("channel", chosen.channels), ("tag", chosen.tags), ("collection", chosen.collections)):
        _check_known(conn, kind, names)
    rows = conn.execute(
        "SELECT asset_id FROM assets a WHERE (%(ids)s::bigint[] IS NULL OR asset_id = ANY(%(ids)s))"
        " AND (%(channels)s::text[] = '{}' OR lower(channel) = ANY(%(channels)s))"
        " AND (%(tags)s::text[] = '{}' OR EXISTS"
        "   (SELECT 1 FROM asset_tags t WHERE t.asset_id = a.asset_id AND lower(tag) = ANY(%(tags)s)))"
        " AND (%(collections)s::text[] = '{}' OR EXISTS"
        "   (SELECT 1 FROM asset_collections c WHERE c.asset_id = a.asset_id"
        "    AND lower(collection) = ANY(%(collections)s)))"
        " AND (%(contents)s::bytea[] = '{}' OR sha256 = ANY(%(contents)s))"
        " AND (%(kinds)s::text[] = '{}' OR media_kind = ANY(%(kinds)s))"
        " AND (%(since)s::timestamptz IS NULL OR recorded_at >= %(since)s)"
        " AND (%(until)s::timestamptz IS NULL OR recorded_at < %(until)s)"
        " ORDER BY asset_id",
        {
            "ids": None if asset_ids is None else list(asset_ids),
            "channels": _lower(chosen.channels),
            "tags": _lower(chosen.tags),
            "collections": _lower(chosen.collections),
            "contents": [bytes.fromhex(one) for one in chosen.sha256s],
            "kinds": list(chosen.kinds),
            "since": chosen.since,
            "until": chosen.until,
        },
    )
    return [row[0] for row in rows]


def scope_of(
    conn: psycopg.Connection[Any],
    chosen: AssetFilter,
    speakers: Sequence[int | str] = (),
    asset_ids: Sequence[int] | None = None,
) -> Scope:
    """Where a search looks: in what the filter lets through, while one of these people speaks, by id or name.

    Raises `UsageError` for what is not there.
    """
    found = matching(conn, chosen, asset_ids) if chosen else asset_ids
    if not speakers:
        return Scope(found)
    people = [_person(conn, one) for one in speakers]
    heard = {row[0] for row in conn.execute(_HEARD, {"people": people})}
    return Scope(sorted(heard if found is None else heard & set(found)), people)


# The view of who speaks would be read whole; it decides about single segments afterwards.
_HEARD = """
WITH named AS (SELECT speaker_id FROM speakers WHERE root_id = ANY(%(people)s))
SELECT asset_id FROM local_speakers WHERE speaker_id IN (SELECT * FROM named)
UNION SELECT asset_id FROM segment_labels JOIN segments USING (segment_id) WHERE speaker_id IN (SELECT * FROM named)
"""


def _person(conn: psycopg.Connection[Any], speaker: int | str) -> int:
    if isinstance(speaker, str):
        return known_speaker(conn, speaker).speaker_id
    row = conn.execute("SELECT root_id FROM speakers WHERE speaker_id = %s AND is_used", (speaker,)).fetchone()
    if row is None:
        raise UsageError(f"there is no speaker {speaker}: `rushes speakers list` knows them")
    return row[0]


def _check_content(conn: psycopg.Connection[Any], sha256s: Sequence[str]) -> None:
    wanted = [bytes.fromhex(one) for one in sha256s]
    known = {row[0] for row in conn.execute("SELECT sha256 FROM assets WHERE sha256 = ANY(%s)", (wanted,))}
    unknown = [one.hex() for one in wanted if one not in known]
    if unknown:
        raise UsageError(f"no asset has the content {unknown[0]}")


def _check_known(conn: psycopg.Connection[Any], kind: str, names: Sequence[str]) -> None:
    if not names:
        return
    known = [row[0] for row in conn.execute(_KNOWN[kind])]
    unknown = sorted(set(_lower(names)) - set(_lower(known)))
    if unknown:
        shown = ", ".join(known[:_SHOWN]) + (f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else "")
        raise UsageError(f"no asset has the {kind} {unknown[0]!r}; known: {shown or 'none'}")


def _lower(names: Sequence[str]) -> list[str]:
    return [name.lower() for name in names]
