"""The whole speech chain on every runner: hours per hour, CPU, memory, and what Ray costs.

`python -m benchmarks.ingest [MINUTES=30]`, on the corpus of `benchmarks.corpus`: speed only, accuracy
has benchmarks of its own.

Every run is a process of its own with a database of its own on one server, watched by
`benchmarks.process_tree` (which says why not getrusage, nor a cgroup). "Work" lasts from the first
claim to the last commit, by the database's clock; what precedes it is start-up, what follows is the
end. Ray runs twice beside plain processes with the same chain, in turns, once beside inline with two
threads, and once over four times as many different files, for its memory. Then the second run, which
finds nothing to do, and the voices by force, which must all come from the cache.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

from benchmarks.corpus import FILE_S, SEED, build
from benchmarks.ingest_run import PLAIN, Request
from benchmarks.process_tree import Ended, Meter, adopt_orphans
from benchmarks.report import at_most, exactly, write_result
from cluster.db.check import check_corpus
from cluster.db.connect import open_connection
from cluster.db.dump import Dump, canonical_dump, differences
from cluster.db.migrate import migrate
from tests.pg_server import own_server

INLINE, RAY = "inline", "ray"
ROUNDS = ((INLINE, PLAIN, RAY), (RAY, PLAIN))
MORE = 4
SECOND_RUNS = 3
RAY_OVER_PLAIN = 1.15
RAY_OVER_INLINE = 0.85
MEMORY_GROWTH = 1.1
NOTHING_WALL_S = 1.0
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Place:
    """Where benchmarks happen: a server, a folder, and the media at 1x and at `MORE` times that."""

    url: str
    root: Path
    media: Path
    more: Path

    def database(self, name: str) -> str:
        """The address of a new, migrated, empty database."""
        with open_connection(self.url) as conn:
            conn.execute(f"CREATE DATABASE {name}".encode())
        url = self.url.replace("/postgres?", f"/{name}?")
        with open_connection(url) as conn:
            migrate(conn)
        return url


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: its figures, its database, and the answer of its process."""

    figures: dict[str, Any]
    url: str
    answer: dict[str, Any]


def start(meter: Meter, request: Request, folder: Path) -> tuple[Ended, dict[str, Any]]:
    """One `benchmarks.ingest_run` to its end, and its answer."""
    answer, log = folder / "answer.json", folder / "log"
    own = {name: value for name, value in os.environ.items() if not name.startswith("RUSHES_")}
    words = [sys.executable, "-m", "benchmarks.ingest_run", str(answer), request.to_json()]
    ended = meter.run(words, own | {"PYTHONPATH": str(ROOT)}, log)
    if ended.code:
        raise RuntimeError(f"{request.runner} ended with {ended.code}:\n{log.read_text('utf-8', 'replace')[-3000:]}")
    return ended, json.loads(answer.read_text("utf-8"))


def measure(place: Place, name: str, runner: str, media: Path) -> Measured:
    """One run of the main job into a database of its own; raises when it did not do everything."""
    folder = place.root / name
    folder.mkdir()
    request = Request(runner, place.database(name), str(folder / "data"), str(media))
    with Meter() as meter:
        ended, answer = start(meter, request, folder)
    summary = answer["summary"]
    first_s, last_s, broken, windows = _from_database(request.url, summary["run_id"])
    if summary["state"] != "done" or broken:
        raise RuntimeError(f"{name}: state {summary['state']}, {broken} broken checks: {summary['notes']}")
    work = meter.spent(first_s, last_s)
    figures = {
        "hours_per_hour": round(summary["media_h"] * 3600 / work["wall_s"], 2),
        "work": work,
        "start_up": meter.spent(ended.started_s, first_s),
        "end": meter.spent(last_s, ended.ended_s),
        "whole_command": meter.spent(ended.started_s, ended.ended_s),
        "peak_pss_gib": meter.peak_pss(),
        "hours_per_hour_printed": summary["hours_per_hour"],
        "hours_per_hour_predicted": summary["predicted_hours_per_hour"],
        "ok": summary["ok"],
        "failed": summary["failed"],
        "outputs": summary["outputs"],
        **windows,
        "stage_busy_s": {stage: round(seconds, 2) for stage, seconds in summary["stage_s"].items()},
        "checks_broken": broken,
    }
    if answer["stages"]:
        figures["stage_cpu_s"] = {stage: meters["cpu_s"] for stage, meters in answer["stages"].items()}
    print(f"{name}: {work}", file=sys.stderr)
    return Measured(figures, request.url, answer)


def _from_database(url: str, run_id: str) -> tuple[float, float, int, dict[str, Any]]:
    """First claim and last commit in seconds since the epoch, broken checks, the recogniser's windows."""
    with open_connection(url) as conn:
        times = conn.execute(
            "SELECT extract(epoch FROM min(started_at))::float8, extract(epoch FROM max(finished_at))::float8"
            " FROM units WHERE run_id = %s",
            (UUID(run_id),),
        ).fetchone()
        fills = conn.execute(
            "SELECT (detail->'transcript'->>'windows')::int, (detail->'transcript'->>'window_fill')::float8"
            " FROM units WHERE lane = 'speech' AND state = 'done'"
        ).fetchall()
        broken = sum(check_corpus(conn).values())
    assert times is not None
    windows = sum(count for count, _ in fills)
    filled = sum(count * fill for count, fill in fills)
    return *times, broken, {"windows": windows, "window_fill": round(filled / max(windows, 1), 4)}


def second_run(place: Place, done: Measured) -> dict[str, Any]:
    """The same command again, `SECOND_RUNS` times: it finds nothing to do."""
    folder = place.root / "second"
    folder.mkdir()
    request = Request("auto", done.url, str(folder / "data"), str(place.media))
    walls, cpus, imported = [], [], set()
    for _ in range(SECOND_RUNS):
        with Meter() as meter:
            ended, answer = start(meter, request, folder)
        if answer["summary"]["state"] != "nothing":
            raise RuntimeError(f"the second run did something: {answer['summary']}")
        walls.append(ended.ended_s - ended.started_s)
        cpus.append(ended.cpu_s)
        imported.update(answer["imported"])
    return {
        "n": SECOND_RUNS,
        "wall_s": round(median(walls), 3),
        "cpu_s": round(median(cpus), 3),
        "known": answer["summary"]["known"],
        "model_libraries_imported": sorted(imported),
    }


def warm_voices(place: Place, done: Measured) -> dict[str, Any]:
    """The voices lane by force, inline, where the model counts its calls: every voice is in the cache."""
    folder = place.root / "warm"
    folder.mkdir()
    request = Request(INLINE, done.url, str(folder / "data"), str(place.media), lanes=("voices",), force=True)
    with Meter() as meter:
        _, answer = start(meter, request, folder)
    with open_connection(done.url) as conn:
        row = conn.execute("SELECT count(*) FROM voices WHERE skip_reason IS NOT NULL").fetchone()
    assert row is not None
    outputs = answer["summary"]["outputs"]
    return {
        "lanes": ["voices"],
        "voices": outputs["voices"],
        "without_vector": row[0],
        "from_cache": outputs["voice_cache_hits"],
        "model_calls": answer["stages"]["voices"]["model_calls"],
        "cpu_s_of_stage": answer["stages"]["voices"]["cpu_s"],
        "cold": {
            "model_calls": done.answer["stages"]["voices"]["model_calls"],
            "cpu_s_of_stage": done.answer["stages"]["voices"]["cpu_s"],
        },
    }


def compare(rounds: list[dict[str, Measured]]) -> dict[str, Any]:
    """Ray beside its baselines, each pair from the same round, and the median of the rounds."""

    def ratio(base: str, unit: str) -> dict[str, Any]:
        pairs = [
            found[RAY].figures["work"][unit] / found[base].figures["work"][unit] for found in rounds if base in found
        ]
        return {"ratio": round(median(pairs), 3), "rounds": [round(pair, 3) for pair in pairs]}

    return {
        "ray_over_plain_wall": ratio(PLAIN, "wall_s"),
        "ray_over_plain_cpu": ratio(PLAIN, "cpu_s"),
        "ray_over_inline_wall": ratio(INLINE, "wall_s"),
        "ray_over_inline_cpu": ratio(INLINE, "cpu_s"),
    }


def row_differences(every: Iterable[Measured]) -> int:
    """In how many places the databases differ from the first: all rows exactly, vectors to 1e-4."""
    first, *rest = [_dump(one.url) for one in every]
    return sum(len(differences(first, other, limit=1_000_000)) for other in rest)


def _dump(url: str) -> Dump:
    with open_connection(url) as conn:
        return canonical_dump(conn)


def measure_all(place: Place, minutes: float) -> dict[str, Any]:
    """Everything this benchmark says."""
    media_s = build(place.media, minutes)
    rounds = [
        {runner: measure(place, f"{runner}_{number}", runner, place.media) for runner in runners}
        for number, runners in enumerate(ROUNDS)
    ]
    warm = {"second_run": second_run(place, rounds[0][RAY]), "voices_by_force": warm_voices(place, rounds[0][INLINE])}
    more_s = build(place.more, minutes * MORE)
    large = measure(place, f"ray_{MORE}x", RAY, place.more)
    everyone = [one for found in rounds for one in found.values()]
    ratios, differing = compare(rounds), row_differences(everyone)
    small_gib = max(found[RAY].figures["peak_pss_gib"]["all"] for found in rounds)
    growth = round(large.figures["peak_pss_gib"]["all"] / small_gib, 3)
    forced = warm["voices_by_force"]
    return {
        "stages": "decode, speech activity, transcribe (tiny.en int8), diarize, voices, texts, commit",
        "corpus": f"seeded permutation (seed {SEED}) of real recordings, files of about {FILE_S:.0f} s, speed only",
        "media_minutes": round(media_s / 60, 2),
        "files": rounds[0][INLINE].figures["ok"],
        "rounds": [{runner: one.figures for runner, one in found.items()} for found in rounds],
        "ratios_of_work": ratios,
        "memory": {
            "what": "peak PSS of all processes without the database server",
            "media_minutes": [round(media_s / 60, 2), round(more_s / 60, 2)],
            "gib": [small_gib, large.figures["peak_pss_gib"]["all"]],
            "ratio": growth,
            f"ray_{MORE}x": large.figures,
        },
        "warm": warm,
        "differing_rows": differing,
        "targets": {
            "ray_over_plain_wall": at_most(RAY_OVER_PLAIN, ratios["ray_over_plain_wall"]["ratio"]),
            "ray_over_plain_cpu": at_most(RAY_OVER_PLAIN, ratios["ray_over_plain_cpu"]["ratio"]),
            "ray_over_inline_wall": at_most(RAY_OVER_INLINE, ratios["ray_over_inline_wall"]["ratio"]),
            f"memory_at_{MORE}x_over_1x": at_most(MEMORY_GROWTH, growth),
            "second_run_wall_s": at_most(NOTHING_WALL_S, warm["second_run"]["wall_s"]),
            "second_run_model_libraries": exactly([], warm["second_run"]["model_libraries_imported"]),
            "forced_voices_from_cache": exactly(forced["voices"] - forced["without_vector"], forced["from_cache"]),
            "forced_voice_model_calls": exactly(0, forced["model_calls"]),
            "differing_rows": exactly(0, differing),
        },
    }


def main() -> None:
    """Run and write `results/ingest.json`."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    adopt_orphans(True)
    with tempfile.TemporaryDirectory(prefix="rushes-bench-") as folder, own_server() as server:
        root = Path(folder)
        write_result("ingest", measure_all(Place(server.url, root, root / "media", root / "more"), minutes))


if __name__ == "__main__":
    main()
