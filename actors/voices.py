"""Voice vectors of segments: computed once per audio and span, batched over the whole asset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors import ge2e, pyannote_models
from actors.budget import Budget
from cluster import weights
from cluster.errors import RushesError, UsageError
from cluster.ports import EmptyVoiceCache, VoiceCache
from cluster.profiles import ModelChoice
from cluster.speakers.local_voices import Span as Speech
from cluster.speakers.local_voices import is_overlapped, overlapped_ms
from cluster.types import SAMPLE_RATE_HZ, waveform, with_column

SAMPLES_PER_MS = SAMPLE_RATE_HZ // 1000
SHORTEST_SAMPLES = 250 * SAMPLES_PER_MS
SILENT_RMS = 10 ** (-70 / 20) * 32768
POOLING = {"ge2e": ge2e.POOLING, "pyannote": pyannote_models.POOLING}

Span = tuple[int, int]


class VoiceEncoder(Protocol):
    """A resident model of voices."""

    dimension: int
    calls: int
    budget: Budget

    def embed(self, waveforms: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Unit vectors (waveforms, dimension); a row that is not finite means there is none."""
        ...


class Voices:
    """Stage: `audio`, `segments` -> one `voices` entry per segment, and how many the cache knew.

    An entry has a unit vector or a skip reason: `too_short` (under 250 ms of audio), `silent` (below
    -70 dBFS), `overlapped` (others talk over half of it) or `not_finite`. The audio ends here. `load`
    raises `RushesError` when the model's dimension is not the profile's; `calls` counts forward passes.
    """

    name = "voices"
    version = 2
    # Goes up when the vectors themselves change, and with them the space.
    space_version = 1
    lanes = frozenset({"voices"})
    needs = ("audio", "audio_sha256", "segments")
    adds = ("voices", "voice_cache_hits")
    drops = ("audio",)

    def __init__(self, choice: ModelChoice, cache: VoiceCache | None = None, threads: int = 1) -> None:
        """`cache` knows the vectors of one voice space; without one everything is computed."""
        if choice.engine not in POOLING:
            raise UsageError(f"unknown voice engine {choice.engine!r}; known: {', '.join(sorted(POOLING))}")
        self.choice = choice
        self.threads = threads
        self._cache = cache or EmptyVoiceCache()
        self._encoder: VoiceEncoder | None = None

    @property
    def calls(self) -> int:
        """Forward passes since `load`."""
        return self._encoder.calls if self._encoder else 0

    @property
    def halvings(self) -> int:
        """How often a batch did not fit the device, since `load`."""
        return self._encoder.budget.halvings if self._encoder else 0

    def identity(self) -> dict[str, Any]:
        """Engine, weights, pooling, sample rate, dimension."""
        return {
            "engine": self.choice.engine,
            "weights": weights.identity(self.choice.weights),
            "pooling": POOLING[self.choice.engine],
            "sample_rate_hz": SAMPLE_RATE_HZ,
            "dimension": self.choice.dimension,
        }

    def load(self) -> None:
        """Bring the model into memory, unless it is there."""
        if self._encoder is None:
            self._encoder = self._checked(self._opened())

    def process(self, table: pa.Table) -> pa.Table:
        """Fill `voices` and `voice_cache_hits`, row by row."""
        done = [self._row(table, row) for row in range(table.num_rows)]
        table = with_column(table, "voices", [voices for voices, _ in done])
        return with_column(table, "voice_cache_hits", [hits for _, hits in done])

    def close(self) -> None:
        """Let go of the model and of what the cache holds."""
        self._cache.close()
        self._encoder = None

    def embed_waveforms(self, waveforms: Sequence[NDArray[np.int16]]) -> NDArray[np.float32]:
        """Unit vectors (waveforms, dimension) of 16 kHz mono audio; a row of NaN where none is."""
        self.load()
        assert self._encoder is not None
        return self._encoder.embed(waveforms)

    def _row(self, table: pa.Table, row: int) -> tuple[list[dict[str, Any]], int]:
        audio = waveform(table, row)
        segments = table.column("segments")[row].as_py() or []
        spans = [_span(segment, len(audio)) for segment in segments]
        reasons = _skip_reasons(audio, segments, spans)
        known = self._cache.lookup(table.column("audio_sha256")[row].as_py())
        wanted = dict.fromkeys(span for span, reason in zip(spans, reasons, strict=True) if reason is None)
        vectors = {span: known[span] for span in wanted if span in known}
        hits = sum(span in vectors for span, reason in zip(spans, reasons, strict=True) if reason is None)
        vectors |= self._computed(audio, [span for span in wanted if span not in vectors])
        entries = zip(segments, spans, reasons, strict=True)
        return [_entry(segment["idx"], span, vectors, reason) for segment, span, reason in entries], hits

    def _computed(self, audio: NDArray[np.int16], spans: list[Span]) -> dict[Span, NDArray[np.float32]]:
        if not spans:
            return {}
        vectors = self.embed_waveforms([audio[start:end] for start, end in spans])
        return {span: vector for span, vector in zip(spans, vectors, strict=True) if np.isfinite(vector).all()}

    def _opened(self) -> VoiceEncoder:
        choice = self.choice
        path = weights.locate(choice.weights)
        if choice.engine == "ge2e":
            return ge2e.Ge2eEncoder(path, self.threads, choice.device)
        return pyannote_models.PyannoteVoices(path, choice.batch_size, self.threads, choice.device)

    def _checked(self, encoder: VoiceEncoder) -> VoiceEncoder:
        if self.choice.dimension not in (None, encoder.dimension):
            raise RushesError(
                f"voice model {self.choice.weights} gives {encoder.dimension} dimensions, profile "
                f"{self.choice.profile!r} says {self.choice.dimension}: "
                f"set RUSHES_VOICE_DIMENSION={encoder.dimension}, or name the model that was meant"
            )
        return encoder


def _span(segment: Mapping[str, Any], samples: int) -> Span:
    start, end = (min(max(segment[key] * SAMPLES_PER_MS, 0), samples) for key in ("start_ms", "end_ms"))
    return start, max(start, end)


def _skip_reasons(
    audio: NDArray[np.int16], segments: Sequence[Mapping[str, Any]], spans: Sequence[Span]
) -> list[str | None]:
    voiced = [Speech(one["start_ms"], one["end_ms"], one["local_speaker"]) for one in segments]
    shared_ms = overlapped_ms(voiced)
    return [
        _skip_reason(audio, span) or ("overlapped" if is_overlapped(one, ms) else None)
        for span, one, ms in zip(spans, voiced, shared_ms, strict=True)
    ]


def _skip_reason(audio: NDArray[np.int16], span: Span) -> str | None:
    start, end = span
    if end - start < SHORTEST_SAMPLES:
        return "too_short"
    piece = audio[start:end].astype(np.float64)
    return "silent" if np.sqrt(np.mean(np.square(piece))) < SILENT_RMS else None


def _entry(
    idx: int, span: Span, vectors: Mapping[Span, NDArray[np.float32]], skip_reason: str | None
) -> dict[str, Any]:
    vector = vectors.get(span) if skip_reason is None else None
    reason = None if vector is not None else skip_reason or "not_finite"
    return {
        "idx": idx,
        "start_sample": span[0],
        "end_sample": span[1],
        "vector": vector,
        "skip_reason": reason,
    }
