"""Where decoded sound goes: every frame to the place its timestamp says, as int16, bounded; 16 kHz mono at ingest.

Runs inside the media child, never in the caller's process.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from cluster.errors import MediaResourceError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.resampler import AudioResampler

RATE_HZ = 16_000
SAMPLE_BYTES = 2
LEAD_S = 0.01
GAP_S = 0.1
JUMP_BACK_S = 10.0
# A longer pause inside a file is a damaged timestamp, not a pause.
LONGEST_GAP_S = 6 * 3600.0


class Sink(Protocol):
    """Takes samples; any binary file does."""

    def write(self, data: memoryview | bytes, /) -> object:
        """Take these bytes."""
        ...


@dataclass(slots=True)
class Pcm:
    """The samples written so far, bounded, with their digest; one sample has a value for each of the channels."""

    file: Sink
    limit_bytes: int
    rate_hz: int = RATE_HZ
    channels: int = 1
    samples: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return SAMPLE_BYTES * self.channels

    def write(self, data: memoryview | bytes) -> None:
        """Append int16 little-endian samples; `MediaResourceError` when they would pass `limit_bytes`."""
        self.samples += len(data) // self.sample_bytes
        if self.samples * self.sample_bytes > self.limit_bytes:
            raise MediaResourceError(
                f"its sound takes more than {self.limit_bytes / 2**20:.0f} MiB decoded: "
                "raise decode_memory_bytes or split the file"
            )
        self.digest.update(data)
        self.file.write(data)

    def silence(self, samples: int) -> None:
        """Append that many zeros, none when it is negative."""
        while samples > 0:
            piece = min(samples, self.rate_hz)
            self.write(bytes(piece * self.sample_bytes))
            samples -= piece


@dataclass(slots=True)
class Timeline:
    """Puts each frame where its timestamp says; small jitter is left alone."""

    pcm: Pcm
    start_s: float
    end_s: float | None
    frames: int = 0
    heard_s: float = 0.0
    shift_s: float = 0.0
    resampler: AudioResampler | None = None
    shape: tuple[str, str, int] | None = None

    def add(self, frame: AudioFrame) -> None:
        """Append the frame, after silence when it is late; FFmpeg's error when it cannot be resampled."""
        if frame.time is not None:
            self._place(frame.time - self.start_s + self.shift_s)
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if shape != self.shape:
            self.flush()
            self.shape = shape
        try:
            self._write(frame)
        except BaseException:
            self.resampler = self.shape = None
            raise
        self.heard_s += frame.samples / frame.sample_rate
        self.frames += 1

    def begin(self, at_s: float) -> None:
        """Count from a time after the asset's start: what comes before it is not read."""
        self.heard_s = at_s
        self.pcm.samples = round(at_s * self.pcm.rate_hz)

    def flush(self) -> None:
        """Append what the resampler still holds."""
        self._write(None)
        self.resampler = None

    def _place(self, at_s: float) -> None:
        late_s = at_s - self.heard_s
        beyond_end = self.end_s is not None and at_s > self.end_s
        if late_s < -JUMP_BACK_S or late_s > LONGEST_GAP_S or (beyond_end and late_s > GAP_S):
            self.shift_s -= late_s
        elif late_s > (GAP_S if self.frames else LEAD_S):
            self.flush()
            self.pcm.silence(round(at_s * self.pcm.rate_hz) - self.pcm.samples)
            self.heard_s = at_s

    def _write(self, frame: AudioFrame | None) -> None:
        from av.audio.resampler import AudioResampler

        if self.resampler is None:
            layout = "mono" if self.pcm.channels == 1 else "stereo"
            self.resampler = AudioResampler(format="s16", layout=layout, rate=self.pcm.rate_hz)
        for piece in self.resampler.resample(frame):
            if piece is not None:
                self.pcm.write(memoryview(piece.planes[0])[: piece.samples * self.pcm.sample_bytes])
