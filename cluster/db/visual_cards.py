"""What there is to see of the clusters of pictures that look alike, and of the frames of one asset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from cluster.db.report import dicts
from cluster.db.spaces import Space
from cluster.db.visual import waiting_rows


@dataclass(frozen=True, slots=True)
class Picture:
    """A keyframe by its place; `t_ms` is None for an image, `similarity` the cosine with its leader."""

    sha256: str
    asset: str
    idx: int
    t_ms: int | None
    similarity: float
    thumbnail_sha256: str


@dataclass(frozen=True, slots=True)
class Card:
    """A cluster: how large, in how many assets, the least cosine with its leader, and the picture nearest to that."""

    cluster_id: int
    frames: int
    assets: int
    least_similarity: float
    picture: Picture


_PICTURE = """
SELECT encode(a.sha256, 'hex'), (SELECT name FROM asset_names n WHERE n.asset_id = f.asset_id), f.idx,
  CASE WHEN f.shot IS NOT NULL THEN f.t_ms END, m.similarity, encode(f.thumbnail, 'hex')
FROM visual_members m JOIN frames f USING (frame_id) JOIN assets a USING (asset_id)
"""
_NEAREST_FIRST = "ORDER BY m.similarity DESC, a.sha256, f.idx"


def visual_cards(
    conn: psycopg.Connection[Any], space: Space, limit: int, cluster_ids: Sequence[int] | None = None
) -> list[Card]:
    """The clusters with most frames first; of these ids only, when some are given."""
    rows = conn.execute(
        "WITH sized AS (SELECT m.cluster_id, count(*) AS frames, count(DISTINCT f.asset_id) AS assets,"
        "   min(m.similarity) AS least FROM visual_members m JOIN frames f USING (frame_id)"
        "   WHERE m.space_id = %(space)s AND (%(ids)s::bigint[] IS NULL OR m.cluster_id = ANY(%(ids)s))"
        "   GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT %(limit)s)"
        f" SELECT s.*, p.* FROM sized s CROSS JOIN LATERAL ({_PICTURE} WHERE m.cluster_id = s.cluster_id"
        f" AND m.space_id = %(space)s {_NEAREST_FIRST} LIMIT 1) p ORDER BY s.frames DESC, s.cluster_id".encode(),
        {"space": space.space_id, "ids": None if cluster_ids is None else list(cluster_ids), "limit": limit},
    )
    return [Card(number, frames, assets, least, Picture(*row)) for number, frames, assets, least, *row in rows]


def cluster_pictures(conn: psycopg.Connection[Any], space: Space, cluster_id: int, limit: int) -> list[Picture]:
    """The members of a cluster, those most like its leader first."""
    rows = conn.execute(
        f"{_PICTURE} WHERE m.cluster_id = %s AND m.space_id = %s {_NEAREST_FIRST} LIMIT %s".encode(),
        (cluster_id, space.space_id, limit),
    )
    return [Picture(*row) for row in rows]


def count_visual(conn: psycopg.Connection[Any], space: Space) -> dict[str, int]:
    """`frames` in `clusters`, those of them that are `alone` in theirs, and how many are `waiting` to be decided."""
    query = sql.SQL(
        "WITH sized AS (SELECT count(*) AS n FROM visual_members WHERE space_id = %(space)s GROUP BY cluster_id)"
        " SELECT coalesce(sum(n), 0)::bigint, count(*), count(*) FILTER (WHERE n = 1),"
        " (SELECT count(*) {}) FROM sized"
    ).format(waiting_rows(space))
    row = conn.execute(query, {"space": space.space_id}).fetchone()
    assert row is not None
    return dict(zip(("frames", "clusters", "alone", "waiting"), row, strict=True))


def list_frames(conn: psycopg.Connection[Any], asset_id: int) -> list[dict[str, Any]]:
    """The keyframes of an asset in their order; `shot` and what begins with it are None for an image."""
    return dicts(
        conn,
        "SELECT f.idx, f.t_ms, f.pts, f.time_base_num, f.time_base_den, f.shot, s.start_ms AS shot_start_ms,"
        " s.end_ms AS shot_end_ms, f.is_informative, lpad(to_hex(f.phash::bigint), 16, '0') AS phash,"
        " encode(f.thumbnail, 'hex') AS thumbnail_sha256"
        " FROM frames f LEFT JOIN shots s ON (s.asset_id, s.idx) = (f.asset_id, f.shot)"
        " WHERE f.asset_id = %(id)s ORDER BY f.idx",
        {"id": asset_id},
    )
