"""The stages of the product with their models taken out: each sleeps for as long as it was recorded to take.

Names, columns, lanes and identities are those of the real stages, which are made and asked but never loaded: the
plan, the column algebra, the claims and the commits are the product's own (`IngestOptions.chain`). Recorded on CPUs
(`results/ingest.json`, `results/images.json`), since no card was at hand: what a card computes is shortened by the
one factor that makes hearing take `HEARD_X_REALTIME`. The clock divides the sleeps and nothing else, so that what the
engine itself takes counts `REPLAY_CLOCK` times. The rows are as many per hour as real ones and follow from the
asset's SHA-256 alone; there is no sound in them, and no words before the segments.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from actors.lanes import whole_chain
from benchmarks.replay_rows import Asset, chunks, frames, segments, shots, voices
from cluster.ports import VoiceCache
from cluster.settings import Settings
from cluster.stage import Stage
from cluster.types import COLUMNS, with_column

CHAIN = "benchmarks.replay:chain"
CLOCK = "REPLAY_CLOCK"
MOST_CLOCK = 10.0
# Hours that the actor which hears gets through in an hour of a card; stated, not measured.
HEARD_X_REALTIME = 60.0
HEARS = ("decode", "speech_activity", "transcribe")
# A card makes these faster; the others stay as recorded.
ON_CARD = ("transcribe", "diarize", "voices", "texts")
# One thumbnail of results/images.json, at the keyframes of an hour.
THUMBNAILS_S_PER_HOUR = 2.0
RESULTS = Path(__file__).parent / "results"


def clock() -> float:
    """How many times faster than recorded the stages run here; raises `ValueError` beyond `MOST_CLOCK`."""
    value = float(os.environ.get(CLOCK, MOST_CLOCK))
    if not 1 <= value <= MOST_CLOCK:
        raise ValueError(f"{CLOCK}={value:g}: a clock goes 1 to {MOST_CLOCK:g} times as fast")
    return value


@cache
def s_per_media_hour() -> Mapping[str, float]:
    """Stage -> seconds of one actor per hour of media at clock 1."""
    heard = json.loads((RESULTS / "ingest.json").read_text("utf-8"))
    hours = heard["media_minutes"] / 60
    found = {stage: seconds / hours for stage, seconds in heard["rounds"][0]["plain"]["stage_busy_s"].items()}
    on_cpu = sum(found[stage] for stage in HEARS if stage not in ON_CARD)
    factor = (3600 / HEARD_X_REALTIME - on_cpu) / found["transcribe"]
    found.update({stage: found[stage] * factor for stage in ON_CARD})
    seen = json.loads((RESULTS / "images.json").read_text("utf-8"))
    found |= {"pictures": seen["pass_cpu_s_per_hour"]["720p"]["content"], "thumbnails": THUMBNAILS_S_PER_HOUR}
    return {stage: round(seconds, 3) for stage, seconds in found.items() if stage not in ("claim", "commit")}


def chain(
    settings: Settings, *, voice_cache: VoiceCache | None = None, threads: int = 1, torch_threads: int = 1
) -> list[Stage]:
    """The stages of `whole_chain`, replayed; `JobSpec.chain` names this function."""
    real = whole_chain(settings, voice_cache=voice_cache, threads=threads, torch_threads=torch_threads)
    sizes = {kind: settings.model_choice(kind).dimension or 1 for kind in ("voice", "text")}
    return [Replay(stage, s_per_media_hour()[stage.name], clock(), _makers(sizes)) for stage in real]


class Replay:
    """A stage of the product that sleeps instead of working and gives rows of the usual shape."""

    def __init__(self, stage: Stage, s_per_hour: float, clock: float, makers: Mapping[str, Maker]) -> None:
        """`s_per_hour`: seconds per hour of media at clock 1."""
        self.name, self.version, self.lanes = stage.name, stage.version, stage.lanes
        self.needs, self.adds, self.drops = stage.needs, stage.adds, stage.drops
        self.stage, self.s_per_hour, self.clock, self.makers = stage, s_per_hour, clock, makers

    def identity(self) -> dict[str, Any]:
        """What the stage itself says."""
        return self.stage.identity()

    def load(self) -> None:
        """There is no model."""

    def process(self, table: pa.Table) -> pa.Table:
        """Sleep for the rows' media, then add the stage's columns."""
        assets = [Asset(*row.values()) for row in table.select(["sha256", "duration_ms"]).to_pylist()]
        time.sleep(sum(asset.duration_ms for asset in assets) / 3_600_000 * self.s_per_hour / self.clock)
        for name in self.adds:
            made = [self.makers.get(name, _nothing(name))(asset) for asset in assets]
            table = with_column(table, name, pa.concat_arrays(made))
        return table

    def close(self) -> None:
        """There is nothing to let go of."""


Maker = Callable[[Asset], pa.Array]


def _makers(sizes: Mapping[str, int]) -> dict[str, Maker]:
    return {
        "audio_sha256": lambda asset: pa.array([asset.sha256]),
        "segments": segments,
        "voices": lambda asset: voices(asset, sizes["voice"]),
        "voice_cache_hits": lambda asset: pa.array([0], pa.int32()),
        "chunks": lambda asset: chunks(asset, sizes["text"]),
        "shots": shots,
        "frames": frames,
        "samples": lambda asset: _samples(asset),
        "picture_size": lambda asset: pa.array([{"width": 1280, "height": 720}], COLUMNS["picture_size"]),
    }


def _samples(asset: Asset) -> pa.Array:
    listed = [{"t_ms": one["t_ms"], "phash": one["phash"]} for one in frames(asset)[0].as_py()]
    return pa.array([listed], COLUMNS["samples"])


def _nothing(name: str) -> Maker:
    return lambda asset: pa.nulls(1, COLUMNS[name])
