"""Where the members of clusters are after all that persons split: it follows from the standing events alone.

Clustering says in which cluster a voice was found. A person who splits a cluster marks a time of each of its members
with a part; wherever members of one cluster are marked with several parts of one event, they are kept apart, in this
clustering and in every later one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from cluster.db.spaces import Space, voice_spaces
from cluster.db.speakers.events import assets_marked
from cluster.db.speakers.state import lock_assets
from cluster.speakers.clusters import Labels, Vectors, cut_by_marks, similarities

Key = tuple[int, int]
# Event -> voice -> part.
_Marks = dict[int, dict[Key, int]]

_MARKS = """
WITH heard AS (
  SELECT DISTINCT ON (m.mark_id) m.mark_id, m.event_id, m.part, m.asset_id,
    coalesce(s.local_speaker, g.local_speaker) AS who
  FROM standing_marks m
  JOIN segments s ON s.asset_id = m.asset_id AND s.start_ms < m.end_ms AND s.end_ms > m.start_ms
  LEFT JOIN segment_groups g USING (segment_id)
  WHERE m.scope = 'part' AND coalesce(s.local_speaker, g.local_speaker) IS NOT NULL
    AND m.asset_id IN (SELECT asset_id FROM cluster_members WHERE found_in = ANY(%(found)s))
  GROUP BY 1, 2, 3, 4, 5
  ORDER BY m.mark_id, sum(least(s.end_ms, m.end_ms) - greatest(s.start_ms, m.start_ms)) DESC, who)
SELECT c.found_in, h.event_id, c.asset_id, c.local_speaker, h.part
FROM heard h JOIN cluster_members c ON (c.asset_id, c.local_speaker) = (h.asset_id, h.who)
WHERE c.found_in = ANY(%(found)s) ORDER BY h.event_id, h.mark_id
"""


def follow_parts(conn: psycopg.Connection[Any], event_id: int) -> set[int]:
    """Bring clusters in line after a split was taken back or brought back; returns the assets to decide anew.

    The caller holds the lock on decisions.
    """
    found = found_with(conn, assets_marked(conn, event_id))
    assets = assets_found_in(conn, found)
    lock_assets(conn, assets)
    derive_parts(conn, found)
    return assets


def found_with(conn: psycopg.Connection[Any], asset_ids: Iterable[int]) -> set[int]:
    """The clusters into which clustering put voices of these assets."""
    rows = conn.execute(
        "SELECT DISTINCT found_in FROM cluster_members WHERE asset_id = ANY(%s)", (sorted(set(asset_ids)),)
    )
    return {row[0] for row in rows}


def assets_found_in(conn: psycopg.Connection[Any], found: Iterable[int]) -> set[int]:
    """The assets with a voice that clustering put into any of these clusters."""
    rows = conn.execute("SELECT DISTINCT asset_id FROM cluster_members WHERE found_in = ANY(%s)", (sorted(set(found)),))
    return {row[0] for row in rows}


def derive_parts(conn: psycopg.Connection[Any], found: Iterable[int]) -> None:
    """Put the members of the clusters that clustering found into the parts that standing splits make of them.

    The caller holds the locks on decisions and on the assets.
    """
    ids = sorted(set(found))
    marks: defaultdict[int, _Marks] = defaultdict(dict)
    for root, event_id, asset_id, who, part in conn.execute(_MARKS, {"found": ids}):
        marks[root].setdefault(event_id, {})[asset_id, who] = part
    for space in voice_spaces(conn):
        for root, keys, vectors in members_by(conn, space, "found_in", ids):
            clusters = _parts_of(conn, space, root, keys, vectors, marks.get(root, {}))
            _write(conn, space, keys, clusters, vectors)


def members_by(
    conn: psycopg.Connection[Any], space: Space, column: str, ids: Iterable[int]
) -> list[tuple[int, list[Key], Vectors]]:
    """(cluster, its members by key, their unit vectors) of the clusters in `column` (`found_in` or `cluster_id`).

    A member whose voice is being made again has zeros.
    """
    rows = conn.execute(
        sql.SQL(
            "SELECT m.{column}, m.asset_id, m.local_speaker, v.embedding FROM cluster_members m"
            " LEFT JOIN {voices} v USING (asset_id, local_speaker)"
            " WHERE m.{column} = ANY(%s) AND m.space_id = %s ORDER BY 1, 2, 3"
        ).format(column=sql.Identifier(column), voices=sql.Identifier(space.local_voices_table)),
        (sorted(set(ids)), space.space_id),
        binary=True,
    )
    grouped: defaultdict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for cluster_id, *member in rows:
        grouped[cluster_id].append(tuple(member))
    nothing = np.zeros(space.dimension, np.float32)
    return [
        (
            cluster_id,
            [(asset_id, who) for asset_id, who, _ in members],
            np.stack([nothing if one is None else one.to_numpy() for _, _, one in members]).astype(np.float32),
        )
        for cluster_id, members in grouped.items()
    ]


def _parts_of(
    conn: psycopg.Connection[Any], space: Space, root: int, keys: list[Key], vectors: Vectors, marks: _Marks
) -> Labels:
    """The cluster of every member after all splits, in the order in which persons made them."""
    clusters = np.full(len(keys), root, np.int64)
    for event_id, said in sorted(marks.items()):
        for cluster_id in np.unique(clusters).tolist():
            inside = np.flatnonzero(clusters == cluster_id)
            marked = {i: said[keys[at]] for i, at in enumerate(inside) if keys[at] in said}
            parts = cut_by_marks(vectors[inside], marked)
            if parts is not None:
                ids = {part: _part(conn, space, cluster_id, event_id, part) for part in np.unique(parts).tolist()}
                clusters[inside] = [ids[part] for part in parts.tolist()]
    return clusters


def _part(conn: psycopg.Connection[Any], space: Space, cluster_id: int, event_id: int, part: int) -> int:
    """The cluster that is this part of another, the same one whenever it is asked for."""
    key = (cluster_id, event_id, part)
    conn.execute(
        "INSERT INTO voice_clusters (space_id, run_id, split_of, event_id, part)"
        " SELECT %s, run_id, %s, %s, %s FROM voice_clusters WHERE cluster_id = %s ON CONFLICT DO NOTHING",
        (space.space_id, *key, cluster_id),
    )
    row = conn.execute(
        "SELECT cluster_id FROM voice_clusters WHERE (split_of, event_id, part) = (%s, %s, %s)", key
    ).fetchone()
    assert row is not None
    return row[0]


def _write(conn: psycopg.Connection[Any], space: Space, keys: list[Key], clusters: Labels, vectors: Vectors) -> None:
    similarity = np.empty(len(keys), np.float32)
    for cluster_id in np.unique(clusters):
        similarity[clusters == cluster_id] = similarities(vectors[clusters == cluster_id])
    conn.execute(
        "UPDATE cluster_members m SET cluster_id = t.cluster_id, similarity = t.similarity"
        " FROM unnest(%s::bigint[], %s::int[], %s::bigint[], %s::real[])"
        "  t(asset_id, local_speaker, cluster_id, similarity)"
        " WHERE (m.asset_id, m.local_speaker) = (t.asset_id, t.local_speaker) AND m.space_id = %s"
        " AND (m.cluster_id, m.similarity) IS DISTINCT FROM (t.cluster_id, t.similarity)",
        (*(list(column) for column in zip(*keys, strict=True)), clusters.tolist(), similarity.tolist(), space.space_id),
    )
