"""Weak scaling of the whole engine on logical GPUs, with stages that replay recorded timings.

`python -m benchmarks.scale [--gpus 1,2,4,8] [--assets-per-gpu 625] [--clock 10]`. Registration by SQL, plan, Ray
Data, actors, claims, commits to PostgreSQL and reconciliation are real; `benchmarks.replay` says what is not, and
`benchmarks.lengths` how long the recordings are: 625 of them are 150 hours, and 8 times 625 the archive of 1,200.

The bound of a run is what no engine could beat with the same actors: the longest of each pool's work shared evenly,
and of each asset's way through its chain. Efficiency is that bound over the time from the first claim to the last
commit, by the database's clock. The tail is the share of that time in which the last twentieth of a chain's media
was committed: longest first, these are most of the recordings, so that what the engine takes for each weighs there,
as often as the clock says. What stragglers alone cost is the share after the last claim. A run of one count replaces
that count in the results and leaves the others.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from benchmarks import lengths, replay
from benchmarks.process_tree import Meter, adopt_orphans
from benchmarks.report import RESULTS, at_least, at_most, exactly, write_result
from benchmarks.scale_run import CPUS_PER_GPU, Request
from cluster.db.check import check_corpus
from cluster.db.connect import open_connection
from cluster.db.migrate import migrate
from cluster.db.register import NewAsset, add_asset, add_source
from tests.pg_server import own_server

ROOT = Path(__file__).parents[1]
SEED = 7
# Every fifth has pictures, which keeps their two actors per card almost as busy as sound keeps its one.
FILMS_EVERY, FIRST_FILM = 5, 2
LEAST_EFFICIENCY = 0.95
MOST_DRIVER_MS = 30.0
TAIL_SHARE = MOST_TAIL = 0.05
FULL_SIZE = 8


class SlowMeter(Meter):
    """Looks once a second, and at memory every half minute: dozens of processes run for a quarter of an hour."""

    every_s = 1.0
    looks_per_pss = 30


@dataclass(frozen=True, slots=True)
class Row:
    """One row that came back: its chain, its length, when it was claimed and when it was committed."""

    root: str
    media_s: float
    claimed_s: float
    done_s: float


def new_database(server_url: str, name: str) -> str:
    """The address of a new, migrated, empty database."""
    with open_connection(server_url) as conn:
        conn.execute(f"CREATE DATABASE {name}".encode())
    url = server_url.replace("/postgres?", f"/{name}?")
    with open_connection(url) as conn:
        migrate(conn)
    return url


def register(url: str, count: int, mean_s: float = lengths.MEAN_S) -> float:
    """`count` assets that nobody can read, one in `FILMS_EVERY` with pictures; returns their hours."""
    found = lengths.lengths_s(count, SEED, mean_s)
    with open_connection(url) as conn, conn.transaction():
        for number, length_s in enumerate(found):
            sha256 = hashlib.sha256(f"replay {number}".encode()).hexdigest()
            kind = "video" if number % FILMS_EVERY == FIRST_FILM else "audio"
            asset = NewAsset(sha256, 1, media_kind=kind, duration_ms=int(length_s * 1000), audio_stream=0)
            # An object store is not asked before a stage opens it, and no stage does.
            add_source(conn, f"s3://replay/{number:06}", add_asset(conn, asset), 1, 1, None)
    return sum(found) / 3600


def measure(server_url: str, folder: Path, gpus: int, count: int, mean_s: float = lengths.MEAN_S) -> dict[str, Any]:
    """One run on `gpus` logical GPUs over `count` assets; raises when it did not do everything."""
    url = new_database(server_url, f"scale_{gpus}")
    hours = register(url, count, mean_s)
    answer, log = folder / f"{gpus}.json", folder / f"{gpus}.log"
    words = Request(url, str(folder / f"data_{gpus}"), gpus).to_json()
    own = {name: value for name, value in os.environ.items() if not name.startswith("RUSHES_")}
    with SlowMeter() as meter:
        command = [sys.executable, "-m", "benchmarks.scale_run", str(answer), words]
        ended = meter.run(command, own | {"PYTHONPATH": str(ROOT)}, log)
    if ended.code:
        raise RuntimeError(f"{gpus} GPUs ended with {ended.code}:\n{log.read_text('utf-8', 'replace')[-3000:]}")
    told = json.loads(answer.read_text("utf-8"))
    if told["summary"]["state"] != "done":
        raise RuntimeError(f"{gpus} GPUs: {told['summary']['state']}: {told['summary']['notes']}")
    rows, broken, size_bytes = _from_database(url, told["summary"]["run_id"])
    first_s, last_s = min(row.claimed_s for row in rows), max(row.done_s for row in rows)
    spent = meter.spent(first_s, last_s)
    driver_s = spent["cpu_s_by"].get("driver", 0.0)
    return {
        "assets": count,
        "media_h": round(hours, 2),
        "ok": told["summary"]["ok"],
        "rows": len(rows),
        "outputs": told["summary"]["outputs"],
        "checks_broken": broken,
        "plan": {group["name"]: f"{group['actors']} x {group['gpus_each']} GPU" for group in told["plan"]},
        **_efficiency(told["plan"], rows, last_s - first_s),
        "hours_per_hour": round(hours * 3600 / (last_s - first_s) / replay.clock(), 2),
        "hours_per_hour_of_the_clock": round(hours * 3600 / (last_s - first_s), 1),
        "driver_cpu_ms_per_asset": round(1000 * driver_s / count, 2),
        "driver_cpu_cores": round(driver_s / spent["wall_s"], 3),
        "tail": {root: _tail([row for row in rows if row.root == root], first_s) for root in ("speech", "frames")},
        "after_last_claim": round((last_s - max(row.claimed_s for row in rows)) / (last_s - first_s), 4),
        "work": spent,
        "start_up": meter.spent(ended.started_s, first_s),
        "end": meter.spent(last_s, ended.ended_s),
        "peak_pss_gib": meter.peak_pss(),
        "database_mib": round(size_bytes / 2**20, 1),
        "nice": os.nice(0),
    }


def _from_database(url: str, run_id: str) -> tuple[list[Row], int, int]:
    """The rows with times in seconds since the epoch, broken checks, and the size of the database in bytes."""
    with open_connection(url) as conn:
        found = conn.execute(
            "SELECT lane, duration_ms / 1000.0::float8, extract(epoch FROM started_at)::float8,"
            " extract(epoch FROM finished_at)::float8 FROM units JOIN assets USING (asset_id)"
            " WHERE run_id = %s AND lane IN ('speech', 'frames') AND state = 'done'",
            (UUID(run_id),),
        ).fetchall()
        size = conn.execute("SELECT pg_database_size(current_database())").fetchone()
        broken = sum(check_corpus(conn).values())
    assert size is not None
    return [Row(*values) for values in found], broken, size[0]


def _efficiency(plan: Sequence[Mapping[str, Any]], rows: Sequence[Row], wall_s: float) -> dict[str, Any]:
    """The bound of these actors on these rows, by its parts, and how near the run came to it."""
    rates = {group["name"]: sum(replay.s_per_media_hour()[stage] for stage in group["stages"]) for group in plan}
    pools, ways = {}, dict.fromkeys(("speech", "frames"), 0.0)
    for group in plan:
        root = "frames" if "pictures" in group["stages"] else "speech"
        mine = [row.media_s for row in rows if row.root == root]
        pools[group["name"]] = _slept_s(sum(mine), rates[group["name"]]) / group["actors"]
        ways[root] += _slept_s(max(mine, default=0.0), rates[group["name"]])
    bound_s = max(*pools.values(), *ways.values())
    return {
        "efficiency": round(bound_s / wall_s, 4),
        "bound_s": round(bound_s, 2),
        "bound_of_pools_s": {name: round(seconds, 2) for name, seconds in pools.items()},
        "bound_of_longest_s": {root: round(seconds, 2) for root, seconds in ways.items()},
    }


def _slept_s(media_s: float, s_per_hour: float) -> float:
    return media_s / 3600 * s_per_hour / replay.clock()


def _tail(rows: Sequence[Row], first_s: float) -> float:
    """The share of the time from the first claim in which the last `TAIL_SHARE` of the work of one chain was done."""
    if not rows:
        return 0.0
    left_s, last_s = sum(row.media_s for row in rows) * TAIL_SHARE, max(row.done_s for row in rows)
    for row in sorted(rows, key=lambda row: row.done_s, reverse=True):
        left_s -= row.media_s
        if left_s < 0:
            return round((last_s - row.done_s) / (last_s - first_s), 4)
    return 1.0


def merged(found: Mapping[str, Any]) -> dict[str, Any]:
    """The runs of before and these, by their number of GPUs."""
    path = RESULTS / "scale.json"
    before = json.loads(path.read_text("utf-8"))["gpus"] if path.exists() else {}
    return dict(sorted({**before, **found}.items(), key=lambda one: int(one[0])))


def targets(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the runs are held against."""
    found: dict[str, Any] = {}
    for gpus, run in runs.items():
        found[f"{gpus}_gpus_all_assets"] = exactly(run["assets"], run["ok"])
        found[f"{gpus}_gpus_tail"] = at_most(MOST_TAIL, max(run["tail"].values()))
        found[f"{gpus}_gpus_after_last_claim"] = at_most(MOST_TAIL, run["after_last_claim"])
        if int(gpus) == FULL_SIZE:
            found[f"{gpus}_gpus_efficiency"] = at_least(LEAST_EFFICIENCY, run["efficiency"])
            # With fewer, Ray Data's loop spends as much per second on fewer assets.
            found[f"{gpus}_gpus_driver_cpu_ms_per_asset"] = at_most(MOST_DRIVER_MS, run["driver_cpu_ms_per_asset"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gpus", default="1,2,4,8", help="counts of logical GPUs, one run each")
    parser.add_argument("--assets-per-gpu", type=int, default=625)
    parser.add_argument("--clock", type=float, default=replay.MOST_CLOCK, help="how much shorter the stages sleep")
    given = parser.parse_args()
    os.environ[replay.CLOCK] = str(given.clock)
    replay.clock()
    adopt_orphans(True)
    with tempfile.TemporaryDirectory(prefix="s-", dir="/tmp") as name, own_server() as server:
        for gpus in [int(count) for count in given.gpus.split(",")]:
            run = measure(server.url, Path(name), gpus, gpus * given.assets_per_gpu)
            runs = merged({str(gpus): {"clock": given.clock, **run}})
            write_result("scale", {**about(), "gpus": runs, "targets": targets(runs)})


def about() -> dict[str, Any]:
    """What was real and what was not."""
    return {
        "stages": "decode, speech activity, transcribe, diarize, segments, voices, texts, pictures, thumbnails",
        "s_per_media_hour": dict(replay.s_per_media_hour()),
        "recorded_on": "two CPU cores (ingest.json, images.json); there was no GPU: transcribe, diarize, voices and "
        f"texts are scaled by one factor so that hearing takes {replay.HEARD_X_REALTIME:g}x real time per GPU",
        "clock": "divides the sleeps alone: what the engine itself takes counts as many times",
        "driver_cpu": "per asset at this clock: what the driver takes for each row is all there, what its loop takes "
        "per second, rows or no rows, is there once, and at clock 1 as many times as the clock says "
        "(driver_cpu_cores bounds it)",
        "lengths": f"log-normal, sigma {lengths.SIGMA:.2f}, mean {lengths.MEAN_S:g} s, cut at {lengths.LONGEST_S:g} s, "
        f"seed {SEED}; one asset in {FILMS_EVERY} has pictures",
        "left_out": "media, models, the sound that hops between pools, the vector index after the load",
        "nodes": f"one, with {CPUS_PER_GPU} logical CPUs per logical GPU; actors, driver and database share the cores",
    }


if __name__ == "__main__":
    main()
