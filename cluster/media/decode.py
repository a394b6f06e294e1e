"""Sound to 16 kHz mono int16; runs inside the media child, never in the caller's process.

Sample n of the result is sound at n / 16000 s after the start of the asset: a stream that starts late
or pauses gets silence, so that subtitles made from it match the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.errors import BadMediaError
from cluster.media.hashing import Stamp
from cluster.media.probe import open_media, reason, translated, unreadable
from cluster.media.timeline import Pcm, Timeline

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.error import FFmpegError
    from av.packet import Packet

DECODER_ID = "pyav-s16-mono-16k-1"
PRIMING_S = 0.2
# Below, a few bytes would become hours; above, the resampler fails. Recorders use 8,000 to 768,000.
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000, 12_000_000
MOST_MIXED = 16
READ_ATTEMPTS = 16


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
        track = _track(container, stream)
        damage = _Damage(path)
        pcm = Pcm(file, limit_bytes)
        timeline = Timeline(pcm, _start_s(container), _end_s(container))
        for frame in _frames(container, track, damage):
            _add(timeline, frame, damage)
        timeline.flush()
        damage.settle()
        if timeline.frames == 0:
            why = f": {damage.last}" if damage.last else ""
            raise BadMediaError(f"no sound could be decoded from stream {stream}{why}")
        return DecodedPcm(pcm.samples, pcm.digest.hexdigest(), damage.packets, stamp)


@dataclass(slots=True)
class _Damage:
    """What could not be decoded, and FFmpeg's last word about it."""

    path: str
    packets: int = 0
    last: str = ""
    suspicious: bool = False

    def note(self, error: FFmpegError) -> None:
        """Go on after damage; want of memory is none."""
        if isinstance(error, MemoryError):
            raise translated(error, self.path) from error
        self.skip(reason(error))

    def note_reading(self, error: FFmpegError) -> None:
        """The same for an error of the demuxer, which alone can be one of the disk."""
        self.suspicious = self.suspicious or isinstance(error, OSError)
        self.note(error)

    def settle(self) -> None:
        """Raise `OSError` when what looked like damage was a file that cannot be read to its end."""
        if self.suspicious and (trouble := unreadable(self.path)):
            raise trouble

    def skip(self, why: str) -> None:
        self.packets += 1
        self.last = why


def _add(timeline: Timeline, frame: AudioFrame, damage: _Damage) -> None:
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


def _track(container: InputContainer, stream: int) -> AudioStream:
    from av.audio.stream import AudioStream
    from av.stream import Discard

    track = container.streams[stream] if 0 <= stream < len(container.streams) else None
    if not isinstance(track, AudioStream) or track.codec_context is None:
        raise BadMediaError(f"stream {stream} is no sound that can be decoded")
    for other in container.streams:
        if other is not track:
            other.discard = Discard.all
    # Frame threads of PyAV 17.0.1 deadlocked, and one thread per decoder is what the plan counts on.
    track.codec_context.thread_count = 1
    return track


def _frames(container: InputContainer, track: AudioStream, damage: _Damage) -> Iterator[AudioFrame]:
    from av import FFmpegError

    for packet in _packets(container, track, damage):
        try:
            yield from track.decode(packet)
        except EOFError:
            return
        except FFmpegError as error:
            damage.note(error)


def _packets(container: InputContainer, track: AudioStream, damage: _Damage) -> Iterator[Packet]:
    """Every packet and the flushing one; a damaged place is stepped over while reading goes on."""
    from av import FFmpegError
    from av.packet import Packet

    attempts = READ_ATTEMPTS
    while attempts:
        reader = container.demux(track)
        while True:
            try:
                packet = next(reader, None)
            except FFmpegError as error:
                damage.note_reading(error)
                attempts -= 1
                break
            except IndexError:
                # PyAV 17 trips over a stream that appeared while it read, at the end of the file.
                attempts = 0
                break
            if packet is None:
                return
            attempts = READ_ATTEMPTS
            yield packet
    flush = Packet()
    flush.stream = track
    yield flush


def _start_s(container: InputContainer) -> float:
    """The asset's time zero; a slightly negative start is encoder delay, which players do not show."""
    start_s = (container.start_time or 0) / 1e6
    return 0.0 if -PRIMING_S < start_s < 0 else start_s


def _end_s(container: InputContainer) -> float | None:
    return container.duration / 1e6 + 1.0 if container.duration else None
