"""Sound to 16 kHz mono int16; runs inside the media child, never in the caller's process.

Sample n of the result is sound at n / 16000 s after the start of the asset: a stream that starts late
or pauses gets silence, so that subtitles made from it match the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.errors import BadMediaError
from cluster.media.hashing import Stamp
from cluster.media.probe import open_media, reason
from cluster.media.reading import Damage, frames, only, start_s
from cluster.media.timeline import Pcm, Timeline

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

DECODER_ID = "pyav-s16-mono-16k-1"
# Below, a few bytes would become hours; above, the resampler fails. Recorders use 8,000 to 768,000.
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000, 12_000_000
MOST_MIXED = 16


@dataclass(frozen=True, slots=True)
class DecodedPcm:
    """What was written: the number of samples, the SHA-256 of their bytes, the packets left out; from which file."""

    samples: int
    sha256: str
    skipped_packets: int
    stamp: Stamp


def decode_audio(path: str, stream: int, sink: int, limit_bytes: int) -> DecodedPcm:
    """Decode one stream and write int16 little-endian mono samples at 16 kHz to descriptor `sink`.

    Damaged packets are left out and counted; what they held becomes silence. Several channels are mixed
    with FFmpeg's own gains (which never clip). Raises `BadMediaError` when nothing could be decoded,
    `MediaResourceError` when the result would pass `limit_bytes`, `OSError` for an unreadable file and
    one that is written to meanwhile.
    """
    with open_media(path) as (container, stamp), open(sink, "wb", buffering=1 << 20, closefd=False) as file:
        track = sound_track(container, stream)
        damage = Damage(path)
        pcm = Pcm(file, limit_bytes)
        timeline = Timeline(pcm, start_s(container), end_s(container))
        for frame in frames(container, track, damage):
            add_sound(timeline, frame, damage)
        timeline.flush()
        damage.settle()
        if timeline.frames == 0:
            why = f": {damage.last}" if damage.last else ""
            raise BadMediaError(f"no sound could be decoded from stream {stream}{why}")
        return DecodedPcm(pcm.samples, pcm.digest.hexdigest(), damage.packets, stamp)


def add_sound(timeline: Timeline, frame: AudioFrame, damage: Damage) -> None:
    """Put the frame in its place; what cannot be resampled is left out like a damaged packet."""
    from av import FFmpegError

    if not LOWEST_RATE_HZ <= frame.sample_rate <= HIGHEST_RATE_HZ:
        damage.skip(f"a sampling rate of {frame.sample_rate} Hz, sound has {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ}")
        return
    try:
        timeline.add(_averaged(frame) if len(frame.layout.channels) > MOST_MIXED else frame)
    except MemoryError:
        raise
    except FFmpegError as error:
        damage.skip(f"{len(frame.layout.channels)} channels cannot be mixed into one: {reason(error)}")


def _averaged(frame: AudioFrame) -> AudioFrame:
    """The mean of all channels as one: multitrack recorders write more than FFmpeg mixes by itself."""
    import numpy as np
    from av.audio.frame import AudioFrame

    channels = len(frame.layout.channels)
    if frame.layout.name != f"{channels} channels" or frame.format.is_planar:
        return frame
    sound = frame.to_ndarray().reshape(-1, channels)
    if sound.dtype.kind != "f":
        zero, loudest = 128 if sound.dtype == np.uint8 else 0, 2.0 ** (8 * sound.dtype.itemsize - 1)
        sound = (sound.astype(np.float64) - zero) / loudest
    mixed = AudioFrame.from_ndarray(sound.mean(axis=1, dtype=np.float64).astype(np.float32)[None], "fltp", "mono")
    mixed.sample_rate, mixed.pts, mixed.time_base = frame.sample_rate, frame.pts, frame.time_base
    return mixed


def sound_track(container: InputContainer, stream: int) -> AudioStream:
    """The stream to decode, every other one left out; `BadMediaError` when it is no sound."""
    from av.audio.stream import AudioStream

    track = container.streams[stream] if 0 <= stream < len(container.streams) else None
    if not isinstance(track, AudioStream) or track.codec_context is None:
        raise BadMediaError(f"stream {stream} is no sound that can be decoded")
    only(container, track)
    return track


def end_s(container: InputContainer) -> float | None:
    """Where the sound ends at the latest; a timestamp beyond it is damaged."""
    return container.duration / 1e6 + 1.0 if container.duration else None
