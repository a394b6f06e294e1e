"""Texts per second of `rushes reembed` beside the bare model on the same texts.

`python -m benchmarks.reembed [CHUNKS]`: real recordings are transcribed once; seeded permutations of what was
said in them become the transcripts of synthetic assets, written straight to the database. Each round runs
the job and then `SentenceTransformer.encode` in a process of its own, with the same threads, batch size and
texts; starting and loading stand apart in both. It measures speed only.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

from actors.lanes import fingerprints
from benchmarks.report import at_least, write_result
from cluster.db import ledger, runs
from cluster.db.connect import find_database
from cluster.db.migrate import migrate
from cluster.db.patience import Session
from cluster.db.register import NewAsset, add_asset
from cluster.db.results import commit_row
from cluster.settings import Settings, load_settings
from jobs.cli.progress import LineReporter
from jobs.demo import call_path
from jobs.gc import survey, sweep
from jobs.ingest import ingest
from jobs.job import IngestOptions
from jobs.reembed import Reembedded, ReembedOptions, reembed
from jobs.runners import this_node

SEED = 7
ASSET_S = 1_800
PAUSE_MS = 400
ROUNDS = 3
JOB_OVER_BARE = 0.9
QUIET = LineReporter(quiet=True, verbose=False)
_BARE = """
import json, sys, time
import torch
from sentence_transformers import SentenceTransformer
from threadpoolctl import threadpool_limits
order = json.load(open(sys.argv[1]))
torch.set_num_threads(order["threads"])
model = SentenceTransformer(order["folder"], device=order["device"], local_files_only=True)
model.max_seq_length = order["max_tokens"]
threadpool_limits(limits=1, user_api="blas")
model.encode(order["texts"][:64], batch_size=order["batch_size"], show_progress_bar=False)
began = time.perf_counter()
model.encode(order["texts"], batch_size=order["batch_size"], show_progress_bar=False)
print(len(order["texts"]) / (time.perf_counter() - began))
"""


def transcribed(root: Path) -> list[dict[str, Any]]:
    """Every segment with words that the recordings at hand give."""
    shared = Path(__file__).parents[2] / "shared" / "media"
    inputs = [str(call_path()), *(str(shared / name) for name in ("reading", "speakers") if (shared / name).is_dir())]
    settings = load_settings(None, data_dir=root / "recordings", runner="worker")
    ingest(settings, IngestOptions(inputs=inputs, lanes=("speech",)), QUIET)
    with find_database(settings).connect() as conn:
        ids = [row[0] for row in conn.execute("SELECT asset_id FROM assets ORDER BY sha256").fetchall()]
        found = [segment for asset_id in ids for segment in ledger.read_segments(conn, asset_id)]
    return [segment for segment in found if segment["text"]]


def build(settings: Settings, said: list[dict[str, Any]], chunks: int) -> int:
    """Write transcripts of half an hour each, about `chunks` chunks in all; returns how many."""
    order, prints = random.Random(SEED), {"speech": fingerprints(settings)["speech"]}
    with find_database(settings).connect() as conn:
        migrate(conn)
        run_id, written_s, assets = uuid.uuid4(), 0.0, 0
        runs.start_run(conn, run_id, "ingest", {})
        # A chunk is a minute at most, and in running talk not much less.
        while written_s < chunks * 50:
            segments = _transcript(order, said)
            written_s += segments[-1]["end_ms"] / 1000
            _write(conn, run_id, assets, segments, prints)
            assets += 1
        runs.finish_run(conn, run_id, "done", {})
    return assets


def _transcript(order: random.Random, said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    segments: list[dict[str, Any]] = []
    now_ms = 0
    while now_ms < ASSET_S * 1000:
        one = order.choice(said)
        shift = now_ms - one["start_ms"]
        moved = {name: one[name] + shift for name in ("start_ms", "end_ms")}
        words = [{**word, "start_ms": word["start_ms"] + shift, "end_ms": word["end_ms"] + shift}
                 for word in one["words"]]  # fmt: skip
        segments.append({**one, **moved, "words": words, "idx": len(segments), "local_speaker": 0})
        now_ms = moved["end_ms"] + PAUSE_MS
    return segments


def _write(conn: Any, run_id: uuid.UUID, number: int, segments: list[dict[str, Any]], prints: dict[str, str]) -> None:
    length_ms = segments[-1]["end_ms"]
    asset = NewAsset(f"{number:064x}", 1, media_kind="audio", audio_stream=0, duration_ms=length_ms)
    asset_id = add_asset(conn, asset)
    ledger.ensure_units(conn, [asset_id], prints, ["speech"])
    units = ledger.claim_units(conn, run_id, asset_id, ["speech"], prints)
    row = {"asset_id": asset_id, "uri": f"/synthetic/{number}", "units": units, "error": None, "timings": [],
           "segments": segments, "transcript": {"language": "en"}}  # fmt: skip
    if commit_row(conn, run_id, row, {}) != "done":
        raise AssertionError(f"asset {asset_id} was not written")


def forget(settings: Settings) -> None:
    """Take the space of the last round away, so that the next one computes everything again."""
    with find_database(settings).connect() as conn:
        conn.execute("UPDATE spaces SET is_active = false")
    other = settings.following("text", "nothing")
    with closing(Session(find_database(settings).url, 60.0)) as session:
        sweep(session, other, survey(session, other))


def bare_texts_per_s(settings: Settings, texts: list[str], root: Path, threads: int) -> float:
    """The model alone on these texts, in a process of its own, loaded and warmed up before."""
    from cluster.weights import locate

    choice = settings.model_choice("text")
    order = {
        "folder": str(locate(choice.weights)), "device": None if choice.device == "auto" else choice.device,
        "max_tokens": choice.max_tokens, "batch_size": choice.batch_size, "threads": threads,
        "texts": [choice.document_prefix + text for text in texts],
    }  # fmt: skip
    path = root / "order.json"
    path.write_text(json.dumps(order), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", _BARE, str(path)], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def chunk_texts(settings: Settings, result: Reembedded) -> list[str]:
    """What the job embedded, in the order of the corpus."""
    assert result.space is not None
    query = "SELECT text FROM chunks WHERE space_id = %s ORDER BY asset_id, idx"
    with find_database(settings).connect() as conn:
        return [row[0] for row in conn.execute(query, (result.space.space_id,)).fetchall()]


def one_round(settings: Settings, root: Path, threads: int) -> dict[str, Any]:
    """The job, then the bare model on the same texts."""
    result = reembed(settings, ReembedOptions(), QUIET)
    if result.exit_code or result.active != result.space:
        raise AssertionError(f"the job did not complete the space: {result}")
    texts = chunk_texts(settings, result)
    bare = bare_texts_per_s(settings, texts, root, threads)
    forget(settings)
    return {
        "texts": result.texts,
        "job_texts_per_s": round(result.texts_per_s, 2),
        "bare_texts_per_s": round(bare, 2),
        "job_over_bare": round(result.texts_per_s / bare, 4),
        "job_start_up_s": round(sum(summary.start_up_s for summary in result.summaries), 2),
        "job_stage_s": {
            name: round(seconds, 2) for summary in result.summaries for name, seconds in summary.stage_s.items()
        },
    }


def main() -> None:
    """Three paired rounds."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    with tempfile.TemporaryDirectory(prefix="rushes-bench-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        nothing = {"nothing": {"text": {"max_tokens": 8}}}
        settings = load_settings(None, data_dir=root / "corpus", runner="worker", profiles=nothing)
        said = transcribed(root)
        assets = build(settings, said, wanted)
        threads = this_node(settings).cpus
        rounds = [one_round(settings, root, threads) for _ in range(ROUNDS)]
    ratios = sorted(one["job_over_bare"] for one in rounds)
    choice = settings.model_choice("text")
    write_result(
        "reembed",
        {
            "corpus": f"{assets} synthetic transcripts of half an hour: seeded permutations (seed {SEED}) of "
            f"{len(said)} segments transcribed from real recordings; speed only",
            "model": choice.weights,
            "threads": threads,
            "batch_size": choice.batch_size,
            "n_texts": rounds[0]["texts"],
            "rounds": rounds,
            "job_texts_per_s": statistics.median(one["job_texts_per_s"] for one in rounds),
            "bare_texts_per_s": statistics.median(one["bare_texts_per_s"] for one in rounds),
            "job_over_bare": statistics.median(ratios),
            "job_over_bare_range": [ratios[0], ratios[-1]],
            "targets": {"job_over_bare": at_least(JOB_OVER_BARE, statistics.median(ratios))},
        },
    )


if __name__ == "__main__":
    main()
