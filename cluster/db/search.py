"""Search what was said: nearest vectors and full text, fused by reciprocal rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, LiteralString, TypeVar

import numpy as np
import psycopg
from numpy.typing import NDArray

from cluster.db.connect import snapshot
from cluster.db.knn import EVERYWHERE, Answer, Scope, condition, nearest
from cluster.db.spaces import Space, active_space
from cluster.db.speakers.who import speakers_at
from cluster.errors import RushesError
from cluster.speakers.who import Who

RRF_K = 60
CANDIDATES = 100
# Ranking a passage by its words takes 10 us, and the words that most passages hold say least.
MOST_RANKED = 3_000
# A switch of profiles, then a `db gc` that drops the space of before: more often than so nobody switches.
MAX_SWITCHES = 5
Mode = Literal["hybrid", "vector", "words"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Hit:
    """One chunk that answers: where, when, what, and why it was found; `speaker` begins it, if that one has a name."""

    asset_id: int
    sha256: str
    uri: str
    media_kind: str | None
    start_ms: int
    end_ms: int
    text: str
    score: float
    similarity: float | None
    vector_rank: int | None
    text_rank: int | None
    rerank_score: float | None = None
    speaker: str | None = None
    speaker_id: int | None = None


class SpaceGoneError(Exception):
    """The space was dropped while it was to be searched; the active one is another by now."""


@contextmanager
def while_there(space: Space) -> Iterator[None]:
    """What reads the tables of the space; `SpaceGoneError` when they are there no more."""
    try:
        yield
    except psycopg.errors.UndefinedTable as error:
        raise SpaceGoneError(space.table_name) from error


def search_active(conn: psycopg.Connection[Any], kind: str, search: Callable[[Space], T]) -> T | None:
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
    vector: NDArray[np.float32] | None,
    text: str,
    *,
    scope: Scope = EVERYWHERE,
    limit: int = 10,
    ef_search: int | None = None,
) -> Answer[Hit]:
    """The best `limit` chunks of the space for `text` and its unit `vector` (shape (dimension,)).

    Fusion after Cormack, Clarke and Buettcher (SIGIR 2009): sum of 1 / (60 + rank). Without a vector the words
    decide alone, without a text the vector. All is read from one snapshot. Raises `SpaceGoneError` when the space is
    there no more.
    """
    with while_there(space), snapshot(conn):
        return _search(conn, space, vector, text, scope, limit, ef_search)


def _search(
    conn: psycopg.Connection[Any],
    space: Space,
    vector: NDArray[np.float32] | None,
    text: str,
    scope: Scope,
    limit: int,
    ef_search: int | None,
) -> Answer[Hit]:
    count = max(limit, CANDIDATES)
    found = None if vector is None else nearest(conn, space, vector, count, scope=scope, ef_search=ef_search)
    near = {} if found is None else {chunk_id: 1.0 - distance for chunk_id, distance in found.hits}
    worded = _full_text(conn, space, text, scope, count) if text else []
    scores = _fused(list(near), worded)
    best = sorted(scores, key=lambda chunk_id: (-scores[chunk_id], chunk_id))[:limit]
    hits = _hits(conn, best, scores, near, worded)
    if found is None:
        where = " that match the filters" if scope else ""
        why = f"only {len(hits)} passages{where} hold any of these words, but for very common ones"
        why = why if len(hits) < limit else None
        return Answer(hits, is_exact=True, ef_search=None, why_fewer=why)
    return Answer(hits, found.is_exact, found.ef_search, found.why_fewer if len(hits) < limit else None)


def _fused(*rankings: Sequence[int]) -> dict[int, float]:
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, chunk_id in enumerate(ranking, 1):
            scores[chunk_id] = scores.get(chunk_id, 0.0) + 1 / (RRF_K + rank)
    return scores


def _hits(
    conn: psycopg.Connection[Any],
    best: Sequence[int],
    scores: dict[int, float],
    near: dict[int, float],
    worded: Sequence[int],
) -> list[Hit]:
    vector_ranks = {chunk_id: rank for rank, chunk_id in enumerate(near, 1)}
    text_ranks = {chunk_id: rank for rank, chunk_id in enumerate(worded, 1)}
    rows = _read(conn, best)
    names = named_at(conn, {chunk_id: (row[0], row[-1]) for chunk_id, row in rows.items()})
    return [
        Hit(*rows[i][:-1], scores[i], near.get(i), vector_ranks.get(i), text_ranks.get(i),
            speaker=names[i].shown if i in names else None, speaker_id=names[i].speaker_id if i in names else None)
        for i in best
        if i in rows
    ]  # fmt: skip


# A word of most passages tells little and has most of them ranked: it is left aside where there are other words.
# Words by how many passages hold them (one that the statistics do not list: fewer than any that they do), the rarest
# first, as long as there is room.
_FULL_TEXT: LiteralString = """
WITH words AS (SELECT unnest(tsvector_to_array(to_tsvector('simple', %(text)s))) AS word),
listed AS (SELECT c.word, c.share * t.reltuples AS passages
  FROM pg_class t JOIN pg_stats s ON s.tablename = 'chunks' AND s.attname = 'tsv'
    AND s.schemaname = t.relnamespace::regnamespace::text,
  unnest(s.most_common_elems::text::text[], s.most_common_elem_freqs) c(word, share)
  WHERE t.oid = 'chunks'::regclass AND c.word IS NOT NULL),
counted AS (SELECT word, coalesce(l.passages, (SELECT min(passages) / 2 FROM listed), 0) AS passages
  FROM words LEFT JOIN listed l USING (word)),
ranked AS (SELECT word, sum(passages) OVER rarest AS passages, row_number() OVER rarest AS place
  FROM counted WINDOW rarest AS (ORDER BY passages, word)),
q AS (SELECT replace(array_to_tsvector(array_agg(word))::text, $$' '$$, $$' | '$$)::tsquery AS q
  FROM ranked WHERE passages <= %(most)s OR place = 1)
SELECT chunk_id FROM chunks o, q WHERE space_id = %(space)s AND tsv @@ q AND {condition}
ORDER BY ts_rank_cd(tsv, q, 1) DESC, chunk_id LIMIT %(n)s
"""


def _full_text(conn: psycopg.Connection[Any], space: Space, text: str, scope: Scope, count: int) -> list[int]:
    """Chunk ids that hold any of the words, those of most passages left aside, best first."""
    query = _FULL_TEXT.replace("{condition}", condition("text", scope))
    values = {"text": text, "space": space.space_id, "n": count, "most": MOST_RANKED, **scope.values}
    return [row[0] for row in conn.execute(query, values, prepare=False)]


def _read(
    conn: psycopg.Connection[Any], chunk_ids: Sequence[int]
) -> dict[int, tuple[int, str, str, str | None, int, int, str, int]]:
    """chunk id -> what a `Hit` begins with, and the chunk's first segment."""
    rows = conn.execute(
        "SELECT c.chunk_id, c.asset_id, encode(a.sha256, 'hex'),"
        " (SELECT name FROM asset_names n WHERE n.asset_id = c.asset_id), a.media_kind, c.start_ms, c.end_ms, c.text,"
        " c.first_segment"
        " FROM chunks c JOIN assets a USING (asset_id) WHERE c.chunk_id = ANY(%s)",
        (list(chunk_ids),),
    )
    return {row[0]: row[1:] for row in rows}


def named_at(conn: psycopg.Connection[Any], places: dict[int, tuple[int, int]]) -> dict[int, Who]:
    """Key -> who speaks at its (asset, segment idx), where that one has a name."""
    speakers = speakers_at(conn, sorted(set(places.values())))
    found = {key: speakers.get(place) for key, place in places.items()}
    return {key: who for key, who in found.items() if who is not None and who.is_named}
