"""A text space with many vectors in clusters, filters that cut through them and one that lies apart, in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.db import spaces
from cluster.db.copy import stage_rows
from tests.corpus_rows import choice

ASSETS, CHUNKS, DIMENSION = 1_000, 24, 32


@dataclass(frozen=True)
class Many:
    """`vectors[i]` is that of chunk `ids[i]`; `queries` are near some of them and none of them."""

    space: spaces.Space
    ids: np.ndarray
    assets: np.ndarray
    vectors: np.ndarray
    queries: np.ndarray

    def best(self, query: np.ndarray, k: int, keep: np.ndarray | None = None) -> list[int]:
        """The chunks nearest to `query`, of those to keep."""
        kept = np.arange(len(self.ids)) if keep is None else np.flatnonzero(keep)
        order = np.argsort(-(self.vectors[kept] @ query), kind="stable")[:k]
        return self.ids[kept[order]].tolist()


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def fill(conn: Any) -> Many:
    """Channels: `most` (60 % of the assets), `some` (a tenth), `apart` (30 %, far from every query)."""
    rng, count = np.random.default_rng(7), ASSETS * CHUNKS
    centres = unit(rng.standard_normal((400, DIMENSION)))
    vectors = centres[rng.integers(0, 400, count)] + 1.5 * unit(rng.standard_normal((count, DIMENSION)))
    assets = np.repeat(np.arange(1, ASSETS + 1), CHUNKS)
    # What lies apart looks the other way along one axis.
    vectors[:, 0] = np.where(assets % 10 < 3, -np.abs(vectors[:, 0]) - 3, np.abs(vectors[:, 0]) * 0.1)
    vectors = unit(vectors)
    near = vectors[np.flatnonzero(assets % 10 >= 3)]
    queries = unit(near[rng.choice(len(near), 40, replace=False)] + 0.3 * unit(rng.standard_normal((40, DIMENSION))))
    space = spaces.ensure_space(conn, "text", choice("text", DIMENSION), {"kind": "text", "many": True})
    conn.execute(
        "INSERT INTO assets (sha256, byte_size, media_kind, duration_ms, channel, recorded_at)"
        " SELECT sha256(i::text::bytea), 1, CASE WHEN i %% 2 = 0 THEN 'video' ELSE 'audio' END, 60000,"
        "  CASE WHEN i %% 10 < 3 THEN 'apart' WHEN i %% 10 = 3 THEN 'some' ELSE 'most' END,"
        "  timestamptz '2024-01-01 00:00+00' + i * interval '1 hour' FROM generate_series(1, %s) i",
        (ASSETS,),
    )
    conn.execute(
        "INSERT INTO chunks (asset_id, space_id, idx, first_segment, last_segment, start_ms, end_ms, text)"
        " SELECT a, %s, i, i, i, i * 1000, i * 1000 + 900, 'passage ' || i || ' of ' || a"
        " FROM generate_series(1, %s) a, generate_series(0, %s) i ORDER BY a, i",
        (space.space_id, ASSETS, CHUNKS - 1),
    )
    ids = np.asarray([row[0] for row in conn.execute("SELECT chunk_id FROM chunks ORDER BY asset_id, idx")])
    with conn.transaction():
        columns = {"chunk_id": "int8", "embedding": "vector"}
        rows = zip(ids.tolist(), map(_vector, vectors), strict=True)
        stage_rows(conn, "many", columns, rows)  # type: ignore[arg-type]
        conn.execute(f"INSERT INTO {space.table_name} SELECT chunk_id, embedding FROM many".encode())
    assert spaces.ensure_index(conn, space)
    conn.execute("ANALYZE")
    return Many(space, ids, assets, vectors, queries)


def _vector(row: np.ndarray) -> Any:
    from pgvector import Vector

    return Vector(row)
