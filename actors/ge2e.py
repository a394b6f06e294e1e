"""The GE2E voice encoder: three LSTM layers over 1.6 s of a 40-channel mel spectrogram.

Method: Wan et al., "Generalized End-to-End Loss for Speaker Verification", ICASSP 2018. Weights:
`pretrained.pt` of Resemblyzer 0.1.4. Its package is not imported: it needs a compiled webrtcvad.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.budget import Budget
from cluster.types import SAMPLE_RATE_HZ

DIMENSION = 256
MEL_CHANNELS = 40
FFT_SAMPLES = 400
HOP_SAMPLES = 160
PARTIAL_FRAMES = 160
PARTIAL_SAMPLES = PARTIAL_FRAMES * HOP_SAMPLES
PARTIAL_STEP_FRAMES = PARTIAL_FRAMES // 2
BATCH_PARTIALS = 64
BLOCK_FRAMES = 8192
TARGET_RMS = 10 ** (-30 / 20)
POOLING = "tile to a multiple of 1.6 s, partials of 1.6 s every 0.8 s, mean of unit vectors, v1"


class Ge2eEncoder:
    """Voice vectors from 16 kHz mono audio; `calls` counts the forward passes of the network."""

    dimension = DIMENSION

    def __init__(self, weights_path: Path, threads: int = 1, device: str = "auto", stage: str = "voices") -> None:
        """Load the network in float32 for `stage`. Sets torch's thread count, which is process-wide."""
        import torch

        torch.set_num_threads(threads)
        self.calls = 0
        self.budget = Budget(stage, BATCH_PARTIALS, "window of 1.6 s")
        self._device = torch.device(device_name(device))
        self._lstm, self._linear = _network(weights_path, self._device)
        self._filters = mel_filters().to(self._device)
        self._window = torch.hann_window(FFT_SAMPLES, device=self._device)

    def embed(self, waveforms: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """One unit vector per waveform, shape (waveforms, 256); a row of NaN where there is none.

        Waveforms are int16, or float32 in [-1, 1], of any length above zero. The partials of all
        of them share full batches; the result does not depend on what else is in the list.
        """
        counts = [2 * _buckets(len(waveform)) - 1 for waveform in waveforms]
        partials = self._forward(mel for waveform in waveforms for mel in self._partials(waveform))
        owner = np.repeat(np.arange(len(waveforms)), counts)
        sums = np.zeros((len(waveforms), DIMENSION), np.float32)
        np.add.at(sums, owner, partials)
        return unit_rows(sums)

    def embed_windows(self, waveform: NDArray[Any], starts_samples: NDArray[np.int64]) -> NDArray[np.float32]:
        """Unit vectors of the 1.6 s windows that begin at `starts_samples`, shape (windows, 256).

        The sorted starts are rounded down to 10 ms; what a window lacks at the end of the waveform
        is silence. Loudness is evened out per window, as `embed` does it per waveform.
        """
        return self._forward(mel for starts in _near(starts_samples) for mel in self._windows(waveform, starts))

    def _partials(self, waveform: NDArray[Any]) -> Iterator[Any]:
        samples = _floats(waveform)
        tiled = np.resize(samples * _gain(samples), _buckets(len(samples)) * PARTIAL_SAMPLES)
        mel = self._mel(tiled)
        for frame in range(0, len(mel) - PARTIAL_FRAMES, PARTIAL_STEP_FRAMES):
            yield mel[frame : frame + PARTIAL_FRAMES]

    def _windows(self, waveform: NDArray[Any], starts: Sequence[int]) -> Iterator[Any]:
        first = starts[0] // HOP_SAMPLES * HOP_SAMPLES
        samples = _floats(waveform[first : starts[-1] + PARTIAL_SAMPLES])
        samples = np.pad(samples, (0, starts[-1] + PARTIAL_SAMPLES - first - len(samples)))
        mel = self._mel(samples)
        for start in starts:
            frame = (start - first) // HOP_SAMPLES
            begin = frame * HOP_SAMPLES
            gain = _gain(samples[begin : begin + PARTIAL_SAMPLES])
            yield mel[frame : frame + PARTIAL_FRAMES] * gain**2

    def _mel(self, samples: NDArray[np.float32]) -> Any:
        """Mel power of shape (1 + samples // 160, 40), in blocks so that long audio stays small."""
        import torch

        padded = torch.from_numpy(np.pad(samples, FFT_SAMPLES // 2)).to(self._device)
        frames = padded.unfold(0, FFT_SAMPLES, HOP_SAMPLES)
        blocks = [
            torch.fft.rfft(block * self._window).abs().square() @ self._filters for block in frames.split(BLOCK_FRAMES)
        ]
        return torch.cat(blocks)

    def _forward(self, mels: Iterable[Any]) -> NDArray[np.float32]:
        """Unit vectors of shape (mels, 256) from mels of shape (160, 40), in full batches."""
        import torch

        rest, held = iter(mels), []
        parts = [np.empty((0, DIMENSION), np.float32)]
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            while held := held or list(islice(rest, self.budget.size)):
                parts.append(self.budget.run(partial(self._batch, held), len(held)))
                held = held[len(parts[-1]) :]
        return np.concatenate(parts)

    def _batch(self, mels: list[Any], size: int) -> NDArray[np.float32]:
        """The vectors of the first `size` mels, in one forward pass."""
        import torch

        self.calls += 1
        _, (hidden, _) = self._lstm(torch.stack(mels[:size]))
        return unit_rows(torch.relu(self._linear(hidden[-1])).cpu().numpy())


def mel_filters() -> Any:
    """The Slaney mel filters librosa uses, a float32 tensor of shape (201, 40)."""
    from torchaudio.functional import melscale_fbanks

    return melscale_fbanks(
        FFT_SAMPLES // 2 + 1, 0.0, SAMPLE_RATE_HZ / 2, MEL_CHANNELS, SAMPLE_RATE_HZ, "slaney", "slaney"
    )


def in_batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter; never holds more than one of them."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def _network(weights_path: Path, device: Any) -> tuple[Any, Any]:
    import torch

    state = torch.load(weights_path, map_location="cpu", weights_only=True)["model_state"]
    lstm = torch.nn.LSTM(MEL_CHANNELS, DIMENSION, 3, batch_first=True)
    linear = torch.nn.Linear(DIMENSION, DIMENSION)
    for name, module in (("lstm", lstm), ("linear", linear)):
        module.load_state_dict({key.partition(".")[2]: value for key, value in state.items() if key.startswith(name)})
        module.to(device).eval()
    return lstm, linear


def device_name(device: str) -> str:
    """torch's name of a device; `auto` is the GPU where there is one."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _near(starts: NDArray[np.int64]) -> Iterator[list[int]]:
    """The starts in runs of one batch, cut at gaps, so that no mel is computed for long silence."""
    values = [int(start) for start in starts]
    cuts = [i for i in range(1, len(values)) if values[i] - values[i - 1] > PARTIAL_SAMPLES]
    for begin, end in zip([0, *cuts], [*cuts, len(values)], strict=True):
        yield from in_batches(values[begin:end], BATCH_PARTIALS)


def _buckets(samples: int) -> int:
    return max(1, -(-samples // PARTIAL_SAMPLES))


def _floats(waveform: NDArray[Any]) -> NDArray[np.float32]:
    if waveform.dtype == np.int16:
        return waveform.astype(np.float32) / np.float32(32768)
    return waveform.astype(np.float32, copy=False)


def _gain(samples: NDArray[np.float32]) -> np.float32:
    """What brings quiet audio up to -30 dBFS; loud audio stays as it is."""
    rms = np.sqrt(np.mean(np.square(samples))) if len(samples) else np.float32(0)
    return np.float32(max(1.0, TARGET_RMS / rms)) if rms > 0 else np.float32(1)


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length one, shape kept; a zero row has no direction and becomes NaN."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.full_like(vectors, np.nan), where=norms > 0)
