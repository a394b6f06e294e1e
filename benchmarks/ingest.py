"""The whole speech chain on every runner: media hours per hour, loads apart, counts that add up.

`python -m benchmarks.ingest [MINUTES]`: the corpus is a seeded permutation of the real recordings
(pyannote.audio's call and, when it stands beside the checkout, shared/media), joined with pauses to
files of about a minute. It measures speed only; accuracy has benchmarks of its own.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import wave
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import write_result
from cluster.db.check import check_corpus
from cluster.db.connect import find_database
from cluster.media.child import MediaChild
from cluster.settings import load_settings
from cluster.types import SAMPLE_RATE_HZ
from jobs.cli.progress import LineReporter
from jobs.demo import call_path
from jobs.ingest import ingest
from jobs.job import IngestOptions

PAUSE_S = 0.5
FILE_S = 60.0
SEED = 7


def recordings() -> list[NDArray[np.int16]]:
    """Every real recording at hand, 16 kHz mono int16."""
    shared = Path(__file__).parents[2] / "shared" / "media"
    paths = [call_path(), *sorted(shared.glob("reading/*.wav")), *sorted(shared.glob("speakers/*.flac"))]
    child = MediaChild(2**31)
    try:
        return [np.array(child.decode(path, 0, 60.0).samples) for path in paths]
    finally:
        child.close()


def build(folder: Path, minutes: float) -> float:
    """Write the corpus; returns its length in seconds."""
    order, pause = random.Random(SEED), np.zeros(int(PAUSE_S * SAMPLE_RATE_HZ), np.int16)
    pool, total_s, number = recordings(), 0.0, 0
    while total_s < minutes * 60:
        parts: list[NDArray[np.int16]] = []
        while sum(map(len, parts)) < FILE_S * SAMPLE_RATE_HZ:
            parts += [order.choice(pool), pause]
        audio = np.concatenate(parts)
        with wave.open(str(folder / f"{number:04}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE_HZ)
            file.writeframes(audio.tobytes())
        total_s, number = total_s + len(audio) / SAMPLE_RATE_HZ, number + 1
    return total_s


def measure(runner: str, media: Path, data: Path) -> dict[str, Any]:
    """One run of the main job into a database of its own."""
    settings = load_settings(None, data_dir=data / runner, runner=runner)
    before = cpu_s()
    summary = ingest(settings, IngestOptions(inputs=[str(media)]), LineReporter(quiet=True, verbose=False))
    spent = cpu_s() - before
    with find_database(settings).connect() as conn:
        wrong = sum(check_corpus(conn).values())
    return {
        "hours_per_hour": round(summary.hours_per_hour, 2),
        "wall_s": round(summary.wall_s, 2),
        "start_up_s": round(summary.start_up_s, 2),
        "cpu_s_with_start_up": round(spent, 1),
        "predicted_hours_per_hour": summary.predicted_hours_per_hour,
        "ok": summary.ok,
        "failed": summary.failed,
        "outputs": summary.outputs,
        "stage_s": {name: round(seconds, 2) for name, seconds in summary.stage_s.items()},
        "checks_broken": wrong,
    }


def cpu_s() -> float:
    """CPU seconds of this process and its ended children."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def main() -> None:
    """Inline first, then the worker, then Ray, on the same files."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 12.0
    with tempfile.TemporaryDirectory(prefix="rushes-bench-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        media = root / "media"
        media.mkdir()
        total_s = build(media, minutes)
        found = {runner: measure(runner, media, root) for runner in ("inline", "worker", "ray")}
    ratios = {
        f"{runner}_wall_over_inline_wall": round(found[runner]["wall_s"] / found["inline"]["wall_s"], 3)
        for runner in ("worker", "ray")
    }
    write_result(
        "ingest",
        {
            "stages": "decode, speech activity, transcribe (tiny.en int8), diarize, voices, texts, commit",
            "corpus": f"seeded permutation (seed {SEED}) of real recordings, speed only",
            "media_minutes": round(total_s / 60, 2),
            "files": found["inline"]["ok"],
            "runners": found,
            **ratios,
            "same_counts": all(one["outputs"] == found["inline"]["outputs"] for one in found.values()),
        },
    )


if __name__ == "__main__":
    main()
