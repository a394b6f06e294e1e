"""A recording of hours among short ones, on the real chain with the bundled models: order and memory.

`python -m benchmarks.long_asset [--hours 6] [--runners ray,worker]`. The recording is silence with pieces of the
real call scattered in it: the length and the memory of six hours, the work of minutes, and as a hole in the file no
room on the disk. On Ray, two pools (recognition | the rest) of two actors each hand the sound on through the object
store, as beside cards. The bound of a process is what its models take, for the sound lies in shared memory; that of
the shared memory is the object store as the plan sizes it and `COPIES` of the sound on their way into it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.memory import Memory
from benchmarks.process_tree import Meter, adopt_orphans
from benchmarks.report import at_most, exactly, write_result
from benchmarks.scale import ROOT, new_database
from benchmarks.scale_run import PlanKeeper
from cluster.db.check import check_corpus
from cluster.db.connect import open_connection
from cluster.plan import AUDIO_BYTES_PER_S, object_store_bytes
from cluster.settings import load_settings
from jobs.ingest import ingest
from jobs.job import IngestOptions
from jobs.summary import summary_dict
from tests.archive import read_call
from tests.media_factory import RATE_HZ, sparse_wav, write_wav
from tests.pg_server import own_server

GROUPS = (
    {"name": "hear", "stages": ["decode", "speech_activity", "transcribe"], "actors": 2},
    {"name": "speak", "stages": ["diarize", "segments", "voices", "texts"], "actors": 2},
)
LANES = ("speech", "voices", "texts")
# As it comes from the decoder, and from the one before, which a stage may still hold.
COPIES = 2
MODELS_GIB = {"worker": 2.2, "child": 0.3}
SHORT_S, SPEECH_S = 20.0, 10.0
# Short files, and pieces of speech in the long one.
FILES, PIECES = 8, 12
WAV_HEADER_BYTES = 44


@dataclass(frozen=True, slots=True)
class Request:
    """One run, as JSON on the command line."""

    runner: str
    url: str
    data_dir: str
    media: str


def build(folder: Path, hours: float, files: int = FILES, pieces: int = PIECES) -> Path:
    """One long recording with so many pieces of speech, and short files, in a new folder."""
    folder.mkdir()
    call, samples = read_call(), round(hours * 3600) * RATE_HZ
    with sparse_wav(folder / "long.wav", samples / RATE_HZ).open("r+b") as file:
        for piece in range(pieces):
            file.seek(WAV_HEADER_BYTES + 2 * (samples * (2 * piece + 1) // (2 * pieces)))
            file.write(_said(call, piece, SPEECH_S).tobytes())
    for number in range(files):
        write_wav(folder / f"short{number}.wav", _said(call, number, SHORT_S))
    return folder


def _said(call: Any, number: int, seconds: float) -> Any:
    """The call from its first words on, a little later for each number: no two files are one content."""
    start = 6 * RATE_HZ + 101 * number
    return call[start : start + int(seconds * RATE_HZ)]


def measure(server_url: str, folder: Path, runner: str, hours: float) -> dict[str, Any]:
    """One run to its end over `folder/media`; raises when it did not do everything."""
    url, answer, log = new_database(server_url, f"long_{runner}"), folder / f"{runner}.json", folder / f"{runner}.log"
    request = Request(runner, url, str(folder / runner), str(folder / "media"))
    own = {name: value for name, value in os.environ.items() if not name.startswith("RUSHES_")}
    command = [sys.executable, "-m", "benchmarks.long_asset", "--run", str(answer), json.dumps(asdict(request))]
    with Meter() as meter, Memory() as memory:
        ended = meter.run(command, own | {"PYTHONPATH": str(ROOT)}, log)
    if ended.code:
        raise RuntimeError(f"{runner} ended with {ended.code}:\n{log.read_text('utf-8', 'replace')[-3000:]}")
    told = json.loads(answer.read_text("utf-8"))
    if told["summary"]["state"] != "done":
        raise RuntimeError(f"{runner}: {told['summary']['state']}: {told['summary']['notes']}")
    first_s, long_s, short_s, broken = _from_database(url)
    sound_gib = hours * 3600 * AUDIO_BYTES_PER_S / 2**30
    return {
        "hours": hours,
        "ok": told["summary"]["ok"],
        "segments": told["summary"]["outputs"]["speech"],
        "checks_broken": broken,
        "plan": told["plan"],
        "work": meter.spent(first_s, max(long_s, short_s)),
        "long_s": round(long_s - first_s, 2),
        "last_short_s": round(short_s - first_s, 2),
        "sound_gib": round(sound_gib, 3),
        "peak_gib": memory.peaks_gib(),
        "bound_gib": {
            **MODELS_GIB,
            "shared": round(told["object_store_bytes"] / 2**30, 3),
        },
    }


def _from_database(url: str) -> tuple[float, float, float, int]:
    """First claim, commit of the long recording and of the last short one, since the epoch; broken checks."""
    with open_connection(url) as conn:
        row = conn.execute(
            "SELECT extract(epoch FROM min(started_at))::float8,"
            " extract(epoch FROM max(finished_at) FILTER (WHERE duration_ms > 600000))::float8,"
            " extract(epoch FROM max(finished_at) FILTER (WHERE duration_ms <= 600000))::float8"
            " FROM units JOIN assets USING (asset_id) WHERE state = 'done'"
        ).fetchone()
        broken = sum(check_corpus(conn).values())
    assert row is not None
    return *row, broken


def run(request: Request) -> dict[str, Any]:
    """The main job, as a command does it."""
    plan = {"groups": GROUPS} if request.runner == "ray" else {}
    settings = load_settings(
        None, data_dir=Path(request.data_dir), database_url=request.url, runner=request.runner, cpus=2, plan=plan
    )
    reporter = PlanKeeper()
    summary = ingest(settings, IngestOptions(inputs=[request.media], lanes=LANES), reporter)
    assert reporter.plan is not None
    lengths_s = [path.stat().st_size / AUDIO_BYTES_PER_S for path in Path(request.media).iterdir()]
    # Beside other runners there is no object store: what is shared there is one sound on its way from the decoder.
    store = object_store_bytes(reporter.plan, lengths_s) if request.runner == "ray" else 0
    return {
        "summary": summary_dict(summary),
        "plan": {group.name: group.actors for group in reporter.plan.groups},
        "object_store_bytes": store + int(COPIES * max(lengths_s) * AUDIO_BYTES_PER_S),
    }


def targets(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the runs are held against."""
    found: dict[str, Any] = {}
    for runner, run in runs.items():
        found[f"{runner}_all_assets"] = exactly(FILES + 1, run["ok"])
        for kind, bound_gib in run["bound_gib"].items():
            found[f"{runner}_{kind}_gib"] = at_most(bound_gib, run["peak_gib"].get(kind, 0.0))
    if "ray" in runs:
        found["ray_last_short_s"] = at_most(runs["ray"]["long_s"], runs["ray"]["last_short_s"])
    return found


def main() -> None:
    if sys.argv[1:2] == ["--run"]:
        Path(sys.argv[2]).write_text(json.dumps(run(Request(**json.loads(sys.argv[3])))), "utf-8")
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--runners", default="ray,worker")
    given = parser.parse_args()
    adopt_orphans(True)
    with tempfile.TemporaryDirectory(prefix="l-", dir="/tmp") as name, own_server() as server:
        folder = Path(name)
        build(folder / "media", given.hours)
        runs = {runner: measure(server.url, folder, runner, given.hours) for runner in given.runners.split(",")}
    write_result("long_asset", {"runs": runs, "targets": targets(runs)})


if __name__ == "__main__":
    main()
