"""Search what was said: nearest vectors and full text, fused by reciprocal rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from cluster.db.connect import snapshot
from cluster.db.spaces import Space, active_space
from cluster.db.speakers.who import speakers_at
from cluster.errors import RushesError

RRF_K = 60
CANDIDATES = 100
# A switch of profiles, then a `db gc` that drops the space of before: more often than so nobody switches.
MAX_SWITCHES = 5
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Hit:
    """One chunk that answers: where, when, what, and why it was found; `speaker` begins it, if that one has a name."""

    asset_id: int
    sha256: str
    uri: str
    start_ms: int
    end_ms: int
    text: str
    score: float
    similarity: float | None
    vector_rank: int | None
    text_rank: int | None
    rerank_score: float | None = None
    speaker: str | None = None


class SpaceGoneError(Exception):
    """The space was dropped while it was to be searched; the active one is another by now."""


def search_active(conn: psycopg.Connection[Any], kind: str, search: Callable[[Space], list[T]]) -> list[T] | None:
    """What `search` finds in the space of this kind that is active; None without one.

    Begun anew in the next one when a switch and a `db gc` took the space away meanwhile.
    """
    for _ in range(MAX_SWITCHES):
        space = active_space(conn, kind)
        if space is None:
            return None
        with suppress(SpaceGoneError):
            return search(space)
    raise RushesError(f"the {kind} space changed {MAX_SWITCHES} times during this search: search again")


def search_chunks(
    conn: psycopg.Connection[Any],
    space: Space,
    vector: NDArray[np.float32],
    text: str,
    *,
    asset_ids: Sequence[int] | None = None,
    limit: int = 10,
) -> list[Hit]:
    """The best `limit` chunks of the space for `text` and its unit `vector` (shape (dimension,)).

    Fusion after Cormack, Clarke and Buettcher (SIGIR 2009): sum of 1 / (60 + rank). Inside
    `asset_ids` the vector search is exact, because a filter after an index walk loses rows. All is read from
    one snapshot. Raises `SpaceGoneError` when the space is there no more.
    """
    try:
        with snapshot(conn):
            return _search(conn, space, vector, text, asset_ids, limit)
    except psycopg.errors.UndefinedTable as error:
        raise SpaceGoneError(space.table_name) from error


def _search(
    conn: psycopg.Connection[Any],
    space: Space,
    vector: NDArray[np.float32],
    text: str,
    asset_ids: Sequence[int] | None,
    limit: int,
) -> list[Hit]:
    near = _nearest(conn, space, vector, asset_ids)
    worded = _full_text(conn, space, text, asset_ids)
    scores: dict[int, float] = {}
    for ranking in (list(near), worded):
        for rank, chunk_id in enumerate(ranking, 1):
            scores[chunk_id] = scores.get(chunk_id, 0.0) + 1 / (RRF_K + rank)
    best = sorted(scores, key=lambda chunk_id: (-scores[chunk_id], chunk_id))[:limit]
    vector_ranks = {chunk_id: rank for rank, chunk_id in enumerate(near, 1)}
    text_ranks = {chunk_id: rank for rank, chunk_id in enumerate(worded, 1)}
    rows = _read(conn, best)
    names = _first_names(conn, rows)
    return [
        Hit(*rows[i][:6], scores[i], near.get(i), vector_ranks.get(i), text_ranks.get(i), speaker=names.get(i))
        for i in best
        if i in rows
    ]


def _nearest(
    conn: psycopg.Connection[Any], space: Space, vector: NDArray[np.float32], asset_ids: Sequence[int] | None
) -> dict[int, float]:
    """chunk id -> cosine similarity, nearest first."""
    table, kind = sql.Identifier(space.table_name), sql.SQL(space.storage)
    values: dict[str, Any] = {"q": vector, "n": CANDIDATES, "assets": _listed(asset_ids), "space": space.space_id}
    if asset_ids is None:
        query = sql.SQL("SELECT chunk_id, embedding <=> %(q)s::{} AS d FROM {} ORDER BY d LIMIT %(n)s")
        query = query.format(kind, table)
    else:
        query = sql.SQL(
            # OFFSET 0 keeps the order out of the index, and every row of the assets in.
            "SELECT chunk_id, d FROM (SELECT chunk_id, embedding <=> %(q)s::{} AS d FROM {}"
            " JOIN chunks USING (chunk_id) WHERE asset_id = ANY(%(assets)s) AND space_id = %(space)s OFFSET 0) mine"
            " ORDER BY d LIMIT %(n)s"
        ).format(kind, table)
    conn.execute(sql.SQL("SET LOCAL hnsw.ef_search = {}").format(sql.Literal(CANDIDATES)))
    return {chunk_id: 1.0 - distance for chunk_id, distance in conn.execute(query, values)}


def _full_text(conn: psycopg.Connection[Any], space: Space, text: str, asset_ids: Sequence[int] | None) -> list[int]:
    """Chunk ids that hold any of the words, best first."""
    rows = conn.execute(
        "WITH q AS (SELECT replace(plainto_tsquery('simple', %(text)s)::text, ' & ', ' | ')::tsquery AS q)"
        " SELECT chunk_id FROM chunks, q WHERE space_id = %(space)s AND tsv @@ q"
        " AND (%(assets)s::bigint[] IS NULL OR asset_id = ANY(%(assets)s))"
        " ORDER BY ts_rank_cd(tsv, q, 1) DESC, chunk_id LIMIT %(n)s",
        {"text": text, "space": space.space_id, "assets": _listed(asset_ids), "n": CANDIDATES},
    )
    return [row[0] for row in rows]


def _listed(asset_ids: Sequence[int] | None) -> list[int] | None:
    return None if asset_ids is None else list(asset_ids)


def _read(
    conn: psycopg.Connection[Any], chunk_ids: Sequence[int]
) -> dict[int, tuple[int, str, str, int, int, str, int]]:
    """chunk id -> what a `Hit` begins with, and the chunk's first segment."""
    rows = conn.execute(
        "SELECT c.chunk_id, c.asset_id, encode(a.sha256, 'hex'),"
        " (SELECT name FROM asset_names n WHERE n.asset_id = c.asset_id), c.start_ms, c.end_ms, c.text,"
        " c.first_segment"
        " FROM chunks c JOIN assets a USING (asset_id) WHERE c.chunk_id = ANY(%s)",
        (list(chunk_ids),),
    )
    return {row[0]: row[1:] for row in rows}


def _first_names(
    conn: psycopg.Connection[Any], rows: dict[int, tuple[int, str, str, int, int, str, int]]
) -> dict[int, str]:
    places = {chunk_id: (row[0], row[-1]) for chunk_id, row in rows.items()}
    speakers = speakers_at(conn, sorted(set(places.values())))
    found = {chunk_id: speakers.get(place) for chunk_id, place in places.items()}
    return {chunk_id: who.shown for chunk_id, who in found.items() if who is not None and who.is_named}
