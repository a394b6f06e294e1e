"""Voice vectors, factor by factor: decode once, batch, cache; and pyannote's own pass beside ours.

`python -m benchmarks.voices [MINUTES=10]`: one asset of MINUTES, then as much in files of a minute,
FLAC, the permuted recordings of `benchmarks.corpus`; segments are the bundled diarizer's turns. Four
ways to the same vectors, each with the model loaded and one thread:

- `by_seek`: every segment is read from the file by itself, by seek, and embedded alone;
- `one_by_one`: the file is decoded once, by the product, every segment embedded alone;
- `batched`: the stages `decode` and `voices`, as the product runs them;
- `cached`: the same stages when the database knows every voice; the model is not called.

CPU seconds are of this process, of the child that decodes and of the database's server process.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import pyarrow as pa
import soundfile
from numpy.typing import NDArray

from actors.decode import Decode
from actors.diarize import Diarize
from actors.speech_activity import SpeechActivity
from actors.voices import Voices
from benchmarks.corpus import FILE_S, SEED, permutation, recordings
from benchmarks.process_tree import cpu_s_of, machine_busy_s
from benchmarks.report import at_least, at_most, exactly, write_result
from benchmarks.stacked_masks import measure_masks
from cluster.db.connect import open_connection
from cluster.db.migrate import migrate
from cluster.db.patience import Session
from cluster.db.spaces import DatabaseVoiceCache, Space, ensure_space
from cluster.media.hashing import hash_file
from cluster.media.node_cache import NodeCache
from cluster.profiles import choose
from cluster.stage import load_stages, run_stage, run_stages
from cluster.types import SAMPLE_RATE_HZ, rows_table, waveform, with_column
from tests.pg_server import own_server

ROUNDS = 3
TOLERANCE = 1e-4
STOCK_OVER_STACKED = 2.5
BASE = "by_seek"

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Asset:
    """A file, its row with segments, its decoded hash, and where the segments with a voice lie, in samples."""

    path: Path
    row: pa.Table
    audio_sha256: str
    spans: Sequence[tuple[int, int]]


class Bench:
    """The stages, loaded, with and without the cache, and everybody whose CPU counts."""

    def __init__(self, url: str, scratch: Path) -> None:
        choice = choose("voice", "bundled", {"device": "cpu"}, {})
        self.decode = Decode(60.0, 600.0, 2**31, NodeCache(scratch, 2**30))
        self.voices = Voices(choice)
        self.hearing = [SpeechActivity(), Diarize(choose("diarizer", "bundled", {"device": "cpu"}, {}), None, None)]
        load_stages([self.decode, self.voices, *self.hearing])
        self.session = Session(url, 10.0)
        identity = {"version": self.voices.version, **self.voices.identity()}
        self.space: Space = self.session.run(lambda conn: ensure_space(conn, "voice", choice, identity))
        self.knowing = Voices(choice, DatabaseVoiceCache(self.session, self.space))
        self.knowing.load()
        self.backend: int = self.session.run(lambda conn: conn.info.backend_pid)

    def close(self) -> None:
        for stage in (self.decode, self.voices, self.knowing):
            stage.close()

    def cpu_s(self) -> float:
        """CPU seconds so far: this process, the decoder, the database's server process."""
        return time.process_time() + cpu_s_of(self.decode.child.pid) + cpu_s_of(self.backend)

    def asset(self, path: Path, audio: NDArray[np.int16]) -> Asset:
        """Write the file, find who speaks when, and let the database know its voices."""
        soundfile.write(path, audio, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
        stat = path.stat()
        row = {
            "asset_id": 1, "sha256": hash_file(path)[0], "uri": str(path), "byte_size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns, "audio_stream": 0, "duration_ms": len(audio) // 16,
            "lanes": ["speech", "voices"],
        }  # fmt: skip
        decoded = run_stage(self.decode, rows_table([row]))
        if not np.array_equal(waveform(decoded, 0), audio):
            raise RuntimeError(f"{path.name} does not decode to what was written: {decoded['error'][0]}")
        heard = run_stages(self.hearing, _with_nulls(decoded, self.hearing[1].needs))
        turns = heard["turns"][0].as_py()
        segments = [{"idx": idx, "start_ms": turn["start_ms"], "end_ms": turn["end_ms"]}
                    for idx, turn in enumerate(turns)]  # fmt: skip
        found = run_stage(self.voices, with_column(decoded, "segments", [segments])).to_pylist()[0]
        known = [voice for voice in found["voices"] if voice["vector"] is not None]
        self.session.run(lambda conn: _remember(conn, self.space, found["audio_sha256"], known))
        spans = [(voice["start_sample"], voice["end_sample"]) for voice in known]
        return Asset(path, with_column(rows_table([row]), "segments", [segments]), found["audio_sha256"], spans)

    def by_seek(self, asset: Asset) -> Vectors:
        return np.concatenate([self.voices.embed_waveforms([cut(asset.path, *span)]) for span in asset.spans])

    def one_by_one(self, asset: Asset) -> Vectors:
        audio = waveform(run_stage(self.decode, asset.row), 0)
        return np.concatenate([self.voices.embed_waveforms([audio[start:end]]) for start, end in asset.spans])

    def batched(self, asset: Asset) -> Vectors:
        return _vectors(run_stages([self.decode, self.voices], asset.row))

    def cached(self, asset: Asset) -> Vectors:
        return _vectors(run_stages([self.decode, self.knowing], asset.row))


def cut(path: Path, start: int, end: int) -> NDArray[np.int16]:
    """Samples `start` to `end` of a 16 kHz mono file, and no more of it decoded than seeking allows."""
    parts: list[NDArray[np.int16]] = []
    at: int | None = None
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        assert stream.time_base is not None
        file.seek(int(start / SAMPLE_RATE_HZ / stream.time_base), stream=stream)
        for frame in file.decode(stream):
            assert frame.time is not None
            at = round(frame.time * SAMPLE_RATE_HZ) if at is None else at
            parts.append(frame.to_ndarray().reshape(-1).astype(np.int16, copy=False))
            if at + sum(map(len, parts)) >= end:
                break
    assert at is not None
    return np.concatenate(parts)[start - at : end - at]


def measure(bench: Bench, assets: Sequence[Asset], rounds: int = ROUNDS) -> dict[str, Any]:
    """Every way over all assets, `rounds` times, in turns; medians, and ratios within each round."""
    ways: dict[str, Callable[[Asset], Vectors]] = {
        name: getattr(bench, name) for name in (BASE, "one_by_one", "batched", "cached")
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    vectors: dict[str, Vectors] = {}
    for turn in range(rounds):
        for name in sorted(ways, reverse=bool(turn % 2)):
            run, vectors[name] = _timed(bench, ways[name], assets)
            runs[name].append(run)
    segments = sum(len(asset.spans) for asset in assets)
    return {
        "assets": len(assets),
        "audio_s": round(sum(asset.row["duration_ms"][0].as_py() for asset in assets) / 1000, 1),
        "segments": segments,
        "segment_median_s": round(
            median((end - start) / SAMPLE_RATE_HZ for asset in assets for start, end in asset.spans), 2
        ),
        "ways": {name: _figures(found, segments) for name, found in runs.items()},
        "cpu_ratios": {
            "decode_once": _ratio(runs, BASE, "one_by_one"),
            "batch": _ratio(runs, "one_by_one", "batched"),
            "cache": _ratio(runs, "batched", "cached"),
            "all_three": _ratio(runs, BASE, "cached"),
        },
        "agreement": _agreement(vectors),
    }


def _timed(bench: Bench, way: Callable[[Asset], Vectors], assets: Sequence[Asset]) -> tuple[dict[str, float], Vectors]:
    calls = bench.voices.calls + bench.knowing.calls
    busy_s, cpu_s, began_s = machine_busy_s(), bench.cpu_s(), time.perf_counter()
    found = np.concatenate([way(asset) for asset in assets])
    wall_s, cpu_s = time.perf_counter() - began_s, bench.cpu_s() - cpu_s
    foreign = max(0.0, machine_busy_s() - busy_s - cpu_s) / wall_s
    calls = bench.voices.calls + bench.knowing.calls - calls
    return {"cpu_s": cpu_s, "wall_s": wall_s, "foreign_cores": foreign, "model_calls": calls}, found


def _figures(runs: list[dict[str, float]], segments: int) -> dict[str, Any]:
    middle = {unit: round(median(run[unit] for run in runs), 3) for unit in runs[0]}
    return {**middle, "segments_per_cpu_s": round(segments / middle["cpu_s"], 1)}


def _ratio(runs: dict[str, list[dict[str, float]]], slow: str, fast: str) -> float:
    pairs = zip(runs[slow], runs[fast], strict=True)
    return round(median(one["cpu_s"] / other["cpu_s"] for one, other in pairs), 2)


def _agreement(vectors: dict[str, Vectors]) -> dict[str, float]:
    """The worst element and the worst cosine of any way against the product's."""
    product = vectors["batched"]
    others = [found for name, found in vectors.items() if name != "batched"]
    return {
        "greatest_difference": float(max(np.abs(found - product).max() for found in others)),
        "least_cosine": round(float(min((found * product).sum(axis=1).min() for found in others)), 7),
    }


def _vectors(done: pa.Table) -> Vectors:
    [row] = done.select(["voices", "error"]).to_pylist()
    if row["error"]:
        raise RuntimeError(row["error"]["message"])
    return np.array([voice["vector"] for voice in row["voices"] if voice["vector"] is not None], np.float32)


def _with_nulls(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """What neither the row nor an earlier stage has: nothing is known."""
    for name in columns:
        if name not in table.column_names and name != "speech":
            table = with_column(table, name, [None])
    return table


def _remember(conn: Any, space: Space, audio_sha256: str, voices: Sequence[dict[str, Any]]) -> None:
    rows = [
        (bytes.fromhex(audio_sha256), voice["start_sample"], voice["end_sample"], np.asarray(voice["vector"], "f4"))
        for voice in voices
    ]
    conn.cursor().executemany(
        f"INSERT INTO {space.cache_table} VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING".encode(), rows
    )


def measure_all(url: str, root: Path, minutes: float) -> dict[str, Any]:
    """Everything this benchmark says; `url` is an empty server's, `root` an empty folder."""
    with open_connection(url) as conn:
        migrate(conn)
    bench = Bench(url, root / "cache")
    pool, order = recordings(), random.Random(SEED)
    files = max(2, round(minutes * 60 / FILE_S))
    try:
        one = [bench.asset(root / "one.flac", permutation(minutes * 60, order, pool))]
        several = [
            bench.asset(root / f"{number}.flac", permutation(minutes * 60 / files, order, pool))
            for number in range(files)
        ]
        found = {"one_asset": measure(bench, one), "several_assets": measure(bench, several)}
    finally:
        bench.close()
    masks = measure_masks(root / "pipeline")
    difference = max(each["agreement"]["greatest_difference"] for each in found.values())
    calls = sum(each["ways"]["cached"]["model_calls"] for each in found.values())
    return {
        "corpus": f"seeded permutation (seed {SEED}) of real recordings, 16 kHz mono FLAC, speed only",
        "model": "bundled (GE2E, 256-d), one thread",
        "rounds": ROUNDS,
        **found,
        "pyannote_masks": masks,
        "targets": {
            "greatest_difference": at_most(TOLERANCE, difference),
            "model_calls_when_cached": exactly(0, calls),
            "stock_by_one_over_stacked_cpu": at_least(STOCK_OVER_STACKED, masks["stock_by_one_over_stacked_cpu"]),
            "stacked_greatest_difference": at_most(TOLERANCE, masks["greatest_difference"]),
        },
    }


def main() -> None:
    """Run and write `results/voices.json`."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    with tempfile.TemporaryDirectory(prefix="rushes-bench-") as folder, own_server() as server:
        write_result("voices", measure_all(server.url, Path(folder), minutes))


if __name__ == "__main__":
    main()
