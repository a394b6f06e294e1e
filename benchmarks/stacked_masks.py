"""pyannote's embedding pass as it ships beside ours with stacked masks, on the real call.

The network has the released one's layout (WeSpeaker ResNet34, 80 mel bands) and random weights, and
so has the segmentation before it: this says what a pass costs and that both give the same vectors,
nothing about accuracy. Stock sends each chunk of 10 s through the ResNet once per local speaker, in
the released configuration's batches of 32; `stock_by_one` takes chunks singly, as ours does on CPUs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from actors.pyannote_models import load_pipeline
from benchmarks.transcription import call_recording
from cluster.types import SAMPLE_RATE_HZ
from tests.pyannote_fixture import build_pipeline

MEL_BINS = 80
STOCK_BATCH = 32
ROUNDS = 2


def measure_masks(folder: Path, rounds: int = ROUNDS, mel_bins: int = MEL_BINS) -> dict[str, Any]:
    """Both passes over the same segmentation, in turns; `folder` receives the pipeline."""
    import torch

    pipeline = load_pipeline(build_pipeline(folder, mel_bins), device="cpu")
    audio, _ = call_recording()
    samples = torch.from_numpy(audio.astype(np.float32) / 32768)[None]
    file = {"waveform": samples, "sample_rate": SAMPLE_RATE_HZ, "uri": "call"}
    found = pipeline.get_segmentations(file)
    overlap: bool = pipeline.embedding_exclude_overlap
    # Found by trial passes when it is first asked for, and kept.
    _ = pipeline._embedding.min_num_samples

    def stock(batch: int) -> Any:
        pipeline.embedding_batch_size = batch
        return type(pipeline).get_embeddings(pipeline, file, found, exclude_overlap=overlap)

    ways: dict[str, Callable[[], Any]] = {
        "stacked": lambda: pipeline.get_embeddings(file, found, exclude_overlap=overlap),
        "stock": lambda: stock(STOCK_BATCH),
        "stock_by_one": lambda: stock(1),
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    vectors = {}
    for turn in range(rounds):
        for name in sorted(ways, reverse=bool(turn % 2)):
            run, vectors[name] = _timed(pipeline, ways[name])
            runs[name].append(run)
    return {
        "weights": "random: cost and equality only",
        "audio_s": round(len(audio) / SAMPLE_RATE_HZ, 1),
        "mel_bins": mel_bins,
        "chunks": found.data.shape[0],
        "chunks_with_speech": int(np.nan_to_num(found.data).any(axis=(1, 2)).sum()),
        "local_speakers": found.data.shape[2],
        "ways": {name: {unit: round(median(run[unit] for run in each), 2) for unit in each[0]}
                 for name, each in runs.items()},
        "stock_over_stacked_cpu": _ratio(runs["stock"], runs["stacked"]),
        "stock_by_one_over_stacked_cpu": _ratio(runs["stock_by_one"], runs["stacked"]),
        "greatest_difference": float(max(np.abs(vectors[name] - vectors["stacked"]).max() for name in ways)),
    }  # fmt: skip


def _timed(pipeline: Any, way: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Seconds, the chunks that went through the ResNet, and the vectors."""
    chunks = 0

    def count(_: Any, given: Any, __: Any) -> None:
        nonlocal chunks
        chunks += len(given[0])

    hook = pipeline._embedding.model_.resnet.register_forward_hook(count)
    try:
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        vectors = way()
        cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    finally:
        hook.remove()
    return {"cpu_s": cpu_s, "wall_s": wall_s, "chunks_through_resnet": chunks}, vectors


def _ratio(slow: list[dict[str, float]], fast: list[dict[str, float]]) -> float:
    return round(median(one["cpu_s"] / other["cpu_s"] for one, other in zip(slow, fast, strict=True)), 2)
