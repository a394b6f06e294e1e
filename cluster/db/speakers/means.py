"""People by the average distance of their voices to a voice, at the cost of one vector per person.

Of unit vectors the average cosine distance to q is 1 less the product of q with their mean. The means are made
again when what they are made of changed: whoever changes it deletes them (`state.touch_speakers`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from cluster.db.spaces import Space
from cluster.db.speakers.events import Target
from cluster.db.speakers.names import Speaker
from cluster.db.speakers.state import lock_decisions
from cluster.errors import RushesError


@dataclass(frozen=True, slots=True)
class Ranked:
    """A person, the average cosine distance of their voices to the one asked about, and how many these are."""

    speaker: Speaker
    distance: float
    voices: int


_MISSING = """
SELECT speaker_id FROM speakers p WHERE is_used AND merged_into IS NULL
  AND NOT EXISTS (SELECT 1 FROM {means} m WHERE m.speaker_id = p.speaker_id) ORDER BY speaker_id FOR NO KEY UPDATE
"""
# A person without a voice gets a row of zeros, so that they are not looked for again and again.
_FILL = """
INSERT INTO {means} (speaker_id, voices, mean)
SELECT p.speaker_id, coalesce(m.voices, 0), coalesce(m.mean, array_fill(0::real, ARRAY[%(dimension)s])::vector)
FROM unnest(%(ids)s::bigint[]) p(speaker_id) LEFT JOIN
  (SELECT s.speaker_id, count(*) AS voices, avg(l2_normalize(e.embedding::vector)) AS mean
   FROM segment_speakers s JOIN {vectors} e USING (segment_id)
   WHERE s.speaker_id = ANY(%(ids)s) AND s.method IN ('human', 'cluster') GROUP BY 1) m USING (speaker_id)
ORDER BY 1 ON CONFLICT DO NOTHING
"""
_RANK = """
SELECT p.speaker_id, p.name, 1 + (m.mean <#> %(query)s::vector), m.voices
FROM speakers p LEFT JOIN {means} m USING (speaker_id)
WHERE p.is_used AND p.merged_into IS NULL AND m.voices IS DISTINCT FROM 0
ORDER BY m.voices IS NULL DESC, 3, 1 LIMIT %(most)s
"""


def rank_speakers(
    conn: psycopg.Connection[Any], space: Space, query: NDArray[np.float32], most: int | None = None
) -> list[Ranked]:
    """People by the average distance of their segments' voices to `query` of shape (dimension,), nearest first.

    A segment counts for whom a person or a cluster named; what was recognised does not.
    """
    from pgvector import Vector

    unit = np.asarray(query, np.float64)
    unit = unit / np.linalg.norm(unit)
    rank = sql.SQL(_RANK).format(means=sql.Identifier(space.means_table))
    values = {"query": Vector(unit.astype(np.float32)), "most": most}
    while True:
        rows = conn.execute(rank, values).fetchall()
        # Means that are missing come first; one may go again before the next look, when its voices change.
        if not rows or rows[0][3] is not None:
            return [Ranked(Speaker(row[0], row[1]), row[2], row[3]) for row in rows]
        with conn.transaction():
            fill_means(conn, space)


def fill_means(conn: psycopg.Connection[Any], space: Space) -> int:
    """Make the means that are missing; returns how many. The caller is in a transaction.

    The lock on the people keeps whoever changes their voices from deleting a mean before it is there; decisions
    take those locks in no order of their own, so they are kept out.
    """
    lock_decisions(conn)
    names = {"means": sql.Identifier(space.means_table), "vectors": sql.Identifier(space.table_name)}
    ids = [row[0] for row in conn.execute(sql.SQL(_MISSING).format(**names))]
    if ids:
        conn.execute(sql.SQL(_FILL).format(**names), {"ids": ids, "dimension": space.dimension})
    return len(ids)


def voice_at(conn: psycopg.Connection[Any], space: Space, target: Target, name: str) -> NDArray[np.float32]:
    """The voice that speaks in a segment of the asset called `name`, of shape (dimension,).

    That of the local speaker, else of the segment. Raises `RushesError` when there is neither.
    """
    row = conn.execute(
        sql.SQL(
            "SELECT coalesce(l.embedding::vector, e.embedding::vector), v.skip_reason FROM segment_speakers s"
            " LEFT JOIN {} l ON (l.asset_id, l.local_speaker) = (s.asset_id, s.local_speaker)"
            " LEFT JOIN {} e ON e.segment_id = s.segment_id"
            " LEFT JOIN voices v ON v.segment_id = s.segment_id AND v.space_id = %s"
            " WHERE s.asset_id = %s AND s.start_ms = %s AND s.end_ms = %s ORDER BY s.idx"
        ).format(sql.Identifier(space.local_voices_table), sql.Identifier(space.table_name)),
        (space.space_id, target.asset_id, target.start_ms, target.end_ms),
        binary=True,
    ).fetchone()
    if row is None or row[0] is None:
        why = f" ({row[1]})" if row and row[1] else ""
        raise RushesError(
            f"there is no voice at {target.start_ms / 1000:.1f} s of {name} in voice space {space.space_id}{why}: "
            "`rushes ingest --lanes voices` makes what is missing"
        )
    return row[0].to_numpy().astype(np.float32)
