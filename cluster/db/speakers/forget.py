"""Forget a person: what was said of them, and every voice print of theirs, for good."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from cluster.conversation import speaker_letter
from cluster.db.local_voices import FORGOTTEN, write_local_voices
from cluster.db.spaces import Space, voice_spaces
from cluster.db.speakers.actions import follow
from cluster.db.speakers.events import assets_naming
from cluster.db.speakers.names import family_of, known_speaker
from cluster.db.speakers.parts import assets_found_in, derive_parts, found_with
from cluster.db.speakers.state import lock_assets, lock_decisions, touch_speakers
from cluster.db.speakers.who import assets_heard

SAMPLES_PER_MS = 16


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What went: a person, the names merged into it, and how much of what; `vectors` are of all voice spaces."""

    name: str
    also: tuple[str, ...]
    assets: int
    segments: int
    vectors: int
    cached: int
    events: int


def forget_speaker(conn: psycopg.Connection[Any], name: str, *, dry_run: bool = False) -> Forgotten:
    """Delete the person called `name` with all that is merged into it, in one transaction; it cannot be undone.

    The segments become unknown and keep their text; their times are kept as forgotten, so that no later ingest
    keeps a voice print of them again. `dry_run` does it all and takes it back. Raises `UsageError` for a name
    that nobody has.
    """
    with conn.transaction(force_rollback=dry_run):
        lock_decisions(conn)
        person = known_speaker(conn, name)
        family = family_of(conn, [person.speaker_id])
        rows = conn.execute("SELECT name FROM speakers WHERE speaker_id = ANY(%s) ORDER BY name", (family,))
        names = [row[0] for row in rows]
        ids = _lock_assets_of(conn, family)
        segments = _mark_forgotten(conn, person.speaker_id, ids)
        spaces = voice_spaces(conn)
        others = speakers_named_in(conn, ids) | _speakers_beside(conn, family)
        cached = sum(_drop_cached(conn, space, ids) for space in spaces)
        _drop_derived(conn, ids, family)
        vectors = sum(_drop_vectors(conn, space, segments) for space in spaces)
        for space in spaces:
            _renew_local_voices(conn, space, segments)
        events = _drop_events(conn, family)
        _drop_names(conn, ids, names)
        settle_others(conn, others - set(family), ids)
        conn.execute("DELETE FROM speakers WHERE speaker_id = ANY(%s)", (family,))
    merged = tuple(one for one in names if one != person.name)
    return Forgotten(person.name, merged, len(ids), len(segments), vectors, cached, events)


def speakers_named_in(conn: psycopg.Connection[Any], asset_ids: Collection[int]) -> set[int]:
    """Whoever somebody or something names in these assets, in force or not."""
    rows = conn.execute(
        "SELECT speaker_id FROM speaker_marks WHERE asset_id = ANY(%(ids)s)"
        " UNION SELECT speaker_id FROM segment_speakers WHERE asset_id = ANY(%(ids)s)",
        {"ids": sorted(asset_ids)},
    )
    return {row[0] for row in rows if row[0] is not None}


def mates_of(conn: psycopg.Connection[Any], asset_ids: Collection[int]) -> set[int]:
    """The assets that share a cluster with one of these, and these themselves."""
    return {*asset_ids, *assets_found_in(conn, found_with(conn, asset_ids))}


def settle_others(conn: psycopg.Connection[Any], speakers: Collection[int], asset_ids: Collection[int]) -> None:
    """After marks, voices or people were deleted: what follows for the speakers and assets that are left.

    The caller holds the lock on decisions.
    """
    conn.execute(
        "DELETE FROM speaker_events e WHERE kind IN ('label', 'enroll', 'split')"
        " AND NOT EXISTS (SELECT 1 FROM speaker_marks m WHERE m.event_id = e.event_id)"
    )
    # What is left of a person without any mark says nothing.
    conn.execute(
        "DELETE FROM speaker_events e WHERE kind IN ('rename', 'merge') AND speaker_id = ANY(%s)"
        " AND NOT EXISTS (SELECT 1 FROM speaker_marks m WHERE m.speaker_id = e.speaker_id)"
        " AND NOT EXISTS (SELECT 1 FROM speaker_events i WHERE i.into_id = e.speaker_id)",
        (sorted(speakers),),
    )
    asset_ids = {*asset_ids, *_recognised_from_nothing(conn, speakers)}
    found = found_with(conn, asset_ids)
    lock_assets(conn, {*asset_ids, *assets_found_in(conn, found)})
    derive_parts(conn, found)
    conn.execute(
        "DELETE FROM voice_clusters c WHERE split_of IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM cluster_members m WHERE m.found_in = c.cluster_id)"
    )
    follow(conn, speakers, asset_ids)
    touch_speakers(conn, speakers)
    conn.execute(
        "DELETE FROM speakers s WHERE speaker_id = ANY(%s) AND NOT is_used"
        " AND NOT EXISTS (SELECT 1 FROM speaker_marks m WHERE m.speaker_id = s.speaker_id)"
        " AND NOT EXISTS (SELECT 1 FROM speaker_events e WHERE s.speaker_id IN (e.speaker_id, e.into_id))"
        " AND NOT EXISTS (SELECT 1 FROM speakers o WHERE s.speaker_id IN (o.merged_into, o.root_id)"
        "  AND o.speaker_id <> s.speaker_id)"
        " AND NOT EXISTS (SELECT 1 FROM identifications i WHERE i.speaker_id = s.speaker_id)"
        " AND NOT EXISTS (SELECT 1 FROM cluster_members c WHERE c.speaker_id = s.speaker_id)",
        (sorted(speakers),),
    )


def _lock_assets_of(conn: psycopg.Connection[Any], family: Sequence[int]) -> list[int]:
    ids: list[int] = []
    # A commit that was waited for may have told that another asset has the same sound.
    while (found := _assets_of(conn, family)) != ids:
        ids = found
        lock_assets(conn, ids)
    return ids


def _recognised_from_nothing(conn: psycopg.Connection[Any], speakers: Collection[int]) -> set[int]:
    rows = conn.execute(
        "SELECT DISTINCT i.asset_id FROM recognised_from f JOIN identifications i USING (run_id, speaker_id)"
        " JOIN speakers p USING (speaker_id) WHERE is_accepted AND (p.speaker_id = ANY(%(ids)s)"
        "  OR p.root_id IN (SELECT root_id FROM speakers WHERE speaker_id = ANY(%(ids)s)))"
        " AND NOT EXISTS (SELECT 1 FROM speaker_marks m WHERE m.mark_id = f.mark_id)",
        {"ids": sorted(speakers)},
    )
    return {row[0] for row in rows}


def _assets_of(conn: psycopg.Connection[Any], family: Sequence[int]) -> list[int]:
    """Where the person speaks or may, those of the same sound, and those that share a cluster with any."""
    ids = assets_naming(conn, family) | assets_heard(conn, family)
    rows = conn.execute(
        "SELECT o.asset_id FROM assets a JOIN assets o USING (audio_sha256) WHERE a.asset_id = ANY(%s)", (sorted(ids),)
    )
    return sorted(mates_of(conn, ids | {row[0] for row in rows}))


# The same sound at another place is the same voice.
_TIMES: LiteralString = """
WITH heard AS (SELECT asset_id, start_ms, end_ms FROM segment_speakers
  WHERE speaker_id = %(person)s AND end_ms > start_ms)
INSERT INTO forgotten_voices (asset_id, start_ms, end_ms)
SELECT asset_id, start_ms, end_ms FROM heard
UNION SELECT o.asset_id, start_ms, end_ms FROM heard JOIN assets a USING (asset_id) JOIN assets o USING (audio_sha256)
"""
# Segments of which forgotten times cover half or more.
FORGOTTEN_SEGMENTS: LiteralString = """
SELECT segment_id FROM segments s WHERE 2 * (SELECT coalesce(sum(upper(r) - lower(r)), 0)
  FROM (SELECT unnest(range_agg(int4range(f.start_ms, f.end_ms)) * int4multirange(int4range(s.start_ms, s.end_ms))) AS r
    FROM forgotten_voices f WHERE f.asset_id = s.asset_id AND f.start_ms < s.end_ms AND f.end_ms > s.start_ms) t)
  >= s.end_ms - s.start_ms AND s.end_ms > s.start_ms AND asset_id IN (SELECT asset_id FROM forgotten_voices)
"""


def _mark_forgotten(conn: psycopg.Connection[Any], person: int, asset_ids: Sequence[int]) -> list[int]:
    """Keep the times as forgotten; returns the segments that lie in forgotten times now, and did not before."""
    before = _forgotten_in(conn, asset_ids)
    conn.execute(_TIMES, {"person": person})
    return sorted(_forgotten_in(conn, asset_ids) - before)


def _forgotten_in(conn: psycopg.Connection[Any], asset_ids: Sequence[int]) -> set[int]:
    rows = conn.execute(FORGOTTEN_SEGMENTS + " AND asset_id = ANY(%s)", (list(asset_ids),))
    return {row[0] for row in rows}


def _speakers_beside(conn: psycopg.Connection[Any], family: Sequence[int]) -> set[int]:
    """Those of merges with the family, whether they stand or not."""
    rows = conn.execute(
        "SELECT speaker_id, into_id FROM speaker_events WHERE kind = 'merge'"
        " AND (speaker_id = ANY(%(ids)s) OR into_id = ANY(%(ids)s))",
        {"ids": list(family)},
    )
    return {one for row in rows for one in row}


def _drop_cached(conn: psycopg.Connection[Any], space: Space, asset_ids: Sequence[int]) -> int:
    """Whatever any segmentation ever cached of the forgotten times."""
    return conn.execute(
        sql.SQL(
            "DELETE FROM {} c USING assets a JOIN forgotten_voices f USING (asset_id) WHERE a.asset_id = ANY(%s)"
            " AND c.audio_sha256 = a.audio_sha256 AND c.start_sample < f.end_ms * {rate}::bigint"
            " AND c.end_sample > f.start_ms * {rate}::bigint"
        ).format(sql.Identifier(space.cache_table), rate=sql.Literal(SAMPLES_PER_MS)),
        (list(asset_ids),),
    ).rowcount


def _drop_derived(conn: psycopg.Connection[Any], asset_ids: Sequence[int], family: Sequence[int]) -> None:
    """What the machine made of the person's voices, and what it offered others because of them."""
    mine = (
        "(asset_id, local_speaker) IN (SELECT asset_id, local_speaker FROM segment_speakers"
        " WHERE asset_id = ANY(%(ids)s) AND speaker_id = ANY(%(family)s) AND NOT is_labelled)"
    )
    values = {"ids": list(asset_ids), "family": list(family)}
    conn.execute(f"DELETE FROM cluster_members WHERE {mine}".encode(), values)
    conn.execute(f"DELETE FROM identifications WHERE {mine} OR speaker_id = ANY(%(family)s)".encode(), values)
    conn.execute(
        "UPDATE cluster_members SET speaker_id = NULL, score = NULL, margin = NULL, tau = NULL"
        " WHERE speaker_id = ANY(%(family)s)",
        values,
    )
    conn.execute(
        "UPDATE local_speakers SET speaker_id = NULL, method = NULL, score = NULL, margin = NULL, tau = NULL,"
        " run_id = NULL WHERE speaker_id = ANY(%(family)s)",
        values,
    )


def _drop_vectors(conn: psycopg.Connection[Any], space: Space, segments: Sequence[int]) -> int:
    query = sql.SQL("DELETE FROM {} WHERE segment_id = ANY(%s)").format(sql.Identifier(space.table_name))
    dropped = conn.execute(query, (list(segments),)).rowcount
    conn.execute(
        "UPDATE voices SET skip_reason = %s WHERE segment_id = ANY(%s) AND space_id = %s AND skip_reason IS NULL",
        (FORGOTTEN, list(segments), space.space_id),
    )
    return dropped


def _renew_local_voices(conn: psycopg.Connection[Any], space: Space, segments: Sequence[int]) -> None:
    """The mean voices of the assets, from the vectors that are left; a voice without one is in no cluster."""
    rows = conn.execute("SELECT DISTINCT asset_id FROM segments WHERE segment_id = ANY(%s)", (list(segments),))
    for (asset_id,) in rows.fetchall():
        left = conn.execute(
            sql.SQL(
                "SELECT idx, start_ms, end_ms, local_speaker, embedding FROM segments LEFT JOIN {} USING (segment_id)"
                " WHERE asset_id = %s ORDER BY idx"
            ).format(sql.Identifier(space.table_name)),
            (asset_id,),
            binary=True,
        ).fetchall()
        spoken = [dict(zip(("idx", "start_ms", "end_ms", "local_speaker"), row[:4], strict=True)) for row in left]
        voices = [{"idx": row[0], "vector": None if row[4] is None else row[4].to_numpy()} for row in left]
        write_local_voices(conn, space, asset_id, spoken, voices)
        conn.execute(
            sql.SQL(
                "DELETE FROM cluster_members m WHERE asset_id = %s AND space_id = %s AND NOT EXISTS (SELECT 1 FROM {} v"
                "  WHERE (v.asset_id, v.local_speaker) = (m.asset_id, m.local_speaker))"
            ).format(sql.Identifier(space.local_voices_table)),
            (asset_id, space.space_id),
        )


def _drop_events(conn: psycopg.Connection[Any], family: Sequence[int]) -> int:
    """The decisions about the person. What they took the place of goes too: it was wrong, and comes not back."""
    values = {"ids": list(family)}
    mine = (
        "SELECT event_id FROM speaker_events WHERE speaker_id = ANY(%(ids)s) OR into_id = ANY(%(ids)s)"
        " UNION SELECT event_id FROM speaker_marks WHERE speaker_id = ANY(%(ids)s)"
    )
    conn.execute(
        f"DELETE FROM speaker_marks WHERE mark_id IN (SELECT s.mark_id FROM superseded_marks s"
        f" JOIN speaker_marks b ON b.mark_id = s.by_mark_id JOIN standing_events e ON e.event_id = b.event_id"
        f" WHERE b.event_id IN ({mine}))".encode(),
        values,
    )
    return conn.execute(f"DELETE FROM speaker_events WHERE event_id IN ({mine})".encode(), values).rowcount


def _drop_names(conn: psycopg.Connection[Any], asset_ids: Sequence[int], names: Sequence[str]) -> None:
    """Imported turns call the person by name too, where spaces are underscores: a free letter takes its place."""
    forgotten = {name.replace("_", " ").casefold() for name in names}
    rows = conn.execute(
        "SELECT DISTINCT asset_id, speaker FROM given_turns WHERE asset_id = ANY(%s) AND speaker IS NOT NULL"
        " ORDER BY 1, 2",
        (list(asset_ids),),
    ).fetchall()
    for asset_id, speaker in rows:
        if speaker.replace("_", " ").casefold() in forgotten:
            taken = {other for one, other in rows if one == asset_id}
            letter = next(letter for letter in map(speaker_letter, count()) if letter not in taken)
            conn.execute(
                "UPDATE given_turns SET speaker = %s WHERE asset_id = %s AND speaker = %s", (letter, asset_id, speaker)
            )
