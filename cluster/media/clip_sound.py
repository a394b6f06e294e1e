"""The sound of a part of a recording: the samples of ingest as WAV, or that of the source as AAC.

Runs inside the media child, never in the caller's process.
"""

from __future__ import annotations

import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from cluster.errors import BadMediaError
from cluster.media.decode import add_sound, end_s, sound_track
from cluster.media.hashing import Stamp
from cluster.media.probe import open_media
from cluster.media.reading import Damage, frames, start_s
from cluster.media.timeline import RATE_HZ, SAMPLE_BYTES, Pcm, Timeline

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet

# What AAC knows and browsers play; other rates become the last one.
AAC_RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
# Decoders begin to sound right some packets after a jump.
PREROLL_S = 1.0
# Formats that keep a place for each timestamp; a jump in others may land anywhere, or beside a broken clock.
SOUGHT = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "wav", "flac"})


@dataclass(slots=True)
class Window(Pcm):
    """Keeps the samples from `first` until `last` alone."""

    first: int = 0
    last: int = 0

    def write(self, data: memoryview | bytes) -> None:
        """Write what falls into the window."""
        at, self.samples = self.samples, self.samples + len(data) // self.sample_bytes
        low, high = max(self.first - at, 0), max(self.last - at, 0)
        self.file.write(data[low * self.sample_bytes : high * self.sample_bytes])

    @property
    def is_full(self) -> bool:
        """Whether all that is asked for has come."""
        return self.samples >= self.last


def write_wav(path: str, stream: int, start_ms: int, end_ms: int, sink: int) -> Stamp:
    """The samples that `decode_audio` gives for this time, int16 mono 16 kHz, as a WAV file.

    Raises `BadMediaError` when the sound ends before it.
    """
    with (
        open_media(path) as (container, stamp),
        open(sink, "wb", closefd=False) as file,
        wave.open(file, "wb") as wav,
    ):
        wav.setnchannels(1)
        wav.setsampwidth(SAMPLE_BYTES)
        wav.setframerate(RATE_HZ)
        window = Window(_Frames(wav), 0, first=start_ms * RATE_HZ // 1000, last=end_ms * RATE_HZ // 1000)
        for _ in _reading(path, container, sound_track(container, stream), window):
            pass
        if window.samples <= window.first:
            raise BadMediaError(f"the sound ends at {window.samples / RATE_HZ:.3f} s, before it")
    return stamp


@dataclass(slots=True)
class _Frames:
    """A WAV file as a sink of samples."""

    wav: wave.Wave_write

    def write(self, data: memoryview | bytes, /) -> None:
        self.wav.writeframesraw(data)


@dataclass(slots=True)
class _Pieces:
    """Samples that wait to be taken."""

    waiting: list[bytes] = field(default_factory=list)

    def write(self, data: memoryview | bytes, /) -> None:
        if len(data):
            self.waiting.append(bytes(data))

    def take(self) -> list[bytes]:
        taken, self.waiting = self.waiting, []
        return taken


@dataclass(slots=True, eq=False)
class Piece:
    """The sound of a time, in the rate of its source, mono or stereo; silence where the source has none."""

    path: str
    container: InputContainer
    track: AudioStream
    stamp: Stamp
    start_ms: Fraction
    end_ms: Fraction

    @classmethod
    @contextmanager
    def open(cls, path: str, stream: int, start_ms: Fraction, end_ms: Fraction) -> Iterator[Piece]:
        """Open the stream; `BadMediaError` when it is no sound."""
        with open_media(path) as (container, stamp):
            yield cls(path, container, sound_track(container, stream), stamp, start_ms, end_ms)

    def packets(self, out: OutputContainer) -> Iterator[Packet]:
        """Add an AAC stream to `out`; its packets, from zero."""
        rate_hz = self.track.sample_rate if self.track.sample_rate in AAC_RATES_HZ else AAC_RATES_HZ[-1]
        channels = 1 if self.track.channels == 1 else 2
        stream: Any = out.add_stream("aac", rate=rate_hz, layout="mono" if channels == 1 else "stereo")
        return self._encoded(stream, rate_hz, channels)

    def _encoded(self, stream: Any, rate_hz: int, channels: int) -> Iterator[Packet]:
        pieces = _Pieces()
        first, last = (round(ms * rate_hz / 1000) for ms in (self.start_ms, self.end_ms))
        window = Window(pieces, 0, rate_hz, channels, first=first, last=max(last, first + 1))
        at = 0
        for _ in _reading(self.path, self.container, self.track, window, self._jump()):
            for data in pieces.take():
                yield from stream.encode(_frame(data, at, rate_hz, channels))
                at += len(data) // window.sample_bytes
        window.silence(window.last - window.samples)
        for data in pieces.take():
            yield from stream.encode(_frame(data, at, rate_hz, channels))
            at += len(data) // window.sample_bytes
        yield from stream.encode(None)

    def _jump(self) -> float | None:
        """Seconds of the asset to begin reading at, None for its start."""
        at_s = float(self.start_ms) / 1000 - PREROLL_S
        return at_s if at_s > 0 and self.container.format.name in SOUGHT else None


def _reading(
    path: str, container: InputContainer, track: AudioStream, window: Window, jump_s: float | None = None
) -> Iterator[None]:
    """Put frame after frame into the window, until it is full or the sound ends."""
    damage = Damage(path)
    timeline = Timeline(window, start_s(container), end_s(container))
    decoded = frames(container, track, damage)
    if jump_s is not None:
        container.seek(round((jump_s + timeline.start_s) / (track.time_base or Fraction(1, RATE_HZ))), stream=track)
    for frame in decoded:
        if jump_s is not None and frame.time is not None:
            timeline.begin(frame.time - timeline.start_s)
            jump_s = None
        add_sound(timeline, frame, damage)
        yield
        if window.is_full:
            return
    timeline.flush()
    damage.settle()
    yield


def _frame(data: bytes, at: int, rate_hz: int, channels: int) -> AudioFrame:
    import numpy as np
    from av.audio.frame import AudioFrame

    layout = "mono" if channels == 1 else "stereo"
    frame = AudioFrame.from_ndarray(np.frombuffer(data, "<i2")[None], "s16", layout)
    frame.sample_rate, frame.time_base, frame.pts = rate_hz, Fraction(1, rate_hz), at
    return frame
