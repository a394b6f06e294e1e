"""Search who spoke: segments whose voice is like a voice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from cluster.db.connect import snapshot
from cluster.db.knn import EVERYWHERE, Answer, Scope, nearest
from cluster.db.search import named_at, while_there
from cluster.db.spaces import Space
from cluster.speakers.who import Who


@dataclass(frozen=True, slots=True)
class VoiceHit:
    """A segment that sounds like it: the cosine `similarity` of its voice, what is said, and by whom if that is known.

    `method` is how the speaker is known: human, cluster, knn, or given.
    """

    asset_id: int
    sha256: str
    uri: str
    media_kind: str | None
    idx: int
    start_ms: int
    end_ms: int
    text: str
    similarity: float = 0.0
    speaker: str | None = None
    speaker_id: int | None = None
    method: str | None = None


def voices_near(
    conn: psycopg.Connection[Any],
    space: Space,
    vector: NDArray[np.float32],
    *,
    scope: Scope = EVERYWHERE,
    limit: int = 10,
    ef_search: int | None = None,
) -> Answer[VoiceHit]:
    """The `limit` segments whose voices are nearest to the unit `vector` of shape (dimension,).

    All is read from one snapshot. Raises `SpaceGoneError` when the space is there no more.
    """
    with while_there(space), snapshot(conn):
        near = nearest(conn, space, vector, limit, scope=scope, ef_search=ef_search)
        return near.of(_read(conn, dict(near.hits)))


def _read(conn: psycopg.Connection[Any], distances: dict[int, float]) -> list[VoiceHit]:
    """A hit for each segment, in the order of `distances`."""
    rows = conn.execute(
        "SELECT s.segment_id, s.asset_id, encode(a.sha256, 'hex'),"
        " (SELECT name FROM asset_names n WHERE n.asset_id = s.asset_id), a.media_kind, s.idx, s.start_ms, s.end_ms,"
        " s.text FROM segments s JOIN assets a USING (asset_id) WHERE s.segment_id = ANY(%s)",
        (list(distances),),
    )
    hits = {row[0]: VoiceHit(*row[1:]) for row in rows}
    names = named_at(conn, {segment_id: (hit.asset_id, hit.idx) for segment_id, hit in hits.items()})
    found = [replace(hits[segment_id], similarity=1.0 - distance) for segment_id, distance in distances.items()]
    return [_named(hit, names.get(segment_id)) for segment_id, hit in zip(distances, found, strict=True)]


def _named(hit: VoiceHit, who: Who | None) -> VoiceHit:
    return hit if who is None else replace(hit, speaker=who.shown, speaker_id=who.speaker_id, method=who.method)
