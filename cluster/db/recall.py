"""How well the vector index of a space finds what is there: recall@k against comparing everything.

Stored vectors ask, each with itself left out. A hit counts when it is as near as the k-th of the true ones, so that
copies of one content, which are equally near, do not count against the index.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from psycopg.types.json import Jsonb

from cluster.db.connect import snapshot
from cluster.db.knn import VectorSearch, usual_ef_search
from cluster.db.spaces import OWNER, Space, count_vectors

EF_SEARCHES = (20, 40, 60, 80, 100, 150, 200, 300, 400)
T = TypeVar("T")
Rows = list[tuple[int, float]]
# Distances of one vector to another are computed the same way in both queries, up to the last bits.
SAME = 1e-6


@dataclass(frozen=True, slots=True)
class Measured:
    """What walks with so many candidates found, on average, and how long they took: median and 95th percentile."""

    ef_search: int
    recall: float
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class Recall:
    """Recall@k of one space; without an index (`is_exact`) there is nothing to measure but the time of comparing all.

    `ef_search` is the least that reaches the target, the most that was tried where none does (`reaches` is False).
    """

    space_id: int
    kind: str
    vectors: int
    queries: int
    k: int
    target: float
    is_exact: bool
    ef_search: int | None
    reaches: bool
    exact_ms: float | None
    curve: tuple[Measured, ...]


def measure_recall(
    conn: psycopg.Connection[Any],
    space: Space,
    *,
    queries: int = 100,
    k: int = 10,
    target: float = 0.95,
    said: Callable[[int], None] = lambda _: None,
) -> Recall:
    """Ask `queries` stored vectors of the space for their `k` nearest, exactly and through the index; writes nothing.

    `said` is called after each query with how many are done.
    """
    indexed = usual_ef_search(conn, space) is not None
    sample = _sample(conn, space, queries)
    tries = EF_SEARCHES if indexed else ()
    exact_ms: list[float] = []
    shares: dict[int, list[float]] = {ef: [] for ef in tries}
    times: dict[int, list[float]] = {ef: [] for ef in tries}
    for number, (owner, vector) in enumerate(sample, 1):
        search = VectorSearch(conn, space, vector, k + 1)
        with snapshot(conn):
            answer, spent_ms = _timed(search.exact)
            exact_ms.append(spent_ms)
            # The index is what is measured, also where comparing everything would be planned.
            conn.execute("SET LOCAL enable_seqscan = off")
            for ef in tries:
                found, spent_ms = _timed(partial(search.walk, ef))
                shares[ef].append(_share(owner, answer.hits, found, k))
                times[ef].append(spent_ms)
        said(number)
    curve = tuple(_measured(ef, shares[ef], times[ef]) for ef in tries if sample)
    enough = next((one.ef_search for one in curve if one.recall >= target), None)
    return Recall(
        space.space_id, space.kind, count_vectors(conn, space), len(sample), k, target, not indexed,
        enough or (curve[-1].ef_search if curve else None), enough is not None or not indexed,
        float(np.median(exact_ms)) if exact_ms else None, curve,
    )  # fmt: skip


def keep_recall(conn: psycopg.Connection[Any], found: Recall) -> None:
    """Write the measurement to the space; from now on searches of it keep so many candidates."""
    values = {**asdict(found), "at": datetime.now(UTC).isoformat(timespec="seconds")}
    conn.execute(
        "UPDATE spaces SET recall = %s, ef_search = %s WHERE space_id = %s",
        (Jsonb(values), found.ef_search, found.space_id),
    )


def _sample(conn: psycopg.Connection[Any], space: Space, count: int) -> list[tuple[int, NDArray[np.float32]]]:
    """Owner ids and unit vectors, the same ones each time as long as nothing is added."""
    owner, _ = OWNER[space.kind]
    query = sql.SQL("SELECT {id}, embedding FROM {table} ORDER BY hashint8({id}), {id} LIMIT %s").format(
        id=sql.Identifier(owner), table=sql.Identifier(space.table_name)
    )
    rows = conn.execute(query, (count,), binary=True).fetchall()
    return [(owner_id, vector.to_numpy().astype(np.float32)) for owner_id, vector in rows]


def _timed(ask: Callable[[], T]) -> tuple[T, float]:
    began_s = time.perf_counter()
    found = ask()
    return found, (time.perf_counter() - began_s) * 1000


def _share(owner: int, truth: Rows, found: Rows, k: int) -> float:
    true = [distance for one, distance in truth if one != owner][:k]
    if not true:
        return 1.0
    near = [distance for one, distance in found if one != owner][:k]
    return sum(distance <= true[-1] + SAME for distance in near) / len(true)


def _measured(ef_search: int, shares: list[float], times: list[float]) -> Measured:
    p50_ms, p95_ms = np.percentile(times, [50, 95])
    return Measured(ef_search, round(float(np.mean(shares)), 4), round(float(p50_ms), 3), round(float(p95_ms), 3))
