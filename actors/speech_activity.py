"""Where somebody speaks: Silero VAD, as packaged in faster-whisper, run once per asset.

The thresholds are Silero's own defaults, but for shorter shortest regions: a lone "hello" of a
telephone call is 190 ms long. The model runs over pieces of the audio with its state carried from
one to the next, so an asset of hours costs the memory of one piece and gives what one pass gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.types import SAMPLE_RATE_HZ, waveform, with_column

FRAME = 512
CONTEXT = 64
STATE = 128
FRAMES_PER_PIECE = 4_096
SPEECH_ABOVE = 0.5
SILENCE_BELOW = 0.35
MIN_SILENCE_MS = 100
MIN_SPEECH_MS = 100
PAD_MS = 30


class SpeechActivity:
    """Stage: `audio` -> `speech`, sorted regions {start_ms, end_ms} that do not overlap.

    `threads` is accepted because every speech stage takes it; faster-whisper opens Silero's session
    with one thread, which also keeps its result the same everywhere.
    """

    name = "speech_activity"
    version = 1
    lanes = frozenset({"speech"})
    needs = ("audio",)
    adds = ("speech",)
    drops = ()

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._session: Any = None

    def identity(self) -> dict[str, Any]:
        """The model and every threshold."""
        return {
            "model": "silero-vad-v6",
            "speech_above": SPEECH_ABOVE,
            "silence_below": SILENCE_BELOW,
            "min_silence_ms": MIN_SILENCE_MS,
            "min_speech_ms": MIN_SPEECH_MS,
            "pad_ms": PAD_MS,
        }

    def load(self) -> None:
        """Open the packaged model."""
        from faster_whisper.vad import get_vad_model

        self._session = get_vad_model().session

    def process(self, table: pa.Table) -> pa.Table:
        """Fill `speech`; silent or empty audio gives an empty list."""
        speech = [self.regions(waveform(table, row)) for row in range(table.num_rows)]
        return with_column(table, "speech", speech)

    def close(self) -> None:
        """Let go of the session."""
        self._session = None

    def regions(self, audio: np.ndarray) -> list[dict[str, int]]:
        """Speech regions, in ms, of int16 `audio` of shape (samples,) at 16 kHz."""
        spans = _padded(_spoken(self._probabilities(audio), len(audio)), len(audio))
        regions = [(start * 1000 // SAMPLE_RATE_HZ, end * 1000 // SAMPLE_RATE_HZ) for start, end in spans]
        return [{"start_ms": start, "end_ms": end} for start, end in regions if start < end]

    def _probabilities(self, audio: np.ndarray) -> np.ndarray:
        """One speech probability per frame of 32 ms, float32 (frames,); the last frame is zero-padded."""
        h = c = np.zeros((1, 1, STATE), np.float32)
        context = np.zeros(CONTEXT, np.float32)
        outputs = [np.empty(0, np.float32)]
        for frames in _pieces(audio):
            before = np.vstack((context, frames[:-1, -CONTEXT:]))
            context = frames[-1, -CONTEXT:]
            given = {"input": np.hstack((before, frames)), "h": h, "c": c}
            output, h, c = self._session.run(None, given)
            outputs.append(output.reshape(-1))
        return np.concatenate(outputs)


def _pieces(audio: np.ndarray) -> Iterator[np.ndarray]:
    """float32 (frames, 512) in [-1, 1), at most `FRAMES_PER_PIECE` frames at a time."""
    step = FRAMES_PER_PIECE * FRAME
    for start in range(0, len(audio), step):
        piece = audio[start : start + step].astype(np.float32) / 32768.0
        yield np.pad(piece, (0, -len(piece) % FRAME)).reshape(-1, FRAME)


def _spoken(probabilities: np.ndarray, samples: int) -> list[tuple[int, int]]:
    """Sample spans by Silero's hysteresis (`get_speech_timestamps` without a longest region)."""
    spans: list[tuple[int, int]] = []
    start = silent_since = None
    for index, probability in enumerate(probabilities.tolist()):
        at = index * FRAME
        if probability >= SPEECH_ABOVE:
            start, silent_since = at if start is None else start, None
        elif start is not None and probability < SILENCE_BELOW:
            silent_since = at if silent_since is None else silent_since
            if at - silent_since >= _samples(MIN_SILENCE_MS):
                spans.append((start, silent_since))
                start = silent_since = None
    if start is not None:
        spans.append((start, samples))
    return [(start, end) for start, end in spans if end - start > _samples(MIN_SPEECH_MS)]


def _padded(spans: list[tuple[int, int]], samples: int) -> list[tuple[int, int]]:
    """Each span widened by `PAD_MS`, or to the middle of the gap where that is nearer."""
    padded, floor = [], 0
    for index, (start, end) in enumerate(spans):
        middle = (end + spans[index + 1][0]) // 2 if index + 1 < len(spans) else samples
        padded.append((max(start - _samples(PAD_MS), floor), min(end + _samples(PAD_MS), middle)))
        floor = middle
    return padded


def _samples(milliseconds: int) -> int:
    return milliseconds * SAMPLE_RATE_HZ // 1000
