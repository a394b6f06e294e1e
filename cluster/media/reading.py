"""Packets and frames of one stream, past damage; for sound and pictures, inside the media child."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from cluster.media.probe import reason, translated, unreadable

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.error import FFmpegError
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

PRIMING_S = 0.2
READ_ATTEMPTS = 16


@dataclass(slots=True)
class Damage:
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
        """Count one packet or frame that was left out."""
        self.packets += 1
        self.last = why


def only(container: InputContainer, track: AudioStream | VideoStream) -> None:
    """Let the demuxer pass by every other stream, and the decoder use one thread."""
    from av.stream import Discard

    for other in container.streams:
        if other is not track:
            other.discard = Discard.all
    # Frame threads of PyAV 17.0.1 deadlocked, and one thread per decoder is what the plan counts on.
    track.codec_context.thread_count = 1


@overload
def frames(container: InputContainer, track: AudioStream, damage: Damage) -> Iterator[AudioFrame]: ...
@overload
def frames(container: InputContainer, track: VideoStream, damage: Damage) -> Iterator[VideoFrame]: ...
def frames(container: InputContainer, track: AudioStream | VideoStream, damage: Damage) -> Iterator[Any]:
    """Every frame that can be decoded; what cannot is noted."""
    from av import FFmpegError

    for packet in packets(container, track, damage):
        try:
            yield from track.decode(packet)
        except EOFError:
            return
        except FFmpegError as error:
            damage.note(error)


def packets(container: InputContainer, track: AudioStream | VideoStream, damage: Damage) -> Iterator[Packet]:
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


def start_s(container: InputContainer) -> float:
    """The asset's time zero; a slightly negative start is encoder delay, which players do not show."""
    start_s = (container.start_time or 0) / 1e6
    return 0.0 if -PRIMING_S < start_s < 0 else start_s
