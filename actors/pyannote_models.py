"""pyannote.audio 4 from a local folder: no network, no telemetry, one ResNet pass per chunk.

Its checkpoints are pickles: a folder must be as trusted as code. Stock `get_embeddings` sends every
10 s chunk through the network once per speaker slot; `stacked_embeddings` hands it all masks of a
chunk at once and leaves silent chunks out, with the same vectors (upstream issue #2050, unmerged).
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from actors.budget import Budget
from actors.ge2e import device_name, in_batches, unit_rows
from cluster.errors import RushesError, StageError
from cluster.types import SAMPLE_RATE_HZ

T = TypeVar("T")
PARTS = ("segmentation", "embedding", "plda")
BUCKETS_S = (1, 2, 4, 8, 16, 30)
CHUNK_S = 10
POOLING = "tile to 1, 2, 4, 8, 16 or 30 s, the middle 30 s of longer ones, one pass, unit vector, v1"


class PyannoteVoices:
    """Voice vectors from a pyannote embedding model, WeSpeaker ResNet as a rule.

    `calls` counts forward passes. On a CPU waveforms go one by one: larger batches are slower there.
    """

    def __init__(self, folder: Path, batch_size: int = 32, threads: int = 1, device: str = "auto") -> None:
        """Load the model of `folder` in float32; raises `RushesError` when there is none."""
        if not (folder / "pytorch_model.bin").is_file():
            raise RushesError(f"no pytorch_model.bin in {folder}: name pyannote's embedding folder instead")
        self._device = _prepare(threads, device)
        from pyannote.audio.pipelines.speaker_verification import PretrainedSpeakerEmbedding

        self.calls = 0
        self.batch_size = _rows(batch_size, self._device)
        self.budget = Budget("voices", self.batch_size * CHUNK_S, "waveform")
        self._embedding: Any = PretrainedSpeakerEmbedding(str(folder), device=self._device)
        self.dimension = int(self._embedding.dimension)

    def embed(self, waveforms: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Unit vectors of 16 kHz int16 waveforms, shape (waveforms, dimension); NaN where none is.

        Every batch holds waveforms tiled to one length, so none depends on its neighbours, and has
        its full size, the last one by repetition: an odd one would claim another GPU workspace.
        """
        vectors = np.full((len(waveforms), self.dimension), np.nan, np.float32)
        for bucket, members in sorted(_by_bucket(waveforms).items()):
            while members:
                call = partial(self._batch, waveforms, members, bucket)
                # a unit of the budget is a second of audio, so one ceiling serves every length
                found = self.budget.run(call, self.batch_size, weight=bucket)
                vectors[members[: len(found)]] = found
                members = members[len(found) :]
        return unit_rows(vectors)

    def _batch(
        self, waveforms: Sequence[NDArray[Any]], members: list[int], bucket: int, size: int
    ) -> NDArray[np.float32]:
        """The model's vectors of the first `size` members, tiled to `bucket` seconds."""
        rows = members[:size]
        batch = [_tiled(waveforms[row], bucket * SAMPLE_RATE_HZ) for row in _filled(rows, size)]
        return self._forward(np.stack(batch))[: len(rows)]

    def _forward(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        self.calls += 1
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self._embedding(torch.from_numpy(batch[:, None]))


def load_pipeline(folder: Path, batch_size: int = 32, threads: int = 1, device: str = "auto") -> Any:
    """pyannote's speaker diarization pipeline of `folder`, on its device.

    Its attribute `budgets` holds the ceilings of its two models, in chunks of 10 s.

    Raises `RushesError` when the folder is no pipeline or refers to anything outside itself.
    """
    _check_folder(folder)
    target = _prepare(threads, device)
    from pyannote.audio import Pipeline

    pipeline: Any = Pipeline.from_pretrained(folder)
    pipeline.to(target)
    if _stackable(pipeline):
        pipeline.get_embeddings = partial(stacked_embeddings, pipeline)
    pipeline.budgets = {
        part: Budget("diarize", _rows(batch_size, target), f"chunk ({part})") for part in ("segmentation", "embedding")
    }
    for part, budget in pipeline.budgets.items():
        method = f"get_{part}s"
        setattr(pipeline, method, partial(_budgeted, pipeline, f"{part}_batch_size", budget, getattr(pipeline, method)))
    return pipeline


def _budgeted(pipeline: Any, attribute: str, budget: Budget, method: Callable[..., T], *args: Any, **options: Any) -> T:
    """`method(...)`, with the batch size that the pipeline keeps in `attribute` set by `budget`."""

    def call(size: int) -> T:
        setattr(pipeline, attribute, size)
        return method(*args, **options)

    return budget.run(call)


def diarize(
    pipeline: Any, waveform: NDArray[np.int16], min_speakers: int | None, max_speakers: int | None
) -> list[tuple[int, int, int]]:
    """(start_ms, end_ms, speaker) sorted by time, possibly overlapping, in order of appearance.

    Raises `StageError` above the 127 speakers that pyannote can number.
    """
    import torch

    samples = torch.from_numpy(waveform.astype(np.float32) / 32768)[None]
    file = {"waveform": samples, "sample_rate": SAMPLE_RATE_HZ, "uri": "asset"}
    try:
        output = pipeline(file, min_speakers=min_speakers, max_speakers=max_speakers)
    except OverflowError as error:
        raise StageError("pyannote found more than 127 speakers: give --max-speakers") from error
    duration_ms = len(waveform) * 1000 // SAMPLE_RATE_HZ
    return _numbered(getattr(output, "speaker_diarization", output), duration_ms)


def stacked_embeddings(
    pipeline: Any,
    file: Any,
    binary_segmentations: Any,
    exclude_overlap: bool = False,
    hook: Callable[..., None] | None = None,
) -> NDArray[np.float32]:
    """What `SpeakerDiarization.get_embeddings` gives, shape (chunks, speakers, dimension), cheaper."""
    import torch

    masks = _masks(pipeline, binary_segmentations, exclude_overlap)
    model = pipeline._embedding.model_
    # a speaker slot without a single frame pools to zeros, and the last layer leaves its bias
    silent = model.resnet.seg_1.bias.detach().cpu().numpy()
    embeddings = np.broadcast_to(silent, (*masks.shape[:2], len(silent))).copy()
    active = np.flatnonzero(masks.any(axis=(1, 2))).tolist()
    size = pipeline.embedding_batch_size
    total = math.ceil(len(active) / size)
    for done, chunks in enumerate(in_batches(active, size), 1):
        filled = _filled(chunks, size)
        waveforms = torch.stack([_crop(pipeline, file, binary_segmentations, chunk) for chunk in filled])
        batch = pipeline._embedding(waveforms, masks=torch.from_numpy(masks[filled]))[: len(chunks)]
        embeddings[chunks] = batch
        if hook is not None:
            hook("embeddings", batch, total=total, completed=done)
    return embeddings


def _masks(pipeline: Any, segmentations: Any, exclude_overlap: bool) -> NDArray[np.float32]:
    """Frame weights (chunks, speakers, frames), clean of overlap where enough is left, as upstream."""
    data = np.nan_to_num(segmentations.data, nan=0.0).astype(np.float32)
    masks = data.transpose(0, 2, 1)
    if exclude_overlap:
        samples = segmentations.sliding_window.duration * pipeline._embedding.sample_rate
        enough = math.ceil(data.shape[1] * pipeline._embedding.min_num_samples / samples)
        clean = masks * (masks.sum(axis=1, keepdims=True) < 2)
        masks = np.where(clean.sum(axis=2, keepdims=True) > enough, clean, masks)
    return np.ascontiguousarray(masks, np.float32)


def _crop(pipeline: Any, file: Any, segmentations: Any, chunk: int) -> Any:
    waveform, _ = pipeline._audio.crop(file, segmentations.sliding_window[chunk], mode="pad")
    return waveform


def _stackable(pipeline: Any) -> bool:
    """Whether the masks of a chunk may be stacked: only ResNets with one last layer take that."""
    from pyannote.audio.models.embedding.wespeaker import BaseWeSpeakerResNet
    from pyannote.audio.pipelines import SpeakerDiarization

    model = getattr(getattr(pipeline, "_embedding", None), "model_", None)
    if not (isinstance(pipeline, SpeakerDiarization) and isinstance(model, BaseWeSpeakerResNet)):
        return False
    resnet: Any = model.resnet
    return not resnet.two_emb_layer


def _numbered(annotation: Any, duration_ms: int) -> list[tuple[int, int, int]]:
    numbers: dict[Any, int] = {}
    turns = []
    for segment, _, label in annotation.itertracks(yield_label=True):
        start, end = max(0, round(segment.start * 1000)), min(duration_ms, round(segment.end * 1000))
        if start < end:
            turns.append((start, end, numbers.setdefault(label, len(numbers))))
    return turns


def _prepare(threads: int, device: str) -> Any:
    """torch's device; also keeps telemetry off, which must happen before pyannote is imported."""
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
    import torch

    torch.set_num_threads(threads)
    return torch.device(device_name(device))


def _rows(batch_size: int, device: Any) -> int:
    return batch_size if device.type == "cuda" else 1


def _check_folder(folder: Path) -> None:
    import yaml

    path = folder / "config.yaml"
    if not path.is_file():
        raise RushesError(f"no config.yaml in {folder}: name the folder of a pyannote pipeline")
    parameters = yaml.safe_load(path.read_text("utf-8"))["pipeline"].get("params", {})
    for part in PARTS:
        reference = str(parameters.get(part))
        inner = folder / reference.removeprefix("$model/")
        if not reference.startswith("$model/") or not inner.is_dir():
            raise RushesError(
                f"{path}: {part} is {reference}, which would be fetched from the hub: "
                f"put it beside config.yaml and write $model/{part}"
            )


def _by_bucket(waveforms: Sequence[NDArray[Any]]) -> dict[int, list[int]]:
    buckets: dict[int, list[int]] = defaultdict(list)
    for row, waveform in enumerate(waveforms):
        seconds = len(waveform) / SAMPLE_RATE_HZ
        buckets[next((size for size in BUCKETS_S if size >= seconds), BUCKETS_S[-1])].append(row)
    return buckets


def _tiled(waveform: NDArray[Any], length: int) -> NDArray[np.float32]:
    spare = max(0, len(waveform) - length) // 2
    samples = waveform[spare : spare + length].astype(np.float32)
    return np.resize(samples / np.float32(32768) if waveform.dtype == np.int16 else samples, length)


def _filled(rows: list[int], size: int) -> list[int]:
    """`size` rows: the given ones, then the same again."""
    return [rows[place % len(rows)] for place in range(size)]
