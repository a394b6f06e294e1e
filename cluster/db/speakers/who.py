"""Who speaks in which segment: the one reading of it, for transcripts, lists, search and counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from cluster.speakers.counts import Counts
from cluster.speakers.who import Who, in_order

# A name that came with imported turns counts where nobody decided, and is no person.
_WHO: LiteralString = """
SELECT {columns}, v.local_speaker, v.speaker_id, coalesce(p.name, CASE WHEN v.method IS NULL THEN g.speaker END),
  coalesce(v.method, CASE WHEN g.speaker IS NOT NULL THEN 'given' END), v.score, v.is_labelled,
  coalesce(l.is_ghost, false)
FROM segment_speakers v LEFT JOIN speakers p USING (speaker_id)
LEFT JOIN local_speakers l ON l.asset_id = v.asset_id AND l.local_speaker = v.local_speaker
LEFT JOIN (SELECT DISTINCT asset_id, local_speaker, speaker FROM given_turns
    WHERE speaker IS NOT NULL AND asset_id = ANY(%(assets)s)) g
  ON g.asset_id = v.asset_id AND g.local_speaker = v.local_speaker
WHERE v.asset_id = ANY(%(assets)s)
"""
_SEGMENTS = _WHO.replace("{columns}", "v.asset_id, v.idx") + "ORDER BY 2"
_PLACES = (
    _WHO.replace("{columns}", "v.asset_id, v.idx")
    + "AND (v.asset_id, v.idx) IN (SELECT * FROM unnest(%(assets)s::bigint[], %(idxs)s::int[]))"
)
_VOICES = _WHO.replace("{columns}", "v.asset_id, count(*)") + "GROUP BY 1, 3, 4, 5, 6, 7, 8, 9"


def speakers_in(conn: psycopg.Connection[Any], asset_id: int) -> dict[int, Who]:
    """Segment idx -> who speaks."""
    return {idx: Who(*values) for _, idx, *values in conn.execute(_SEGMENTS, {"assets": [asset_id]})}


def speakers_at(conn: psycopg.Connection[Any], places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Who]:
    """(asset, segment idx) -> who speaks, for single segments of many assets."""
    where = {"assets": [asset_id for asset_id, _ in places], "idxs": [idx for _, idx in places]}
    return {(asset_id, idx): Who(*values) for asset_id, idx, *values in conn.execute(_PLACES, where)}


def voices_of(conn: psycopg.Connection[Any], asset_ids: Sequence[int]) -> dict[int, dict[Who, int]]:
    """Asset -> each of its speakers with the count of segments; assets without segments are left out."""
    found: dict[int, dict[Who, int]] = {}
    for asset_id, count, *values in conn.execute(_VOICES, {"assets": list(asset_ids)}):
        found.setdefault(asset_id, {})[Who(*values)] = count
    return {asset_id: in_order(voices) for asset_id, voices in found.items()}


def with_voices(conn: psycopg.Connection[Any], assets: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of assets, each with its `voices` as `voices_of` gives them."""
    voices = voices_of(conn, [row["asset_id"] for row in assets])
    return [{**row, "voices": voices.get(row["asset_id"], {})} for row in assets]


# Segments are counted by themselves, so that a speaker read twice, or not at all, is seen.
_COUNTS: LiteralString = """
WITH mine AS (SELECT asset_id FROM assets WHERE %(run)s::uuid IS NULL
    AND (%(ids)s::bigint[] IS NULL OR asset_id = ANY(%(ids)s)) UNION
  SELECT asset_id FROM units WHERE run_id = %(run)s AND state = 'done' AND lane IN ('speech', 'voices'))
SELECT (SELECT count(*) FROM segments WHERE asset_id IN (SELECT asset_id FROM mine)),
  count(*) FILTER (WHERE speaker_id IS NOT NULL), count(*) FILTER (WHERE speaker_id IS NULL)
FROM segment_speakers WHERE asset_id IN (SELECT asset_id FROM mine)
"""


def count_speakers(
    conn: psycopg.Connection[Any], run_id: UUID | None = None, asset_ids: Sequence[int] | None = None
) -> Counts:
    """Known and unknown segments of the corpus, of these assets, or of what this run transcribed or gave voices."""
    values = {"run": run_id, "ids": None if asset_ids is None else list(asset_ids)}
    row = conn.execute(_COUNTS, values).fetchone()
    assert row is not None
    return Counts(*row)


def assets_heard(conn: psycopg.Connection[Any], speaker_ids: Iterable[int]) -> set[int]:
    """The assets in which any of these people speaks."""
    rows = conn.execute(
        "SELECT DISTINCT asset_id FROM segment_speakers WHERE speaker_id = ANY(%s)", (sorted(set(speaker_ids)),)
    )
    return {row[0] for row in rows}


def first_heard_ms(conn: psycopg.Connection[Any], asset_ids: Iterable[int]) -> dict[tuple[int, int], int]:
    """(asset, local speaker) -> when it begins to speak."""
    rows = conn.execute(
        "SELECT asset_id, local_speaker, min(start_ms) FROM segment_speakers WHERE local_speaker IS NOT NULL"
        " AND asset_id = ANY(%s) GROUP BY 1, 2",
        (sorted(set(asset_ids)),),
    )
    return {(asset_id, who): start_ms for asset_id, who, start_ms in rows}
