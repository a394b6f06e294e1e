"""One stage at a time, alone on the card: its rate, its memory, how full its batches are."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from actors import transcribe
from actors.device import placement
from actors.inline import run_inline
from actors.lanes import whole_chain
from benchmarks.gpu_child import peak_host_gib
from benchmarks.gpu_media import table_of
from benchmarks.gpu_whisper import SCRIPT
from cluster.profiles import ModelChoice
from cluster.settings import Settings
from cluster.types import errors_of, with_column

# The stages measured alone, and those that bring them their columns.
HEARD, SPOKEN = ("decode", "speech_activity"), ("decode", "speech_activity", "said", "known_turns", "segments")
BEFORE: Mapping[str, tuple[str, ...]] = {
    "decode": (),
    "speech_activity": ("decode",),
    "transcribe": HEARD,
    "diarize": HEARD,
    "voices": SPOKEN,
    "texts": SPOKEN,
    "pictures": (),
    "images": ("pictures", "thumbnails"),
}
WORD_MS = 400
# pyannote looks at 10 s every second.
CHUNK_S, CHUNK_STEP_S = 10, 1


@dataclass(frozen=True, slots=True)
class Trial:
    """A stage to measure on `rows`, over and over until `least_s` have passed."""

    stage: str
    settings: dict[str, Any]
    random: frozenset[str]
    rows: Sequence[Mapping[str, Any]]
    threads: int
    least_s: float


class Said:
    """Stands in for the recogniser: words of a known text, evenly over where somebody speaks."""

    name, version, lanes = "said", 1, frozenset({"speech"})
    needs, adds, drops = ("speech",), ("words", "utterances", "transcript"), ()

    def identity(self) -> dict[str, Any]:
        return {}

    def load(self) -> None:
        self._words = SCRIPT.read_text("utf-8").split()

    def process(self, table: pa.Table) -> pa.Table:
        speech = table["speech"].to_pylist()
        table = with_column(table, "words", [list(self._over(regions)) for regions in speech])
        return with_column(with_column(table, "utterances", speech), "transcript", [None] * table.num_rows)

    def close(self) -> None:
        """Nothing to close."""

    def _over(self, regions: Sequence[Mapping[str, int]]) -> Iterator[dict[str, Any]]:
        number = 0
        for region in regions:
            for start in range(region["start_ms"], region["end_ms"] - WORD_MS // 2, WORD_MS):
                end, text = min(start + WORD_MS, region["end_ms"]), self._words[number % len(self._words)]
                yield {"start_ms": start, "end_ms": end, "text": text, "probability": 1.0}
                number += 1


class KnownTurns:
    """Stands in for what a diarizer with random weights says: two speakers take turns where somebody speaks."""

    name, version, lanes = "known_turns", 1, frozenset({"speech"})
    needs, adds, drops = ("speech",), ("turns",), ()

    def identity(self) -> dict[str, Any]:
        return {}

    def load(self) -> None:
        """Nothing to load."""

    def process(self, table: pa.Table) -> pa.Table:
        speech = table["speech"].to_pylist()
        turns = [
            [{**region, "local_speaker": number // 3 % 2} for number, region in enumerate(row or ())] for row in speech
        ]
        return with_column(table, "turns", turns)

    def close(self) -> None:
        """Nothing to close."""


def _no_flaws(*_: Any, **__: Any) -> list[str]:
    return []


def chain_of(settings: Settings, names: Sequence[str], random: frozenset[str], threads: int) -> list[Any]:
    """The stages of `names`, in this process; without gates and random turns where the weights are random."""
    if "transcriber" in random:
        # What is said does not fit what is heard: each window would be decoded again, alone.
        transcribe.flaws = _no_flaws
    chain: list[Any] = whole_chain(settings, threads=threads, torch_threads=threads)
    known = {stage.name: stage for stage in (*chain, Said(), KnownTurns())}
    found = [known[name] for name in names]
    if "diarize" in names and "diarizer" in random and "segments" in names:
        found.insert(names.index("diarize") + 1, known["known_turns"])
    return found


def measure_stage(trial: Trial) -> dict[str, Any]:
    """The stage's figures; `at` holds moments of `time.monotonic()`: started, loaded, warm, worked."""
    settings = Settings.model_validate(trial.settings)
    tables = [table_of(row) for row in trial.rows]
    before = BEFORE[trial.stage]
    if before:
        # What TransNetV2 costs is measured with the stage that runs it.
        plain = settings.model_copy(update={"shots": settings.shots.model_copy(update={"profile": "bundled"})})
        tables = list(run_inline(chain_of(plain, before, trial.random, trial.threads), tables))
    _check(tables)
    [stage] = chain_of(settings, (trial.stage,), trial.random, trial.threads)
    at, seen = {"started": time.monotonic()}, dict.fromkeys(("passes", "calls"), 0)

    def feed() -> Iterator[pa.Table]:
        at["loaded"] = time.monotonic()
        yield tables[0]
        at["warm"], seen["calls"] = time.monotonic(), getattr(stage, "calls", 0)
        while not seen["passes"] or time.monotonic() - at["warm"] < trial.least_s:
            yield from tables
            seen["passes"] += 1
        at["worked"] = time.monotonic()
        seen["calls"] = getattr(stage, "calls", 0) - seen["calls"]
        figures["placed"] = _placed(stage)
        figures["host_gib"] = peak_host_gib(getattr(getattr(stage, "child", None), "pid", None))

    figures: dict[str, Any] = {}
    first, *done = run_inline([stage], feed())
    _check([first, *done])
    busy_s = sum(_seconds(table, trial.stage) for table in done)
    media_s = sum(row["duration_ms"] for row in trial.rows) * seen["passes"] / 1000
    items, batches = _items(trial.stage, stage, done, seen["calls"])
    return {
        "at": at, "busy_s": busy_s, "media_s": media_s, "passes": seen["passes"], "assets": len(trial.rows),
        "x_realtime": media_s / busy_s, "s_per_media_hour": busy_s * 3600 / media_s,
        "items": items, "items_per_s": {name: count / busy_s for name, count in items.items()},
        "batch_fill": next(iter(items.values())) / batches if batches and items else None,
        "halvings": getattr(stage, "halvings", 0), "first_s": at["warm"] - at["loaded"],
        "load_s": at["loaded"] - at["started"], **figures,
    }  # fmt: skip


def _seconds(table: pa.Table, stage: str) -> float:
    return sum(one["seconds"] for row in table["timings"].to_pylist() for one in row[-1:] if one["stage"] == stage)


def _check(tables: Sequence[pa.Table]) -> None:
    for table in tables:
        for error in table["error"].to_pylist():
            for one in errors_of(error):
                raise RuntimeError(f"{one['stage']}: {one['message']}")


def _placed(stage: Any) -> dict[str, Any] | None:
    try:
        placed = placement(stage)
    except ValueError:
        return None
    return {"device": placed.device, "share": placed.share, "precision": placed.precision}


def _items(name: str, stage: Any, tables: Sequence[pa.Table], calls: int) -> tuple[dict[str, int], int | None]:
    """What the stage worked through, and how many items its batches had room for; None where nobody counts."""
    choice: Any = getattr(stage, "choice", None)
    if name == "transcribe":
        windows = sum(row["windows"] for table in tables for row in table["transcript"].to_pylist())
        return {"windows": windows}, calls * choice.batch_size
    if name == "diarize":
        chunks = [_chunks(table) for table in tables]
        size = _batch(choice)
        return {"chunks": sum(chunks)}, sum(math.ceil(count / size) * size for count in chunks)
    if name == "voices":
        vectors = sum(one["vector"] is not None for table in tables for one in table["voices"][0].as_py())
        return {"segments": vectors}, calls * _batch(choice)
    if name == "texts":
        counts = [len(table["chunks"][0]) for table in tables]
        size = choice.batch_size
        return {"chunks": sum(counts)}, sum(math.ceil(count / size) * size for count in counts)
    if name == "images":
        return {"pictures": _length(tables, "image_vectors")}, calls * (choice.batch_pixels // choice.image_size**2)
    return ({"keyframes": _length(tables, "frames")}, None) if name == "pictures" else ({}, None)


def _batch(choice: ModelChoice) -> int:
    """What a full batch holds; pyannote's models take waveforms one by one on a CPU."""
    return 1 if choice.engine == "pyannote" and choice.device == "cpu" else choice.batch_size


def _chunks(table: pa.Table) -> int:
    return 1 + max(0, table["duration_ms"][0].as_py() // 1000 - CHUNK_S) // CHUNK_STEP_S


def _length(tables: Sequence[pa.Table], column: str) -> int:
    return sum(len(row) for table in tables for row in table[column])
