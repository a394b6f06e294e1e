"""What each step costs a picture and a short video, one asset at a time, beside 100 k frames in 20 k clusters."""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from actors.lanes import fingerprints, frames_chain, node_cache, space_identities
from benchmarks.picture_corpus import CLIP_S
from benchmarks.process_tree import cpu_s_of
from cluster.db import ledger, runs
from cluster.db.copy import stage_rows
from cluster.db.duplicates.find import compare_one
from cluster.db.patience import Session
from cluster.db.spaces import Space, ensure_index, ensure_space
from cluster.db.visual import decide_waiting
from cluster.media.inputs import list_inputs
from cluster.settings import Settings, settings_to_dict
from cluster.stage import load_stages, run_stage
from cluster.types import rows_table, with_column
from jobs.register import register
from jobs.runners import blocks_of
from jobs.spec import JobSpec, build_chain

LANES = ("frames", "images")
PREPARED_FRAMES = 100_000
PER_CLUSTER = 5
CHUNK = 20_000
SEED = 6
Times = dict[str, list[float]]


def p50_p95(values_s: Sequence[float]) -> dict[str, float]:
    """Milliseconds."""
    p95 = quantiles(values_s, n=20, method="inclusive")[-1] if len(values_s) > 1 else values_s[0]
    return {"p50_ms": round(median(values_s) * 1000, 1), "p95_ms": round(p95 * 1000, 1)}


def prepare(conn: Any, space: Space, frames: int) -> dict[str, Any]:
    """As many pictures with random hashes and vectors, `PER_CLUSTER` to a cluster."""
    began = time.perf_counter()
    ids = "generate_series(1, %(n)s) i"
    values = {"n": frames, "space": space.space_id, "each": PER_CLUSTER}
    for statement in (
        f"INSERT INTO assets (sha256, byte_size, media_kind) SELECT sha256(i::text::bytea), 1, 'image' FROM {ids}",
        "INSERT INTO pictures (asset_id, width, height, samples, sample_times, sample_hashes, is_compared)"
        " SELECT asset_id, 1, 1, 0, '', '', true FROM assets",
        "INSERT INTO frames (asset_id, idx, pts, time_base_num, time_base_den, t_ms, phash, is_informative, thumbnail)"
        " SELECT asset_id, 0, 0, 1, 1000, 0, ('x' || encode(substring(sha256 FOR 8), 'hex'))::bit(64), true, sha256"
        " FROM assets",
        "INSERT INTO visual_clusters (space_id, asset_id, idx) SELECT %(space)s, asset_id, 0 FROM frames"
        " WHERE asset_id %% %(each)s = 0 ORDER BY 2",
        "INSERT INTO visual_members (frame_id, space_id, cluster_id, similarity) SELECT frame_id, %(space)s,"
        " cluster_id, 1 FROM frames f JOIN visual_clusters c ON c.asset_id = (f.asset_id + %(each)s - 1) / %(each)s"
        " * %(each)s",
    ):
        conn.execute(statement.encode(), values)
    for first in range(1, frames + 1, CHUNK):
        _write_vectors(conn, space, first, min(CHUNK, frames + 1 - first))
    conn.execute(
        f"INSERT INTO {space.leaders_table} (cluster_id, embedding) SELECT cluster_id, embedding"
        f" FROM visual_clusters JOIN frames USING (asset_id, idx) JOIN {space.table_name} USING (frame_id)".encode()
    )
    conn.execute("ANALYZE")
    written_s = time.perf_counter() - began
    ensure_index(conn, space, space.leaders_table)
    return {
        "frames": frames,
        "clusters": frames // PER_CLUSTER,
        "write_s": round(written_s, 1),
        "index_s": round(time.perf_counter() - began - written_s, 1),
    }


def _write_vectors(conn: Any, space: Space, first: int, count: int) -> None:
    vectors = np.random.default_rng([SEED, first]).standard_normal((count, space.dimension), np.float32)
    with conn.transaction():
        stage_rows(
            conn, "stage_prepared", {"n": "int8", "embedding": "vector"},
            ((first + number, vector) for number, vector in enumerate(vectors)),
        )  # fmt: skip
        conn.execute(
            f"INSERT INTO {space.table_name} (frame_id, embedding) SELECT frame_id, embedding FROM stage_prepared"
            " JOIN (SELECT frame_id, row_number() OVER (ORDER BY frame_id) AS n FROM frames) f USING (n)".encode()
        )
        conn.execute("DROP TABLE stage_prepared")


class Steps:
    """The chain of the frames lane in this process, as an actor runs it, on a database of its own."""

    def __init__(self, url: str, settings: Settings, prepared_frames: int) -> None:
        self.url, self.settings, self.prints = url, settings, fingerprints(settings)
        self.session = Session(url, 10.0)
        run_id = uuid.uuid4()
        self.session.run(lambda conn: runs.start_run(conn, run_id, "ingest", {}))
        self.space = self.session.run(lambda conn: ensure_space(conn, "image", *space_identities(settings)["image"]))
        self.prepared = self.session.run(lambda conn: prepare(conn, self.space, prepared_frames))
        told, spaces = settings_to_dict(settings), {"image": self.space.space_id}
        self.chain, self.guard = build_chain(JobSpec(str(run_id), url, told, LANES, self.prints, spaces), threads=1)
        load_stages(self.chain)

    def measure(self, folder: Path) -> dict[str, Any]:
        """p50 and p95 of every step, of the whole, and of a keyframe's share of it; the first asset warms up."""
        times: Times = defaultdict(list)
        for asset_id, took_s in self._registered(folder):
            spent, frames = self._asset(asset_id)
            whole_s = took_s + sum(spent.values())
            decided_s = spent.pop("clusters")
            values = {"register": took_s, **spent, "cluster_decision": decided_s / max(frames, 1)}
            for name, value in {**values, "whole": whole_s, "per_keyframe": whole_s / frames}.items():
                times[name].append(value)
        return {"assets": len(times["whole"]) - 1, **{name: p50_p95(all_s[1:]) for name, all_s in times.items()}}

    def close(self) -> None:
        """End the chain and its session."""
        for stage in self.chain:
            stage.close()
        self.session.close()

    def _registered(self, folder: Path) -> Iterable[tuple[int, float]]:
        files = list_inputs([str(folder)], [], None, lambda _: False).files
        moments = [time.perf_counter()]
        found = register(self.session, files, node_cache(self.settings), lambda _: moments.append(time.perf_counter()))
        self.session.run(lambda conn: ledger.ensure_units(conn, found.assets, self.prints, LANES))
        took_s = [after - before for before, after in pairwise(moments)]
        return zip(found.asset_ids.values(), took_s, strict=True)

    def _asset(self, asset_id: int) -> tuple[dict[str, float], int]:
        """Seconds of each step, and how many keyframes it has."""
        rows, _ = self.session.run(
            lambda conn: ledger.pending_rows(conn, ledger.Selection([asset_id]), self.prints, LANES)
        )
        [block] = blocks_of(rows)
        table, spent = rows_table(block), {}
        for stage in self.chain:
            began = time.perf_counter()
            table = run_stage(stage, table, self.guard)
            spent[stage.name] = time.perf_counter() - began
        if table["outcome"].to_pylist() != ["done"]:
            raise RuntimeError(f"{block[0]['uri']}: {table['error'].to_pylist()}")
        for name, work in (
            ("duplicate_lookup", lambda conn: compare_one(conn, asset_id)),
            ("clusters", lambda conn: decide_waiting(conn, self.space, self.settings.visual_threshold)),
        ):
            began = time.perf_counter()
            self.session.run(work)
            spent[name] = time.perf_counter() - began
        query = "SELECT count(*) FROM frames WHERE asset_id = %s"
        row = self.session.run(lambda conn: conn.execute(query, (asset_id,)).fetchone())
        return spent, row[0] if row else 0


def cpu_per_hour(settings: Settings, folder: Path) -> float:
    """CPU seconds of the pictures stage and its child for an hour of such clips; models are loaded before."""
    stage: Any = frames_chain(settings)[0]
    files = list_inputs([str(folder)], [], None, lambda _: False).files
    with closing(stage):
        stage.load()
        rows = [
            {"asset_id": number, "uri": file.uri, "byte_size": file.byte_size, "mtime_ns": file.mtime_ns,
             "media_kind": "video", "duration_ms": CLIP_S * 1000, "root": "frames", "lanes": list(LANES)}
            for number, file in enumerate(files)
        ]  # fmt: skip
        tables = [with_column(rows_table([row]), "frames", [None]) for row in rows]
        stage.process(tables[0])
        began_s = time.process_time() + cpu_s_of(stage.child.pid)
        for table in tables[1:]:
            stage.process(table)
        spent_s = time.process_time() + cpu_s_of(stage.child.pid) - began_s
    return round(spent_s * 3600 / (CLIP_S * (len(rows) - 1)), 1)
