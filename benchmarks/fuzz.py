"""Damaged media through the main job: nothing may stop it, and every file ends as something known.

`python -m benchmarks.fuzz --files 2000 --seed 1`: two seconds of a real telephone call in fourteen
containers, mutated by a seeded generator, ingested in one run of the command line, in a process whose
memory and whose media children's memory are watched. It measures robustness, not accuracy.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import wave
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np

from benchmarks.mutate import MUTATORS
from benchmarks.report import write_result
from cluster.db.check import check_corpus
from cluster.db.connect import find_database
from cluster.settings import load_settings
from jobs.demo import call_path
from tests.media_factory import RATE_HZ, Samples, write_every_container

ROOT = Path(__file__).parents[1]
WATCH_S = 0.1
SPEECH_AT_S = 14.0
ORIGINAL = "original"
MEDIA_CHILD = "cluster.media.child_main"
_OUTCOMES = """
SELECT s.uri, u.state, f.failure, coalesce(f.message, u.reason),
  extract(epoch FROM u.finished_at - u.started_at)::float8
FROM sources s JOIN units u ON u.asset_id = s.asset_id AND u.lane = 'speech'
LEFT JOIN LATERAL (SELECT failure, message FROM failures WHERE asset_id = s.asset_id AND u.state = 'failed'
  ORDER BY failure_id DESC LIMIT 1) f ON true
UNION ALL
SELECT DISTINCT ON (uri) uri, 'failed', failure, message, NULL::float8 FROM failures
WHERE asset_id IS NULL AND uri NOT IN (SELECT uri FROM sources)
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file; `seconds` from claim to commit, None when it was never claimed."""

    state: str
    failure: str | None
    message: str | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Job:
    """One ingest in a process of its own: its summary, wall seconds, and peak bytes of its processes by role."""

    exit_code: int
    summary: dict[str, Any]
    stderr: str
    wall_s: float
    peak_bytes: dict[str, int]


def speech(seconds: float) -> Samples:
    """A piece of the packaged telephone call in which both people speak, 16 kHz mono int16."""
    with wave.open(str(call_path())) as file:
        file.setpos(round(SPEECH_AT_S * RATE_HZ))
        return np.frombuffer(file.readframes(round(seconds * RATE_HZ)), np.int16)


def build(folder: Path, count: int, seed: int, sound: Samples) -> dict[str, str]:
    """Write `count` mutated files and the originals; returns name -> mutator."""
    rng, made = Random(seed), {}
    with tempfile.TemporaryDirectory() as scratch:
        originals = [(path.name, path.read_bytes()) for path in write_every_container(Path(scratch), sound)]
    for name, data in originals:
        (folder / f"original-{name}").write_bytes(data)
        made[f"original-{name}"] = ORIGINAL
    names = list(MUTATORS)
    for number in range(count):
        base, data = rng.choice(originals)
        mutator = names[number % len(names)]
        name = f"{number:05}-{mutator}-{base}"
        (folder / name).write_bytes(MUTATORS[mutator](rng, data, rng.choice(originals)[1]))
        made[name] = mutator
    return made


def run_job(folder: Path, environment: Mapping[str, str]) -> Job:
    """`rushes ingest FOLDER --lanes speech` in a process of its own."""
    words = [sys.executable, "-m", "jobs.cli.main", "ingest", str(folder), "--lanes", "speech", "--json"]
    started, peaks = time.monotonic(), dict[str, int]()
    process = subprocess.Popen(
        words, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, peaks, over))
    watcher.start()
    stdout, stderr = process.communicate()
    over.set()
    watcher.join()
    summary = json.loads(stdout) if stdout.startswith("{") else {}
    return Job(process.returncode, summary, stderr, time.monotonic() - started, peaks)


def _watch(root: int, peaks: dict[str, int], over: threading.Event) -> None:
    while not over.wait(WATCH_S):
        for pid in _family(root):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            role = "media_child" if MEDIA_CHILD in words else "driver" if pid == root else "worker"
            peak = next((line for line in status.splitlines() if line.startswith("VmHWM")), "VmHWM: 0 kB")
            if "postgres" not in words:
                peaks[role] = max(peaks.get(role, 0), int(peak.split()[1]) * 1024)


def _family(root: int) -> list[int]:
    """The process and its descendants, as of now."""
    family, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        family.append(pid)
        try:
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
            waiting.extend(int(word) for task in tasks for word in (task / "children").read_text().split())
        except OSError:
            continue
    return family


def outcomes(conn: Any) -> dict[str, Outcome]:
    """File name -> what became of it."""
    return {Path(uri).name: Outcome(*rest) for uri, *rest in conn.execute(_OUTCOMES).fetchall()}


def tell(made: Mapping[str, str], ended: Mapping[str, Outcome], job: Job) -> dict[str, Any]:
    """The figures of one fuzzed run; `missing` and `bugs` name the files that must not be."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for name, mutator in made.items():
        table[mutator][_kind(ended.get(name))] += 1
    timed = {name: end.seconds for name, end in ended.items() if end.seconds is not None}
    slowest = max(timed, key=lambda name: timed[name], default="")
    return {
        "exit_code": job.exit_code,
        "outcomes": dict(sum(table.values(), Counter()).most_common()),
        "by_mutator": {mutator: dict(sorted(counts.items())) for mutator, counts in sorted(table.items())},
        "missing": sorted(set(made) - set(ended)),
        "bugs": {name: end.message for name, end in ended.items() if end.failure == "bug"},
        "without_reason": [name for name, end in ended.items() if end.state != "done" and not end.message],
        "wall_s": round(job.wall_s, 1),
        "peak_mib": {role: round(peak / 2**20) for role, peak in sorted(job.peak_bytes.items())},
        "slowest": {"file": slowest, "seconds": round(timed.get(slowest, 0.0), 2)},
        "median_s": {
            "mutated": _median([s for name, s in timed.items() if made[name] != ORIGINAL]),
            "original": _median([s for name, s in timed.items() if made[name] == ORIGINAL]),
        },
        "over_10_s": {name: round(seconds, 1) for name, seconds in timed.items() if seconds > 10},
    }


def _kind(end: Outcome | None) -> str:
    return "missing" if end is None else f"failed: {end.failure}" if end.state == "failed" else end.state


def _median(values: Sequence[float]) -> float:
    return round(median(values), 3) if values else 0.0


def main() -> None:
    """Write results/fuzz.json; exit code 1 when a file is missing, a bug showed or the corpus does not add up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="write the files here and keep them")
    asked = parser.parse_args()
    # Removed when this process ends, after the embedded server in it has stopped: what registers first runs last.
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    scratch.chmod(0o755)
    folder = asked.keep or scratch / "media"
    folder.mkdir(parents=True, exist_ok=True)
    made = build(folder, asked.files, asked.seed, speech(2.0))
    settings = load_settings(None, data_dir=scratch / "data")
    job = run_job(folder, {"RUSHES_DATA_DIR": str(settings.data_dir)})
    with find_database(settings).connect() as conn:
        figures, broken = tell(made, outcomes(conn), job), {k: n for k, n in check_corpus(conn).items() if n}
    write_result("fuzz", {"n": asked.files, "seed": asked.seed, "lanes": "speech", **figures, "corpus_broken": broken})
    bad = figures["missing"] or figures["bugs"] or figures["without_reason"] or broken
    if bad or job.exit_code not in (0, 3):
        sys.exit(f"the run ended with {job.exit_code}; {bad or job.stderr[-2000:]}")


if __name__ == "__main__":
    main()
