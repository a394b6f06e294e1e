"""Where decoded sound goes: every frame to the place its timestamp says, as 16 kHz mono int16, bounded.

Runs inside the media child, never in the caller's process.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

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


@dataclass(slots=True)
class Pcm:
    """The samples written so far, bounded, with their digest."""

    file: BinaryIO
    limit_bytes: int
    samples: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def write(self, data: memoryview | bytes) -> None:
        """Append int16 little-endian samples; `MediaResourceError` when they would pass `limit_bytes`."""
        self.samples += len(data) // SAMPLE_BYTES
        if self.samples * SAMPLE_BYTES > self.limit_bytes:
            raise MediaResourceError(
                f"its sound takes more than {self.limit_bytes / 2**20:.0f} MiB decoded: "
                "raise decode_memory_bytes or split the file"
            )
        self.digest.update(data)
        self.file.write(data)

    def silence(self, samples: int) -> None:
        """Append that many zeros, none when it is negative."""
        while samples > 0:
            piece = min(samples, RATE_HZ)
            self.write(bytes(piece * SAMPLE_BYTES))
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
            self.pcm.silence(round(at_s * RATE_HZ) - self.pcm.samples)
            self.heard_s = at_s

    def _write(self, frame: AudioFrame | None) -> None:
        from av.audio.resampler import AudioResampler

        if self.resampler is None:
            self.resampler = AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
        for piece in self.resampler.resample(frame):
            if piece is not None:
                self.pcm.write(memoryview(piece.planes[0])[: piece.samples * SAMPLE_BYTES])
