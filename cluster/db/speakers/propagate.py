"""The name of a labelled member of a cluster, offered to those of the others that are alike enough."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from psycopg import sql

from cluster.db.spaces import Space, voice_spaces
from cluster.speakers.scoring import Gallery
from cluster.speakers.thresholds import MARGIN, Thresholds, shipped_thresholds

Key = tuple[int, int]
# Speaker, score, margin and limit.
Offer = tuple[Any, ...]
_NONE: Offer = (None, None, None, None)


def propose(conn: psycopg.Connection[Any], cluster_ids: Iterable[int]) -> set[int]:
    """Let labelled members of clusters offer their names to the others; returns the assets whose offers changed.

    A member takes the name whose labelled voices it is alike enough, clearly more than those of the next name. A
    cluster of low cohesion passes no name on.
    """
    changed: set[int] = set()
    for space in voice_spaces(conn):
        for cluster in _read_clusters(conn, space, cluster_ids):
            changed |= _propose(conn, space, cluster)
    return changed


def thresholds_of(space: Space) -> Thresholds:
    """The thresholds shipped for the voices of this space."""
    return shipped_thresholds(space.choice.engine)


def held_back(conn: psycopg.Connection[Any], cluster_ids: Iterable[int], speaker_id: int) -> Counter[str]:
    """Why -> how many members of these clusters that no person named did not get the name of this root speaker."""
    reasons: Counter[str] = Counter()
    for space in voice_spaces(conn):
        for cluster in _read_clusters(conn, space, cluster_ids):
            for i, verdict in enumerate(_verdicts(cluster, thresholds_of(space))):
                if cluster.human[i] is None and not cluster.said[i] and cluster.now[i] != speaker_id:
                    mine = verdict.offer[0] == speaker_id
                    reasons["another voice of their asset has the name" if mine else verdict.reason] += 1
    return reasons


@dataclass(frozen=True, slots=True)
class _Cluster:
    """Members of one cluster: which, their unit vectors (members, dimension), whether and whom a person said they
    are, who they are now, and what they are offered."""

    keys: list[Key]
    vectors: Any
    similarity: Any
    said: list[bool]
    human: list[int | None]
    now: list[int | None]
    offered: list[Offer]


@dataclass(frozen=True, slots=True)
class _Verdict:
    """The name a member is offered with score, margin and limit; all None, and why, when it is offered none."""

    offer: Offer
    reason: str = ""


def _read_clusters(conn: psycopg.Connection[Any], space: Space, cluster_ids: Iterable[int]) -> list[_Cluster]:
    rows = conn.execute(
        sql.SQL(
            "SELECT m.cluster_id, m.asset_id, m.local_speaker, v.embedding, m.similarity,"
            " l.method IS NOT DISTINCT FROM 'human', CASE WHEN l.method = 'human' THEN p.root_id END, p.root_id,"
            " m.speaker_id, m.score, m.margin, m.tau"
            " FROM cluster_members m JOIN local_speakers l USING (asset_id, local_speaker)"
            " JOIN {} v USING (asset_id, local_speaker) LEFT JOIN speakers p ON p.speaker_id = l.speaker_id"
            " WHERE m.cluster_id = ANY(%s) AND m.space_id = %s ORDER BY 1, 2, 3"
        ).format(sql.Identifier(space.local_voices_table)),
        (sorted(set(cluster_ids)), space.space_id),
        binary=True,
    ).fetchall()
    grouped: defaultdict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for row in rows:
        grouped[row[0]].append(row)
    return [
        _Cluster(
            [(row[1], row[2]) for row in members],
            np.stack([row[3].to_numpy() for row in members]).astype(np.float32),
            np.asarray([row[4] for row in members]),
            [row[5] for row in members],
            [row[6] for row in members],
            [row[7] for row in members],
            [row[8:] for row in members],
        )
        for members in grouped.values()
    ]


def _verdicts(cluster: _Cluster, limits: Thresholds) -> list[_Verdict]:
    said = {i: who for i, who in enumerate(cluster.human) if who is not None}
    others = [i for i in range(len(cluster.keys)) if i not in said]
    verdicts = [_Verdict(_NONE, "nobody of the cluster has a name")] * len(cluster.keys)
    if not said or not others:
        return verdicts
    cohesion = float(np.quantile(cluster.similarity, 0.05))
    if cohesion < limits.cohesion:
        mixed = f"the cluster is mixed: 5th-percentile cosine {cohesion:.2f}, {limits.cohesion:.2f} is needed"
        return [_Verdict(_NONE, mixed)] * len(cluster.keys)
    gallery = Gallery(cluster.vectors[others])
    gallery.add(cluster.vectors[list(said)], said.values())
    found = gallery.matches()
    for i, who, score, margin in zip(others, found.best, found.score, found.margin, strict=True):
        if score < limits.cluster:
            verdicts[i] = _Verdict(_NONE, f"less alike than {limits.cluster:.2f}")
        elif margin < MARGIN:
            verdicts[i] = _Verdict(_NONE, f"as alike to another person, within {MARGIN:.2f}")
        else:
            verdicts[i] = _Verdict((int(who), *_floats(score, margin, limits.cluster)), "more alike to another person")
    return verdicts


def _propose(conn: psycopg.Connection[Any], space: Space, cluster: _Cluster) -> set[int]:
    offers = [verdict.offer for verdict in _verdicts(cluster, thresholds_of(space))]
    changed = [i for i, offer in enumerate(offers) if offer != cluster.offered[i]]
    if changed:
        rows = [(*cluster.keys[i], *offers[i]) for i in changed]
        conn.execute(
            "UPDATE cluster_members m SET speaker_id = t.speaker_id, score = t.score, margin = t.margin, tau = t.tau"
            " FROM unnest(%s::bigint[], %s::int[], %s::bigint[], %s::real[], %s::real[], %s::real[])"
            "  t(asset_id, local_speaker, speaker_id, score, margin, tau)"
            " WHERE (m.asset_id, m.local_speaker) = (t.asset_id, t.local_speaker) AND m.space_id = %s",
            [*(list(column) for column in zip(*rows, strict=True)), space.space_id],
        )
    return {cluster.keys[i][0] for i in changed}


def _floats(*values: Any) -> tuple[float | None, ...]:
    """As the database keeps them: single precision, NULL for NaN."""
    return tuple(None if np.isnan(value) else float(np.float32(value)) for value in values)
