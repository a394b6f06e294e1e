"""A person says that a cluster holds several people: it is divided by voice, and stays divided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from cluster.db.spaces import get_space
from cluster.db.speakers import events
from cluster.db.speakers.actions import Decision
from cluster.db.speakers.parts import Key, assets_found_in, derive_parts, members_by
from cluster.db.speakers.state import lock_assets, lock_decisions, refresh
from cluster.errors import UsageError
from cluster.speakers.clusters import divided

PARTS = 2


def split_cluster(conn: psycopg.Connection[Any], cluster_id: int, parts: int | None, author: str) -> Decision:
    """Divide a cluster into `parts` (None: 2) by average linkage; later clusterings never join them.

    A part without a labelled member loses the name the cluster offered it. Raises `UsageError` for a cluster that
    does not exist or has fewer members than parts.
    """
    wanted = PARTS if parts is None else parts
    with conn.transaction():
        lock_decisions(conn)
        row = conn.execute(
            "SELECT space_id, found_in FROM cluster_members WHERE cluster_id = %s LIMIT 1", (cluster_id,)
        ).fetchone()
        if row is None:
            raise UsageError(f"there is no cluster {cluster_id}: see `rushes speakers clusters`")
        lock_assets(conn, assets_found_in(conn, [row[1]]))
        [(_, keys, vectors)] = members_by(conn, get_space(conn, row[0]), "cluster_id", [cluster_id])
        if not PARTS <= wanted <= len(keys):
            raise UsageError(
                f"cluster {cluster_id} has {len(keys)} voices, too few for {wanted} parts"
                if wanted > len(keys)
                else f"a cluster is divided into 2 parts or more, not {wanted}"
            )
        event_id = events.record(conn, "part", author)
        _mark(conn, event_id, keys, divided(vectors, wanted).tolist())
        derive_parts(conn, [row[1]])
        refresh(conn, assets_found_in(conn, [row[1]]))
    return Decision(event_id, None)


def parts_of_event(conn: psycopg.Connection[Any], event_id: int) -> list[tuple[int, int]]:
    """(cluster, members) of the parts that a split made, by part."""
    return conn.execute(
        "SELECT c.cluster_id, count(m.asset_id) FROM voice_clusters c LEFT JOIN cluster_members m USING (cluster_id)"
        " WHERE c.event_id = %s GROUP BY c.cluster_id, c.split_of, c.part ORDER BY c.split_of, c.part",
        (event_id,),
    ).fetchall()


def _mark(conn: psycopg.Connection[Any], event_id: int, keys: Sequence[Key], parts: Sequence[int]) -> None:
    """One mark per member, at its longest segment."""
    conn.execute(
        "INSERT INTO speaker_marks (event_id, asset_id, start_ms, end_ms, scope, part)"
        " SELECT DISTINCT ON (t.asset_id, t.local_speaker) %s, t.asset_id, s.start_ms, s.end_ms, 'part', t.part"
        " FROM unnest(%s::bigint[], %s::int[], %s::int[]) t(asset_id, local_speaker, part)"
        " JOIN segments s ON s.asset_id = t.asset_id LEFT JOIN segment_groups g USING (segment_id)"
        " WHERE coalesce(s.local_speaker, g.local_speaker) = t.local_speaker"
        " ORDER BY t.asset_id, t.local_speaker, s.end_ms - s.start_ms DESC, s.start_ms",
        (event_id, [asset_id for asset_id, _ in keys], [who for _, who in keys], list(parts)),
    )
