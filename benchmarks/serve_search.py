"""Search end to end over 100,000 passages: latency, recall against exact search, and rows under filters.

`python -m benchmarks.serve_search [PASSAGES]`: sentences of the documents are embedded by the packaged MiniLM; seeded
noise makes the corpus out of them, so that vectors lie in clusters as passages do. `rushes db recall` measures the
space and sets its default; then `rushes serve run --haproxy` answers a second process. Recall is what HTTP answered
against exact cosine in numpy.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from actors.lanes import space_identities
from actors.texts import Texts
from benchmarks.load import Load, run_load
from benchmarks.report import at_least, exactly, write_result
from benchmarks.serve import SEED, ours, sentences
from cluster.db.connect import find_database
from cluster.db.migrate import migrate
from cluster.db.register import NewAsset, add_asset
from cluster.db.spaces import Space, ensure_index, ensure_space
from cluster.settings import Settings, load_settings

PASSAGES, SEEDS_TEXTS, PER_ASSET = 100_000, 1_000, 80
# Cosine of a passage to the sentence it was made from: about 0.75, as neighbouring passages have.
NOISE = 0.9
QUERIES, K = 200, 10
RECALL, FILTERED_RECALL = 0.95, 0.95
Vectors = NDArray[np.float32]


def build(settings: Settings, passages: int) -> tuple[Vectors, list[str], Vectors]:
    """Write the corpus; returns its vectors in the order of (asset, start), the queries and their vectors."""
    stage = Texts(settings.model_choice("text"), threads=len(os.sched_getaffinity(0)))
    stage.load()
    texts = sentences(SEEDS_TEXTS)
    known = np.stack([stage.embed_query(text) for text in texts])
    stage.close()
    order = np.random.default_rng(SEED)
    picked = order.integers(0, len(texts), passages)
    noise = order.standard_normal((passages, known.shape[1])).astype(np.float32)
    noise *= NOISE / np.linalg.norm(noise, axis=1, keepdims=True)
    vectors = known[picked] + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    _write(settings, vectors, [texts[number] for number in picked])
    return vectors, texts[:QUERIES], known[:QUERIES]


def _write(settings: Settings, vectors: Vectors, texts: Sequence[str]) -> None:
    with find_database(settings).connect() as conn:
        migrate(conn)
        space = ensure_space(conn, "text", *space_identities(settings, ("text",))["text"])
        assets = [
            add_asset(conn, NewAsset(f"{number:064x}", 1, media_kind="audio", audio_stream=0, duration_ms=3_600_000))
            for number in range(-(-len(vectors) // PER_ASSET))
        ]
        for tag, every in (("tenth", 10), ("hundredth", 100)):
            conn.cursor().executemany("INSERT INTO asset_tags VALUES (%s, %s)", [(one, tag) for one in assets[::every]])
        with conn.cursor().copy(
            "COPY chunks (asset_id, space_id, idx, first_segment, last_segment, start_ms, end_ms, text) FROM STDIN"
        ) as copy:
            for number, text in enumerate(texts):
                at = number % PER_ASSET
                copy.write_row(
                    (assets[number // PER_ASSET], space.space_id, at, at, at, at * 1000, at * 1000 + 900, text)
                )
        _write_vectors(conn, space, vectors)
        conn.execute("ANALYZE")
        ensure_index(conn, space)


def _write_vectors(conn: Any, space: Space, vectors: Vectors) -> None:
    ids = [row[0] for row in conn.execute("SELECT chunk_id FROM chunks ORDER BY asset_id, idx")]
    into = sql.SQL("COPY {} FROM STDIN WITH (FORMAT BINARY)").format(sql.Identifier(space.table_name))
    with conn.cursor().copy(into) as copy:
        copy.set_types(["int8", space.storage])
        for chunk_id, vector in zip(ids, vectors, strict=True):
            copy.write_row((chunk_id, vector))


def ask(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """One answer."""
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def places(found: dict[str, Any]) -> set[int]:
    """The numbers of the passages that were answered with."""
    return {int(hit["sha256"], 16) * PER_ASSET + hit["start_ms"] // 1000 for hit in found["hits"]}


def recall(url: str, vectors: Vectors, queries: Vectors, every: int | None, filters: dict[str, Any]) -> dict[str, Any]:
    """Recall@10 of `/v1/knn/texts`, and how many rows came; `every`: only each so-many-th asset is let through."""
    asset = np.arange(len(vectors)) // PER_ASSET
    allowed = np.flatnonzero(asset % every == 0) if every else np.arange(len(vectors))
    if "assets" in filters:
        allowed = np.flatnonzero(asset == int(filters["assets"][0], 16))
    rows, hit, walks, exact = [], 0, 0, 0
    for query in queries:
        found = ask(url, "/v1/knn/texts", {"vector": query.tolist(), "k": K, "filters": filters})
        best = set(allowed[np.argsort(-(vectors[allowed] @ query))[:K]].tolist())
        hit += len(best & places(found))
        rows.append(len(found["hits"]))
        exact += found["is_exact"]
        walks = found["ef_search"] or walks
    return {
        "passages_let_through": len(allowed),
        "recall_at_10": round(hit / (K * len(queries)), 4),
        "rows_least": min(rows),
        "answers_that_were_exact": exact,
        "ef_search": walks,
    }


def timed(url: str, path: str, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Latency at 1 and 8 at a time."""
    texts = [json.dumps(body) for body in bodies]
    return [run_load(Load(url + path, texts, concurrency, 6.0)) for concurrency in (1, 8)]


def main() -> None:
    """The whole corpus, then without a walk, then under three filters."""
    passages = int(sys.argv[1]) if len(sys.argv) > 1 else PASSAGES
    with tempfile.TemporaryDirectory(prefix="rushes-bench-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        os.environ["RUSHES_DATA_DIR"] = folder
        vectors, texts, queries = build(load_settings(None), passages)
        command = [sys.executable, "-m", "jobs.cli.main", "db", "recall", "--kind", "text", "--json"]
        measured = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        with ours(root, "--haproxy") as url:
            filters = {
                "all": (None, {}),
                "a tenth of the assets": (10, {"tags": ["tenth"]}),
                "a hundredth": (100, {"tags": ["hundredth"]}),
                "one asset": (None, {"assets": [f"{3:064x}"]}),
            }
            found: dict[str, dict[str, Any]] = {
                name: {
                    **recall(url, vectors, queries, every, chosen),
                    "knn": timed(url, "/v1/knn/texts",
                                 [{"vector": query.tolist(), "k": K, "filters": chosen} for query in queries]),
                    "text": timed(url, "/v1/search", [{"text": text, "k": K, "filters": chosen} for text in texts]),
                }
                for name, (every, chosen) in filters.items()
            }  # fmt: skip
    write_result(
        "serve_search",
        {
            "passages": passages,
            "vectors": f"384-d MiniLM vectors of {SEEDS_TEXTS} sentences with seeded noise, seed {SEED}",
            "queries": len(queries),
            "recall_of_the_space": measured,
            "filters": found,
            "targets": {
                "recall_at_10": at_least(RECALL, found["all"]["recall_at_10"]),
                **{
                    f"recall_at_10, {name}": at_least(FILTERED_RECALL, one["recall_at_10"])
                    for name, one in found.items() if name != "all"
                },
                **{f"rows, {name}": exactly(K, one["rows_least"]) for name, one in found.items()},
            },
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
