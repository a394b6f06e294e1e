"""Clusters of unknown voices: what there is to cluster, and the clustering as it is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from cluster.db.copy import stage_rows
from cluster.db.spaces import Space
from cluster.db.speakers.parts import Key, assets_found_in, derive_parts
from cluster.db.speakers.state import lock_assets, lock_decisions, refresh
from cluster.speakers.clusters import APART, Labels, Vectors

_READ_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class Points:
    """Unknown voices, by asset and number: unit vectors (voices, dimension) and the clean speech behind each;
    segments and speech of each."""

    keys: Sequence[Key]
    vectors: Vectors
    clean_ms: NDArray[np.int64]
    segments: NDArray[np.int64]
    speech_ms: NDArray[np.int64]

    def only(self, chosen: Sequence[int]) -> Points:
        """Those at these positions."""
        keys = [self.keys[i] for i in chosen]
        return Points(keys, self.vectors[chosen], self.clean_ms[chosen], self.segments[chosen], self.speech_ms[chosen])


@dataclass(frozen=True, slots=True)
class Clustered:
    """What a clustering comes to: `members` and `noise` make up `points`, in voices, segments and milliseconds."""

    points: int
    clusters: int
    members: int
    noise: int
    segments: int
    speech_ms: int
    noise_segments: int
    noise_ms: int
    vanished: int = 0


def read_points(conn: psycopg.Connection[Any], space: Space, asset_ids: Collection[int] | None = None) -> Points:
    """The voices of these assets, or of all, that nobody knows; ghosts are no people."""
    query = sql.SQL(
        "SELECT v.asset_id, v.local_speaker, v.embedding, v.clean_ms, l.segments, l.speech_ms FROM {} v"
        " JOIN local_speakers l USING (asset_id, local_speaker) WHERE l.method IS NULL AND NOT l.is_ghost"
        " AND (%(ids)s::bigint[] IS NULL OR v.asset_id = ANY(%(ids)s)) ORDER BY 1, 2"
    ).format(sql.Identifier(space.local_voices_table))
    keys: list[Key] = []
    vectors, counts = [np.empty((0, space.dimension), np.float32)], [np.empty((0, 3), np.int64)]
    with conn.transaction(), conn.cursor("points") as cursor:
        cursor.execute(query, {"ids": None if asset_ids is None else sorted(set(asset_ids))}, binary=True)
        while rows := cursor.fetchmany(_READ_ROWS):
            keys += [(row[0], row[1]) for row in rows]
            vectors.append(np.stack([row[2].to_numpy() for row in rows]).astype(np.float32))
            counts.append(np.asarray([row[3:] for row in rows], np.int64))
    return Points(keys, np.concatenate(vectors), *np.concatenate(counts).T)


def without_voices(conn: psycopg.Connection[Any], space: Space, asset_ids: Collection[int] | None = None) -> int:
    """How many of these assets, or of all, have segments and no voices of this space."""
    row = conn.execute(
        "SELECT count(*) FROM assets a WHERE (%(ids)s::bigint[] IS NULL OR asset_id = ANY(%(ids)s))"
        " AND EXISTS (SELECT 1 FROM segments s WHERE s.asset_id = a.asset_id)"
        " AND NOT EXISTS (SELECT 1 FROM units u WHERE u.asset_id = a.asset_id AND u.lane = 'voices'"
        "  AND u.state = 'done' AND u.detail->>'space_id' = %(space)s)",
        {"ids": None if asset_ids is None else sorted(set(asset_ids)), "space": str(space.space_id)},
    ).fetchone()
    assert row is not None
    return row[0]


def summed(points: Points, labels: Labels) -> Clustered:
    """The counts of a clustering."""
    inside = labels != APART
    return Clustered(
        points=len(labels),
        clusters=len(np.unique(labels[inside])),
        members=int(inside.sum()),
        noise=int((~inside).sum()),
        segments=int(points.segments.sum()),
        speech_ms=int(points.speech_ms.sum()),
        noise_segments=int(points.segments[~inside].sum()),
        noise_ms=int(points.speech_ms[~inside].sum()),
    )


def write_clustering(
    conn: psycopg.Connection[Any], space: Space, points: Points, labels: Labels, run_id: UUID
) -> Clustered:
    """Put the voices into the clusters found, and those apart into none; returns what was written.

    Voices that changed or got a name since they were read are left as they are. A cluster found again keeps its
    number. One transaction.
    """
    with conn.transaction():
        lock_decisions(conn)
        before = _memberships(conn, space, points)
        lock_assets(conn, assets_found_in(conn, before.values()) | {asset_id for asset_id, _ in points.keys})
        kept, labels = _still_there(conn, space, points, labels)
        before = {key: found for key, found in before.items() if key in set(kept.keys)}
        sizes = _sizes(conn, before.values())
        _take_out(conn, space, before)
        left = _sizes(conn, before.values())
        numbers = _numbers(conn, space, kept, labels, before, {one: sizes[one] for one in sizes if one not in left})
        _put_in(conn, space, kept, labels, numbers, run_id)
        # Only what lost members can have a labelled one: the new clusters are of unknown voices.
        shrunk = assets_found_in(conn, left)
        _drop_lone(conn, space, left)
        derive_parts(conn, {*numbers.values(), *left})
        refresh(conn, shrunk)
    return replace(summed(kept, labels), vanished=len(points.keys) - len(kept.keys))


def _memberships(conn: psycopg.Connection[Any], space: Space, points: Points) -> dict[Key, int]:
    rows = conn.execute(
        "SELECT m.asset_id, m.local_speaker, m.found_in FROM cluster_members m"
        " JOIN unnest(%s::bigint[], %s::int[]) t(asset_id, local_speaker) USING (asset_id, local_speaker)"
        " WHERE m.space_id = %s ORDER BY 1, 2",
        (*_columns(points.keys), space.space_id),
    )
    return {(asset_id, who): found for asset_id, who, found in rows}


def _still_there(conn: psycopg.Connection[Any], space: Space, points: Points, labels: Labels) -> tuple[Points, Labels]:
    """The points that are what they were when they were read; a cluster of one that is left is none."""
    now = read_points(conn, space, {asset_id for asset_id, _ in points.keys})
    position = {key: i for i, key in enumerate(now.keys)}
    chosen = [
        i
        for i, key in enumerate(points.keys)
        if (at := position.get(key)) is not None and np.array_equal(points.vectors[i], now.vectors[at])
    ]
    labels = labels[chosen]
    sizes = Counter(labels.tolist())
    lone = [label for label, size in sizes.items() if size < 2]
    return points.only(chosen), np.where(np.isin(labels, lone), APART, labels)


def _sizes(conn: psycopg.Connection[Any], found: Collection[int]) -> dict[int, int]:
    rows = conn.execute(
        "SELECT found_in, count(*) FROM cluster_members WHERE found_in = ANY(%s) GROUP BY 1", (sorted(set(found)),)
    )
    return dict(rows.fetchall())


def _take_out(conn: psycopg.Connection[Any], space: Space, members: Collection[Key]) -> None:
    conn.execute(
        "DELETE FROM cluster_members m USING unnest(%s::bigint[], %s::int[]) t(asset_id, local_speaker)"
        " WHERE (m.asset_id, m.local_speaker) = (t.asset_id, t.local_speaker) AND m.space_id = %s",
        (*_columns(members), space.space_id),
    )


def _numbers(
    conn: psycopg.Connection[Any],
    space: Space,
    points: Points,
    labels: Labels,
    before: Mapping[Key, int],
    free: Mapping[int, int],
) -> dict[int, int]:
    """Label -> cluster: that of `free` (cluster -> its size before) with which it shares over half, else a new one."""
    sizes = Counter(labels[labels != APART].tolist())
    shared = Counter(
        (label, before[key])
        for key, label in zip(points.keys, labels.tolist(), strict=True)
        if label != APART and before.get(key) in free
    )
    numbers = {label: old for (label, old), both in shared.items() if 2 * both > max(sizes[label], free[old])}
    new = [label for label in sorted(sizes) if label not in numbers]
    rows = conn.execute(
        "INSERT INTO voice_clusters (space_id) SELECT %s FROM generate_series(1, %s) RETURNING cluster_id",
        (space.space_id, len(new)),
    )
    return numbers | dict(zip(new, sorted(row[0] for row in rows), strict=True))


def _put_in(
    conn: psycopg.Connection[Any],
    space: Space,
    points: Points,
    labels: Labels,
    numbers: Mapping[int, int],
    run_id: UUID,
) -> None:
    conn.execute("UPDATE voice_clusters SET run_id = %s WHERE cluster_id = ANY(%s)", (run_id, list(numbers.values())))
    stage_rows(
        conn,
        "stage_cluster_members",
        {"asset_id": "int8", "local_speaker": "int2", "cluster_id": "int8"},
        ((*key, numbers[label]) for key, label in zip(points.keys, labels.tolist(), strict=True) if label != APART),
    )
    # The similarity is derived with the parts, over the members as they end up.
    conn.execute(
        "INSERT INTO cluster_members (asset_id, local_speaker, space_id, found_in, cluster_id, similarity)"
        " SELECT asset_id, local_speaker, %s, cluster_id, cluster_id, 0 FROM stage_cluster_members ORDER BY 1, 2",
        (space.space_id,),
    )


def _drop_lone(conn: psycopg.Connection[Any], space: Space, shrunk: Collection[int]) -> None:
    """Leave no cluster of one voice among those that lost members, and none without any."""
    conn.execute(
        "DELETE FROM cluster_members WHERE found_in IN (SELECT found_in FROM cluster_members"
        "  WHERE found_in = ANY(%s) GROUP BY found_in HAVING count(*) < 2)",
        (sorted(shrunk),),
    )
    conn.execute(
        "DELETE FROM voice_clusters c WHERE space_id = %s AND split_of IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM cluster_members m WHERE m.found_in = c.cluster_id)",
        (space.space_id,),
    )


def _columns(keys: Collection[Key]) -> tuple[list[int], list[int]]:
    return [asset_id for asset_id, _ in keys], [who for _, who in keys]
