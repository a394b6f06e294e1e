"""What a file holds, by its content alone; runs inside the media child, never in the caller's process.

FFmpeg is given an open descriptor instead of a name: two names of one content cannot be read
differently, and a playlist cannot make it open another file or an address.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from cluster.errors import BadMediaError
from cluster.media.hashing import Stamp, open_regular, require_unchanged, stamp_of

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.error import FFmpegError
    from av.video.stream import VideoStream

_TAGS = ("com.apple.quicktime.creationdate", "creation_time", "date", "ICRD")
_EARLIEST, _LATEST = 1971, 2100
READ_BYTES = 1 << 20
# Packets that are decoded for a look at one frame.
LOOKED_AT = 256
# MPEG-4 files that hold a picture, not a film.
_STILL_BRANDS = frozenset({"heic", "heix", "heim", "heis", "mif1", "avif"})
# A header that states more lies, and deadlines and plans made from it would mean nothing. Silence as FLAC
# or Opus takes about 50 bytes for a second.
LONGEST_MS = 31 * 24 * 3_600_000
LEAST_BYTES_PER_S = 10
_NAME_DATE = re.compile(
    r"(?<!\d)(\d{4})([-_.]?)(\d\d)\2(\d\d)"
    r"(?:[T _-]{1,3}(\d\d)([-_.:h]?)(\d\d)[-_.:m]?(\d\d)(?:\d{3})?)?(?!\d)"
)


@dataclass(frozen=True, slots=True)
class Probe:
    """What a file holds; unknown values are None. `stamp` is the file that was looked at, all the while."""

    kind: Literal["video", "audio", "image"]
    container: str
    duration_ms: int | None
    audio_stream: int | None
    width: int | None
    height: int | None
    fps: float | None
    sample_rate_hz: int | None
    channels: int | None
    recorded_at: str | None
    stamp: Stamp


def probe(path: str) -> Probe:
    """Look into one file: `audio_stream` is the index of the stream that decoding will use.

    Cover art is no video; a file with still pictures alone is an image, and so is an animated one. Width and
    height are those of the picture as shown. `recorded_at` is the container's own tag, or the camera's. Raises
    `BadMediaError` for content without sound or pictures, `OSError` for an unreadable file.
    """
    return _probe_still(path) or _probe_streams(path)


def _probe_still(path: str) -> Probe | None:
    """An image that Pillow knows by its content: FFmpeg would decode it only to look at it."""
    from cluster.media.stills import still_header

    found = still_header(path)
    if found is None:
        return None
    header, stamp = found
    return Probe(
        kind="image",
        container=header.format,
        duration_ms=None,
        audio_stream=None,
        width=header.width,
        height=header.height,
        fps=None,
        sample_rate_hz=None,
        channels=None,
        recorded_at=_instant(header.taken_at),
        stamp=stamp,
    )


def _probe_streams(path: str) -> Probe:
    with open_media(path) as (container, stamp):
        audio = best_audio(container)
        video = best_video(container)
        picture = video or next((stream for stream in container.streams.video if stream.codec_context), None)
        if audio is None and picture is None:
            raise BadMediaError(_nothing_inside(container))
        _require_samples(path, container, [stream for stream in (audio, video or picture) if stream is not None])
        require_whole(container)
        still = _is_still(container) or (audio is None and video is None)
        width, height = _size_shown(container, picture) if picture and (video or still) else (None, None)
        return Probe(
            kind="image" if still else "video" if video else "audio",
            container=container.format.name,
            duration_ms=_duration_ms(container, stamp.byte_size),
            audio_stream=audio.index if audio else None,
            width=width,
            height=height,
            fps=_fps(video) if video and not still else None,
            sample_rate_hz=audio.sample_rate if audio else None,
            channels=audio.channels if audio else None,
            recorded_at=_tagged(container),
            stamp=stamp,
        )


@contextmanager
def open_media(path: str) -> Iterator[tuple[InputContainer, Stamp]]:
    """Open one file for demuxing, by descriptor, with its stamp.

    Raises `BadMediaError` with FFmpeg's reason, `OSError`, and at the end `ChangingError` when the file
    was written to meanwhile.
    """
    import av

    handle = open_regular(path)
    try:
        stamp = stamp_of(handle)
        if stamp.byte_size == 0:
            raise BadMediaError("the file is empty")
        try:
            options = {"fd": str(handle), "protocol_whitelist": "fd"}
            container = av.open("fd:", options=options, metadata_errors="replace")
        except av.FFmpegError as error:
            raise translated(error, path) from error
        with container:
            yield container, stamp
        require_unchanged(handle, stamp, path)
    finally:
        os.close(handle)


def translated(error: FFmpegError, path: str) -> Exception:
    """FFmpeg's error as ours: want of memory and true I/O errors keep their kind, all else is `BadMediaError`."""
    if isinstance(error, MemoryError):
        return MemoryError(
            "FFmpeg asked for more memory than it may have: a damaged file, or decode_memory_bytes is low"
        )
    if isinstance(error, OSError) and (trouble := unreadable(path)):
        return trouble
    return BadMediaError(f"not readable as audio or video: {reason(error)}")


def unreadable(path: str) -> OSError | None:
    """Why the bytes cannot be read, None when all of them can.

    FFmpeg's own numbers do not tell: its demuxers say EIO and its decoders EPERM or EAGAIN of damaged content.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            while file.read(READ_BYTES):
                pass
    except OSError as error:
        return OSError(error.errno, error.strerror, path)
    return None


def reason(error: FFmpegError) -> str:
    """FFmpeg's words for an error, with the last line of its log when there is one."""
    words = error.strerror or "unknown error"
    log: Any = error.log  # (level, library, message); PyAV's stub gives the pair of another call
    return f"{words} ({log[2].strip()})" if log and log[2].strip() else words


def recorded_at(
    tag: str | None, name: str, mtime_ns: int | None
) -> tuple[str | None, Literal["tag", "name", "mtime"] | None]:
    """When it was recorded (ISO 8601 with offset) and how that is known: container tag, name, mtime.

    Times without a zone are read as UTC. Dates before 1971 or after 2100 are unset clocks, not dates.
    """
    if stated := _instant(tag):
        return stated, "tag"
    if stated := next(filter(None, map(_from_name, _NAME_DATE.finditer(name))), None):
        return stated, "name"
    if mtime_ns is not None and (stated := _from_seconds(mtime_ns // 10**9)):
        return stated, "mtime"
    return None, None


def best_audio(container: InputContainer) -> AudioStream | None:
    """The sound to decode: default disposition first, then the highest rate."""
    from av.stream import Disposition

    def rank(stream: AudioStream) -> tuple[bool, int, int]:
        default = bool(stream.disposition & Disposition.default)
        return default, stream.sample_rate * stream.channels, stream.codec_context.bit_rate or 0

    decodable = [stream for stream in container.streams.audio if stream.codec_context is not None]
    return max(decodable, key=rank, default=None)


def best_video(container: InputContainer) -> VideoStream | None:
    """The moving pictures to decode: default disposition first, then the largest; cover art is none."""
    from av.stream import Disposition

    still = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image

    def rank(stream: VideoStream) -> tuple[bool, int]:
        return bool(stream.disposition & Disposition.default), stream.width * stream.height

    moving = (stream for stream in container.streams.video if not stream.disposition & still)
    return max((stream for stream in moving if stream.codec_context is not None), key=rank, default=None)


def require_whole(container: InputContainer) -> None:
    """Raise `BadMediaError` for a picture of tiles, which FFmpeg's decoders do not join: one is not the picture."""
    from av.stream import Disposition

    if _is_still(container) and any(one.disposition & Disposition.dependent for one in container.streams.video):
        raise BadMediaError("its picture is made of tiles that cannot be joined: save it anew, as JPEG or AVIF")


def _is_still(container: InputContainer) -> bool:
    return container.format.name.endswith("_pipe") or container.metadata.get("major_brand") in _STILL_BRANDS


def _size_shown(container: InputContainer, track: VideoStream) -> tuple[int, int]:
    """Width and height upright and with square pixels; only a decoded frame tells how it is turned."""
    from itertools import islice

    from av import FFmpegError

    from cluster.media.reading import only
    from cluster.media.shown import Painter, require_size

    require_size(track.width or 1, track.height or 1)
    only(container, track)
    try:
        container.seek(0)
        for packet in islice(container.demux(track), LOOKED_AT):
            for frame in track.decode(packet):
                return Painter(track).size(frame)
    except (FFmpegError, IndexError):
        pass
    return track.width, track.height


def _fps(stream: VideoStream) -> float | None:
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else None


def _nothing_inside(container: InputContainer) -> str:
    kinds = sorted({stream.type for stream in container.streams})
    return f"it holds neither sound nor pictures that can be decoded (only {', '.join(kinds) or 'a header'})"


def _require_samples(path: str, container: InputContainer, streams: Iterable[AudioStream | VideoStream]) -> None:
    from av import FFmpegError

    try:
        if any(packet.size for packet in container.demux(*streams)):
            return
    # PyAV 17 trips over a stream that appeared while it read, at the end of the file.
    except IndexError:
        pass
    except FFmpegError as error:
        raise translated(error, path) from error
    raise BadMediaError(f"it has a header ({container.format.name}) but no samples")


def _duration_ms(container: InputContainer, byte_size: int) -> int | None:
    lengths = [
        float(stream.duration * stream.time_base)
        for stream in (*container.streams.audio, *container.streams.video)
        if stream.duration and stream.time_base
    ]
    stated = (container.duration or 0) / 1e6
    length_ms = round((stated if stated > 0 else max(lengths, default=0.0)) * 1000)
    return length_ms if 0 < length_ms <= min(LONGEST_MS, byte_size * 1000 // LEAST_BYTES_PER_S) else None


def _tagged(container: InputContainer) -> str | None:
    places = [container.metadata, *(stream.metadata for stream in container.streams)]
    stated = (_instant(place.get(tag)) for tag in _TAGS for place in places)
    return next(filter(None, stated), None)


def _instant(text: str | None) -> str | None:
    if not text or not re.match(r"\d{4}-?\d\d-?\d\d", text.strip()):
        return None
    try:
        stated = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    stated = stated if stated.tzinfo else stated.replace(tzinfo=UTC)
    return stated.isoformat() if _EARLIEST <= stated.year <= _LATEST else None


def _from_name(found: re.Match[str]) -> str | None:
    year, _, month, day, hour, _, minute, second = found.groups()
    date = f"{year}-{month}-{day}"
    return (_instant(f"{date}T{hour}:{minute}:{second}") if hour else None) or _instant(date)


def _from_seconds(seconds: int) -> str | None:
    try:
        return _instant(datetime.fromtimestamp(seconds, UTC).isoformat())
    except (OverflowError, ValueError, OSError):
        return None
