"""Nearest vectors of a space, and the truth about the answer: exact or not, and why there is less than was asked.

A filter behind an index walk loses rows without a word. So what a filter leaves is counted first: a few thousand
vectors are all compared, and so are those of one asset, however many; more are met by a walk that goes on until it
has enough of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, LiteralString, TypeVar

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from cluster.db.spaces import OWNER, Space

MOST_HITS = 1_000
# What pgvector takes.
MOST_EF_SEARCH = 1_000
# Recall 0.96 at 100,000 sentence vectors; `rushes db recall` measures what a space needs.
USUAL_EF_SEARCH = 100
# So many vectors of a filter are compared one by one: a few milliseconds, and nothing is missed.
EXACT_MOST = 5_000
# So many where a walk came back with too few: a tenth of a second, and nothing is missed either.
EXACT_AT_LAST = 100_000
# Where a walk ends that meets nothing of what it looks for, and the memory it takes, in parts of work_mem.
WALK_MOST = 100_000
WALK_MEMORY = 8

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Scope:
    """Where to search: in these assets, None for all; while one of these people (roots) speaks, None for anybody.

    Whoever names people names assets too: those where they speak (`cluster.db.filter.scope_of`).
    """

    asset_ids: Sequence[int] | None = None
    speaker_ids: Sequence[int] | None = None

    def __bool__(self) -> bool:
        """Whether it leaves anything out."""
        return self.asset_ids is not None or self.speaker_ids is not None

    @property
    def values(self) -> dict[str, list[int] | None]:
        """The parameters `assets` and `speakers` of a query."""
        return {
            "assets": None if self.asset_ids is None else list(self.asset_ids),
            "speakers": None if self.speaker_ids is None else list(self.speaker_ids),
        }


EVERYWHERE = Scope()


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What was found, best first.

    `is_exact`: every vector that may answer was compared. `ef_search`: the candidates an index walk kept, None when
    none was made. `why_fewer`: why there are fewer hits than were asked for; None when there are as many.
    """

    hits: list[T]
    is_exact: bool
    ef_search: int | None
    why_fewer: str | None = None

    def of(self, hits: list[U]) -> Answer[U]:
        """The same answer in other words."""
        return Answer(hits, self.is_exact, self.ef_search, self.why_fewer)


# (owner id, cosine distance), nearest first
Nearest = Answer[tuple[int, float]]

# Which rows `o`, the owners of vectors `v`, are meant; `%(assets)s` and `%(speakers)s` are lists, None for all.
_IN_ASSETS: LiteralString = "(%(assets)s::bigint[] IS NULL OR o.asset_id = ANY(%(assets)s))"
_SAID_IN_SEGMENT: LiteralString = (
    "EXISTS (SELECT 1 FROM segment_speakers w WHERE w.segment_id = o.segment_id AND w.speaker_id = ANY(%(speakers)s))"
)
_SAID_IN_CHUNK: LiteralString = (
    "EXISTS (SELECT 1 FROM segment_speakers w WHERE w.asset_id = o.asset_id"
    " AND w.idx BETWEEN o.first_segment AND o.last_segment AND w.speaker_id = ANY(%(speakers)s))"
)
# Frames and segments share nothing but time: what each person says of an asset becomes one set of spans.
_SAID_AT_FRAME: LiteralString = (
    "EXISTS (SELECT 1 FROM (SELECT asset_id, range_agg(int4range(start_ms, end_ms)) AS spans FROM segment_speakers"
    " WHERE asset_id = ANY(%(assets)s) AND speaker_id = ANY(%(speakers)s) GROUP BY 1 OFFSET 0) w"
    " WHERE w.asset_id = o.asset_id AND o.t_ms <@ w.spans)"
)
_SAID: dict[str, LiteralString] = {"voice": _SAID_IN_SEGMENT, "text": _SAID_IN_CHUNK, "image": _SAID_AT_FRAME}
# Flat and black pictures are like one another and like nothing that is asked for.
_ALWAYS: dict[str, LiteralString] = {"image": "o.is_informative"}


def condition(kind: str, scope: Scope) -> LiteralString:
    """SQL that holds for the rows `o` of the owners' table that lie in the scope; takes `scope.values`."""
    said: LiteralString = "true" if scope.speaker_ids is None else _SAID[kind]
    return f"{_ALWAYS.get(kind, 'true')} AND {_IN_ASSETS if scope else 'true'} AND {said}"


def nearest(
    conn: psycopg.Connection[Any],
    space: Space,
    vector: NDArray[np.float32],
    k: int,
    *,
    scope: Scope = EVERYWHERE,
    ef_search: int | None = None,
) -> Nearest:
    """The `k` vectors of the space nearest to the unit `vector` of shape (dimension,), by the ids of their owners.

    `ef_search` defaults to what was measured for the space, and to `k` at the least. The caller is in a transaction.
    """
    if scope.asset_ids is not None and not scope.asset_ids:
        return Answer([], is_exact=True, ef_search=None, why_fewer="no asset matches the filters")
    search = VectorSearch(conn, space, vector, k, scope)
    usual = usual_ef_search(conn, space)
    is_one_asset = scope.asset_ids is not None and len(scope.asset_ids) == 1
    if usual is None or is_one_asset or (scope and search.count(EXACT_MOST + 1) <= EXACT_MOST):
        return search.exact()
    ef = ef_search or min(MOST_EF_SEARCH, max(k, usual))
    rows = search.walk(ef)
    if len(rows) < k and search.count(EXACT_AT_LAST + 1) <= EXACT_AT_LAST:
        return search.exact()
    why = None if len(rows) == k else (
        f"the index walk ended after about {WALK_MOST} vectors with {len(rows)} that match: narrow the filters, up to "
        f"{EXACT_AT_LAST} vectors are compared one by one"
    )  # fmt: skip
    return Answer(rows, is_exact=False, ef_search=ef, why_fewer=why)


def usual_ef_search(conn: psycopg.Connection[Any], space: Space) -> int | None:
    """The candidates that a walk of this space's index keeps unless it is told; None without an index."""
    row = conn.execute(
        "SELECT coalesce((SELECT ef_search FROM spaces WHERE space_id = %s), %s) FROM pg_index i"
        " JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam"
        " WHERE i.indrelid = to_regclass(%s) AND i.indisvalid AND m.amname = 'hnsw'",
        (space.space_id, USUAL_EF_SEARCH, space.table_name),
    ).fetchone()
    return None if row is None else row[0]


class VectorSearch:
    """The three queries of one search. None is prepared: a plan for other filters would be the wrong one."""

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        space: Space,
        vector: NDArray[np.float32],
        k: int,
        scope: Scope = EVERYWHERE,
    ) -> None:
        self._conn, self._k, self._scope = conn, k, scope
        self._values = {"q": np.asarray(vector, np.float32), "k": k, **scope.values}
        owner, parent = OWNER[space.kind]
        self._names = {
            "id": sql.Identifier(owner),
            "vectors": sql.Identifier(space.table_name),
            "query": sql.SQL("%(q)s::{}").format(sql.SQL(space.storage)),
            "rows": sql.SQL("{} v").format(sql.Identifier(space.table_name)),
        }
        if scope or space.kind in _ALWAYS:
            self._names["rows"] = sql.SQL("{} v JOIN {} o USING ({}) WHERE " + condition(space.kind, scope)).format(
                self._names["vectors"], sql.Identifier(parent), self._names["id"]
            )

    def count(self, most: int) -> int:
        """How many vectors lie in the scope; counting ends at `most`."""
        query = sql.SQL("SELECT count(*) FROM (SELECT FROM {rows} LIMIT %(most)s) t").format(**self._names)
        row = self._conn.execute(query, {**self._values, "most": most}, prepare=False).fetchone()
        return row[0] if row else 0

    def exact(self) -> Nearest:
        """Every vector of the scope is compared: OFFSET 0 keeps the order out of the index."""
        query = sql.SQL(
            "SELECT {id}, d FROM (SELECT {id}, v.embedding <=> {query} AS d FROM {rows} OFFSET 0) mine"
            " ORDER BY d, {id} LIMIT %(k)s"
        ).format(**self._names)
        rows = self._conn.execute(query, self._values, prepare=False).fetchall()
        what = "match the filters" if self._scope else "are in this space"
        why = f"only {len(rows)} vectors {what}" if len(rows) < self._k else None
        return Answer(rows, is_exact=True, ef_search=None, why_fewer=why)

    def walk(self, ef_search: int) -> list[tuple[int, float]]:
        """The best `k` that a walk of the index meets; it goes on until there are enough.

        They are met nearly in order, and what a filter takes out hides nearer ones behind it: so as many as there
        are candidates are taken, and sorted once more.
        """
        values = {**self._values, "enough": max(self._k, ef_search) if self._scope else self._k}
        self._conn.execute(
            "SELECT set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.ef_search', %s, true),"
            " set_config('hnsw.max_scan_tuples', %s, true), set_config('hnsw.scan_mem_multiplier', %s, true)",
            (str(ef_search), str(WALK_MOST), str(WALK_MEMORY)),
        )
        query = sql.SQL(
            "WITH near AS MATERIALIZED"
            " (SELECT {id}, v.embedding <=> {query} AS d FROM {rows} ORDER BY v.embedding <=> {query} LIMIT %(enough)s)"
            " SELECT {id}, d FROM near ORDER BY d + 0, {id} LIMIT %(k)s"
        ).format(**self._names)
        return self._conn.execute(query, values, prepare=False).fetchall()
