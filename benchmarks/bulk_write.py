"""What idempotent bulk writes cost: bare COPY, the staged path of the product, and two row-wise ways.

`python -m benchmarks.bulk_write [--rows 50000] [--single 2000] [--rounds 5]`. Vectors of 256
dimensions with a key, 1,000 a transaction, into an empty table each time, on an embedded server with
its default settings. `frames` is the floor: binary COPY of blocks that numpy lays out, into a table
without a key. `staged` is `cluster.db.copy.stage_rows`, then an ordered `INSERT ... ON CONFLICT`, as
results are committed. One commit per row runs over `--single` rows and is scaled per row: `commit_each` as
psycopg does it by default (INSERT, then COMMIT), `autocommit` in the cheapest form there is. All ways
take turns; ratios pair the runs of one round. CPU seconds are of this process and of the server
process of its connection; what the server's background processes write later is in neither.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from benchmarks.process_tree import cpu_s_of, machine_busy_s
from benchmarks.report import at_least, exactly, write_result
from cluster.db.connect import open_connection
from cluster.db.copy import stage_rows
from cluster.db.migrate import migrate
from tests.pg_server import own_server

DIMENSION = 256
BATCH_ROWS = 1_000
SEED = 7
SETTINGS = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "wal_level")
FRAME = np.dtype(
    [("fields", ">i2"), ("key_bytes", ">i4"), ("key", ">i8"), ("vector_bytes", ">i4"), ("dimension", ">i2"),
     ("unused", ">i2"), ("vector", ">f4", (DIMENSION,))]
)  # fmt: skip
COPY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = b"\xff\xff"
STAGED_OVER_SINGLE = 20.0
UPSERT = (
    "INSERT INTO keyed (id, embedding) VALUES (%b, %b) ON CONFLICT (id) DO UPDATE SET embedding = excluded.embedding"
)

Vectors = NDArray[np.float32]
Way = Callable[[psycopg.Connection[Any], Vectors], None]


def batches(vectors: Vectors) -> Iterator[tuple[int, Vectors]]:
    """The key of the first row, and `BATCH_ROWS` rows."""
    for first in range(0, len(vectors), BATCH_ROWS):
        yield first, vectors[first : first + BATCH_ROWS]


def frames(conn: psycopg.Connection[Any], vectors: Vectors) -> None:
    """Binary COPY of whole blocks into a bare table."""
    for first, batch in batches(vectors):
        block = np.zeros(len(batch), FRAME)
        block["fields"], block["key_bytes"], block["dimension"] = 2, 8, DIMENSION
        block["vector_bytes"] = 4 + 4 * DIMENSION
        block["key"], block["vector"] = np.arange(first, first + len(batch)), batch
        with conn.cursor() as cursor, cursor.copy("COPY bare (id, embedding) FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(COPY_HEAD + block.tobytes() + COPY_END)


def bare_rows(conn: psycopg.Connection[Any], vectors: Vectors) -> None:
    """Binary COPY row by row, as `stage_rows` writes, into a bare table."""
    for first, batch in batches(vectors):
        with conn.cursor() as cursor, cursor.copy("COPY bare (id, embedding) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["bigint", "vector"])
            for key, vector in enumerate(batch, first):
                copy.write_row((key, vector))


def staged(conn: psycopg.Connection[Any], vectors: Vectors) -> None:
    """The product's way: it may run twice and takes effect once."""
    for first, batch in batches(vectors):
        with conn.transaction():
            stage_rows(conn, "stage_keyed", {"id": "bigint", "embedding": "vector"}, enumerate(batch, first))
            conn.execute(
                "INSERT INTO keyed (id, embedding) SELECT DISTINCT ON (id) id, embedding FROM stage_keyed"
                " ORDER BY id ON CONFLICT DO NOTHING"
            )


def executemany(conn: psycopg.Connection[Any], vectors: Vectors) -> None:
    """Upserts by `executemany`, a transaction a batch; psycopg sends them through a pipeline."""
    for first, batch in batches(vectors):
        with conn.transaction(), conn.cursor() as cursor:
            cursor.executemany(UPSERT, list(enumerate(batch, first)))


def autocommit(conn: psycopg.Connection[Any], vectors: Vectors) -> None:
    """One upsert per row, which commits itself."""
    for key, vector in enumerate(vectors):
        conn.execute(UPSERT, (key, vector))


def commit_each(conn: psycopg.Connection[Any], vectors: Vectors) -> None:
    """One upsert and one commit per row."""
    conn.autocommit = False
    for key, vector in enumerate(vectors):
        conn.execute(UPSERT, (key, vector))
        conn.commit()
    conn.autocommit = True


WAYS: dict[str, tuple[Way, str]] = {
    "frames": (frames, "bare"),
    "bare_rows": (bare_rows, "bare"),
    "staged": (staged, "keyed"),
    "executemany": (executemany, "keyed"),
    "autocommit": (autocommit, "keyed"),
    "commit_each": (commit_each, "keyed"),
}
ONE_BY_ONE = ("autocommit", "commit_each")


def timed(conn: psycopg.Connection[Any], name: str, vectors: Vectors) -> dict[str, float]:
    """One way into an empty table, in microseconds per row; raises unless the table holds every row after it."""
    way, table = WAYS[name]
    conn.execute(f"TRUNCATE {table}".encode())
    # What an earlier way left to be written is not this one's.
    conn.execute("CHECKPOINT")
    figures = _spent(conn, lambda: way(conn, vectors))
    row = conn.execute(f"SELECT count(*), count(DISTINCT id) FROM {table}".encode()).fetchone()
    if row != (len(vectors), len(vectors)):
        raise RuntimeError(f"{name}: {row} rows and keys, {len(vectors)} written")
    return {unit: seconds * 1e6 / len(vectors) for unit, seconds in figures.items()}


def _spent(conn: psycopg.Connection[Any], work: Callable[[], None]) -> dict[str, float]:
    backend = conn.info.backend_pid
    client_s, server_s, wall_s = time.process_time(), cpu_s_of(backend), time.perf_counter()
    work()
    client_s, server_s = time.process_time() - client_s, cpu_s_of(backend) - server_s
    return {"cpu": client_s + server_s, "client": client_s, "server": server_s, "wall": time.perf_counter() - wall_s}


def replay(conn: psycopg.Connection[Any], vectors: Vectors) -> dict[str, Any]:
    """The staged path twice: what the second time changes and costs. Row versions count as change."""
    timed(conn, "staged", vectors)
    before, at = _versions(conn), _wal(conn)
    figures = _spent(conn, lambda: staged(conn, vectors))
    return {
        "rows": len(vectors),
        "unchanged": _versions(conn) == before,
        "cpu_us_per_row": round(figures["cpu"] * 1e6 / len(vectors), 1),
        "wal_bytes": _wal(conn) - at,
    }


def _versions(conn: psycopg.Connection[Any]) -> tuple[Any, ...] | None:
    """Rows, and a digest of every row's place, version and content."""
    return conn.execute(
        "SELECT count(*), md5(string_agg(id || ':' || ctid || ':' || xmin || ':' || md5(embedding::text), ','"
        " ORDER BY id)) FROM keyed"
    ).fetchone()


def _wal(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint").fetchone()
    assert row is not None
    return row[0]


def measure(conn: psycopg.Connection[Any], rows: int, single_rows: int, rounds: int) -> dict[str, Any]:
    """Every way `rounds` times, in turns."""
    conn.execute(f"CREATE TABLE bare (id bigint NOT NULL, embedding vector({DIMENSION}) NOT NULL)".encode())
    conn.execute(f"CREATE TABLE keyed (id bigint PRIMARY KEY, embedding vector({DIMENSION}) NOT NULL)".encode())
    vectors = np.random.default_rng(SEED).standard_normal((rows, DIMENSION), np.float32)
    began_s, own_s, busy_s = (
        time.perf_counter(),
        time.process_time() + cpu_s_of(conn.info.backend_pid),
        machine_busy_s(),
    )
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for turn in range(rounds):
        for name in sorted(WAYS, reverse=bool(turn % 2)):
            given = vectors[:single_rows] if name in ONE_BY_ONE else vectors
            runs[name].append(timed(conn, name, given))
    own_s = time.process_time() + cpu_s_of(conn.info.backend_pid) - own_s
    foreign = (machine_busy_s() - busy_s - own_s) / (time.perf_counter() - began_s)
    again = replay(conn, vectors)
    ratios = {f"{name}_over_staged": _ratios(runs[name], runs["staged"]) for name in WAYS if name != "staged"}
    return {
        "n": {"rows": rows, "rows_one_commit_each": single_rows, "rows_per_batch": BATCH_ROWS, "rounds": rounds},
        "dimension": DIMENSION,
        "server": {name: conn.execute(f"SHOW {name}".encode()).fetchone()[0] for name in SETTINGS},  # type: ignore[index]
        "median_us_per_row": {
            name: {unit: round(median(run[unit] for run in found), 1) for unit in found[0]}
            for name, found in runs.items()
        },
        "median_ratios": ratios,
        "staged_twice": again,
        "other_cores_busy": round(max(0.0, foreign), 2),
        "targets": {
            "commit_each_over_staged_cpu": at_least(STAGED_OVER_SINGLE, ratios["commit_each_over_staged"]["cpu"]),
            "staged_twice_unchanged": exactly(True, again["unchanged"]),
        },
    }


def _ratios(runs: list[dict[str, float]], base: list[dict[str, float]]) -> dict[str, float]:
    pairs = list(zip(runs, base, strict=True))
    return {unit: round(median(run[unit] / other[unit] for run, other in pairs), 2) for unit in ("cpu", "wall")}


def main() -> None:
    """Run and write `results/bulk_write.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bulk_write")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--single", type=int, default=2_000, help="rows of the way that commits each one")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with own_server() as server:
        with open_connection(server.url) as conn:
            migrate(conn)
        with open_connection(server.url) as conn:
            write_result("bulk_write", measure(conn, asked.rows, min(asked.single, asked.rows), asked.rounds))


if __name__ == "__main__":
    main()
