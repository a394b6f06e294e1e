"""Pictures that look alike: each informative frame joins the nearest leader, or leads a cluster.

Frames are decided in the order of (SHA-256 of the asset, place in it), batch by batch, each batch in one
transaction under an advisory lock. A decision waits for nobody: what is being rewritten or forgotten is left out
and decided later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import psycopg
from psycopg import sql

from cluster.db.connect import snapshot
from cluster.db.copy import stage_rows
from cluster.db.spaces import Space, ensure_index, index_name
from cluster.leaders import ROUNDING, Leaders, keep_ids

BATCH_FRAMES = 200
EF_SEARCH = 100
_LOCK_KEY = 0x5669_7375_616C
_BLOCK = 512


@dataclass(slots=True)
class Decided:
    """What came of it: frames that joined a cluster, frames that lead a new one."""

    joined: int = 0
    led: int = 0


@dataclass(frozen=True, slots=True)
class Again:
    """All decided anew: frames and clusters, and how many of the clusters kept the id of an old one."""

    frames: int
    clusters: int
    kept: int
    dropped: int


class Waiting(NamedTuple):
    """A frame to decide; `vector` is what the space stores of it."""

    frame_id: int
    asset_id: int
    idx: int
    vector: Any


def decide_waiting(conn: psycopg.Connection[Any], space: Space, threshold: float) -> Decided:
    """Decide every frame of the space that is in no cluster yet; safe to be killed and repeated.

    `threshold` is the least cosine with its leader that a member has. From `INDEX_FROM_ROWS` leaders on the
    nearest one is looked up in an HNSW index. `conn` is in no transaction.
    """
    frame_ids = waiting_frames(conn, space)
    total = Decided()
    for first in range(0, len(frame_ids), BATCH_FRAMES):
        batch = frame_ids[first : first + BATCH_FRAMES]
        with conn.transaction():
            _lock(conn)
            ensure_index(conn, space, space.leaders_table)
            search_widely(conn)
            led = [decide(conn, space, frame, threshold) for frame in _hold(conn, space, batch)]
        total.joined += led.count(False)
        total.led += led.count(True)
    return total


def waiting_frames(conn: psycopg.Connection[Any], space: Space) -> list[int]:
    """Ids of the informative frames that have a vector and no cluster, in the order in which they are decided."""
    query = sql.SQL("SELECT f.frame_id {} ORDER BY a.sha256, f.idx").format(waiting_rows(space))
    return [row[0] for row in conn.execute(query, {"space": space.space_id})]


def decide(conn: psycopg.Connection[Any], space: Space, frame: Waiting, threshold: float) -> bool | None:
    """Put one frame into the cluster of the nearest leader, or let it lead; returns whether it leads.

    None when the cluster is being deleted: the frame waits on. The caller holds the transaction and the frame.
    """
    near = nearest_leader(conn, space, frame.vector)
    if near is not None and near[1] >= threshold - ROUNDING:
        return False if _join(conn, space, frame.frame_id, *near) else None
    row = conn.execute(
        "INSERT INTO visual_clusters (space_id, asset_id, idx) VALUES (%s, %s, %s) RETURNING cluster_id",
        (space.space_id, frame.asset_id, frame.idx),
    ).fetchone()
    assert row is not None
    query = sql.SQL("INSERT INTO {} (cluster_id, embedding) VALUES (%s, %s)")
    conn.execute(query.format(sql.Identifier(space.leaders_table)), (row[0], frame.vector))
    _join(conn, space, frame.frame_id, row[0], 1.0)
    return True


def nearest_leader(conn: psycopg.Connection[Any], space: Space, vector: Any) -> tuple[int, float] | None:
    """Cluster id and cosine of the leader nearest to a stored vector; None without leaders."""
    query = sql.SQL("SELECT cluster_id, embedding <=> %s::{} AS d FROM {} ORDER BY d LIMIT 1")
    row = conn.execute(
        query.format(sql.SQL(space.storage), sql.Identifier(space.leaders_table)), (vector,), binary=True
    ).fetchone()
    return None if row is None else (row[0], 1.0 - row[1])


def search_widely(conn: psycopg.Connection[Any]) -> None:
    """Let an index look at `EF_SEARCH` candidates until the transaction ends."""
    conn.execute(sql.SQL("SET LOCAL hnsw.ef_search = {}").format(sql.Literal(EF_SEARCH)))


def lead_all(conn: psycopg.Connection[Any], space: Space, threshold: float) -> list[tuple[int, int, int, float]]:
    """Every informative frame with its cluster as it would be decided from nothing, exactly; writes nothing.

    (frame id, version of its vector, number of the cluster, cosine with its leader), in the order of decision; the
    first of a cluster leads it. Holds the leaders in memory, 4 bytes per dimension each.
    """
    leaders, found = Leaders(space.dimension, threshold), []
    with snapshot(conn):
        for ids, versions, vectors in _blocks(conn, space):
            numbers, cosines = leaders.add(vectors)
            found += zip(ids, versions, numbers.tolist(), cosines.tolist(), strict=True)
    return found


def decide_again(conn: psycopg.Connection[Any], space: Space, threshold: float) -> Again:
    """Decide every frame anew; the result does not depend on the order in which they came.

    A cluster keeps the id of the old one with which it shares most members; what is left of the old ones goes.
    All of it is written in one transaction; frames that changed meanwhile are decided after it, like new ones.
    """
    found = lead_all(conn, space, threshold)
    with conn.transaction():
        _lock(conn)
        # Those who rewrite or forget frames wait here, in the order in which they take these tables.
        conn.execute("LOCK TABLE visual_clusters, visual_members IN SHARE ROW EXCLUSIVE MODE")
        _stage(conn, space, found)
        again = _replace(conn, space)
    with conn.transaction():
        _lock(conn)
        ensure_index(conn, space, space.leaders_table)
    decide_waiting(conn, space, threshold)
    return again


def waiting_rows(space: Space) -> sql.Composed:
    """FROM and WHERE of the frames that wait to be decided: v vectors, f frames, a assets; takes %(space)s."""
    return sql.SQL(
        "FROM {} v JOIN frames f USING (frame_id) JOIN assets a USING (asset_id) WHERE f.is_informative"
        " AND NOT EXISTS (SELECT 1 FROM visual_members m WHERE (m.frame_id, m.space_id) = (f.frame_id, %(space)s))"
    ).format(sql.Identifier(space.table_name))


def _hold(conn: psycopg.Connection[Any], space: Space, frame_ids: Sequence[int]) -> list[Waiting]:
    """Those of the frames that still wait, held until the transaction ends; what others are deleting is left out."""
    query = sql.SQL(
        "SELECT f.frame_id, f.asset_id, f.idx, v.embedding {} AND f.frame_id = ANY(%(ids)s)"
        " ORDER BY a.sha256, f.idx FOR KEY SHARE OF v, f, a SKIP LOCKED"
    ).format(waiting_rows(space))
    rows = conn.execute(query, {"space": space.space_id, "ids": list(frame_ids)}, binary=True)
    return [Waiting(*row) for row in rows.fetchall()]


def _join(conn: psycopg.Connection[Any], space: Space, frame_id: int, cluster_id: int, similarity: float) -> bool:
    return bool(
        conn.execute(
            "INSERT INTO visual_members (frame_id, space_id, cluster_id, similarity)"
            " SELECT %s, %s, cluster_id, %s::real FROM visual_clusters WHERE cluster_id = %s FOR KEY SHARE SKIP LOCKED",
            (frame_id, space.space_id, similarity, cluster_id),
        ).rowcount
    )


def _lock(conn: psycopg.Connection[Any]) -> None:
    conn.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))


def _blocks(conn: psycopg.Connection[Any], space: Space) -> Iterator[tuple[list[int], list[int], np.ndarray]]:
    query = sql.SQL(
        "SELECT v.frame_id, v.xmin::text::bigint, v.embedding FROM {} v JOIN frames f USING (frame_id)"
        " JOIN assets a USING (asset_id) WHERE f.is_informative ORDER BY a.sha256, f.idx"
    ).format(sql.Identifier(space.table_name))
    with conn.cursor("visual_frames", binary=True) as cursor:
        cursor.execute(query)
        while rows := cursor.fetchmany(_BLOCK):
            ids, versions, vectors = zip(*rows, strict=True)
            yield list(ids), list(versions), np.stack([vector.to_numpy() for vector in vectors])


def _stage(conn: psycopg.Connection[Any], space: Space, found: Sequence[tuple[int, int, int, float]]) -> None:
    """The new members as a temporary table, without frames that changed, and without the clusters of such leaders."""
    leader: dict[int, int] = {}
    for frame_id, _, number, _ in found:
        leader.setdefault(number, frame_id)
    stage_rows(
        conn,
        "stage_visual",
        {"frame_id": "int8", "version": "int8", "number": "int8", "leader": "int8", "similarity": "float4"},
        ((frame_id, version, number, leader[number], cosine) for frame_id, version, number, cosine in found),
    )
    conn.execute(
        sql.SQL(
            "WITH sound AS (SELECT f.frame_id FROM stage_visual s JOIN {} v USING (frame_id) JOIN frames f"
            " USING (frame_id) JOIN assets a USING (asset_id) WHERE v.xmin::text::bigint = s.version"
            " FOR KEY SHARE OF v, f, a SKIP LOCKED)"
            " DELETE FROM stage_visual s WHERE NOT EXISTS (SELECT 1 FROM sound WHERE sound.frame_id = s.frame_id)"
        ).format(sql.Identifier(space.table_name))
    )
    conn.execute(
        "DELETE FROM stage_visual s WHERE NOT EXISTS (SELECT 1 FROM stage_visual l WHERE l.frame_id = s.leader)"
    )


def _replace(conn: psycopg.Connection[Any], space: Space) -> Again:
    """Write what is staged in place of what there is."""
    values: dict[str, Any] = {"space": space.space_id}
    shared = conn.execute(
        "SELECT s.number, m.cluster_id, count(*) FROM stage_visual s JOIN visual_members m"
        " ON m.frame_id = s.frame_id AND m.space_id = %(space)s GROUP BY 1, 2",
        values,
    ).fetchall()
    kept = keep_ids(shared)
    values |= {"numbers": list(kept), "kept": list(kept.values())}
    leaders = sql.Identifier(space.leaders_table)
    conn.execute("DELETE FROM visual_members WHERE space_id = %(space)s", values)
    # Row by row in the index costs more than to build it anew.
    conn.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(sql.Identifier(index_name(space.leaders_table))))
    conn.execute(sql.SQL("DELETE FROM {}").format(leaders))
    dropped = conn.execute(
        "DELETE FROM visual_clusters WHERE space_id = %(space)s AND NOT cluster_id = ANY(%(kept)s)", values
    ).rowcount
    conn.execute(
        "UPDATE visual_clusters c SET asset_id = f.asset_id, idx = f.idx"
        " FROM unnest(%(numbers)s::bigint[], %(kept)s::bigint[]) k(number, cluster_id)"
        " JOIN stage_visual s ON s.number = k.number AND s.frame_id = s.leader JOIN frames f USING (frame_id)"
        " WHERE c.cluster_id = k.cluster_id",
        values,
    )
    conn.execute(
        "INSERT INTO visual_clusters (space_id, asset_id, idx) SELECT %(space)s, f.asset_id, f.idx"
        " FROM stage_visual s JOIN frames f USING (frame_id)"
        " WHERE s.frame_id = s.leader AND NOT s.number = ANY(%(numbers)s) ORDER BY s.number",
        values,
    )
    conn.execute(
        sql.SQL(
            "INSERT INTO {} (cluster_id, embedding) SELECT c.cluster_id, v.embedding FROM visual_clusters c"
            " JOIN frames f ON (f.asset_id, f.idx) = (c.asset_id, c.idx) JOIN {} v USING (frame_id)"
            " WHERE c.space_id = %(space)s ORDER BY 1"
        ).format(leaders, sql.Identifier(space.table_name)),
        values,
    )
    frames = conn.execute(
        "INSERT INTO visual_members (frame_id, space_id, cluster_id, similarity)"
        " SELECT s.frame_id, %(space)s, c.cluster_id, s.similarity FROM stage_visual s"
        " JOIN frames l ON l.frame_id = s.leader"
        " JOIN visual_clusters c ON (c.space_id, c.asset_id, c.idx) = (%(space)s, l.asset_id, l.idx)"
        " ORDER BY s.frame_id",
        values,
    ).rowcount
    row = conn.execute("SELECT count(*) FROM visual_clusters WHERE space_id = %(space)s", values).fetchone()
    return Again(frames, row[0] if row else 0, len(kept), dropped)
