"""A part of a recording as a file of its own: MP4 with pictures, M4A or WAV with sound alone.

Runs inside the media child, never in the caller's process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from heapq import merge
from typing import TYPE_CHECKING, Any, Literal

from cluster.errors import BadMediaError, MediaResourceError
from cluster.media.clip_pictures import CannotCopyError, Film, copied, encoded
from cluster.media.clip_sound import Piece, write_wav
from cluster.media.hashing import ChangingError, Stamp
from cluster.media.moving import open_reel
from cluster.media.probe import translated

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet

Form = Literal["mp4", "m4a", "wav"]
MOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """What to cut: from `start_ms` until `end_ms` of the asset, with the sound of stream `audio_stream` if any."""

    form: Form
    start_ms: int
    end_ms: int
    audio_stream: int | None


@dataclass(frozen=True, slots=True)
class Clip:
    """What was written. `start_ms` is where it begins: that of the picture shown at the start, when it is copied."""

    size_bytes: int
    start_ms: float
    is_copied: bool
    stamp: Stamp


def cut_clip(path: str, spec: ClipSpec, anchor: Mapping[str, Any] | None, sink: int) -> Clip:
    """Write the part to descriptor `sink`, an empty file.

    WAV holds the samples that ingest heard, 16 kHz mono, and is read from the start of the recording. MP4 begins
    with the picture that a player shows at the start: H.264 is copied from the key frame before it, which an edit
    list hides, anything else becomes H.264; sound becomes AAC. `anchor` is a committed frame at or before the
    start, as `take_instant` takes it. Raises `BadMediaError` when there is nothing to write, `MediaResourceError`
    for more than `MOST_BYTES`, `OSError` for an unreadable file and one that is written to meanwhile.
    """
    if spec.form == "wav":
        if spec.audio_stream is None:
            raise BadMediaError("it has no sound")
        stamp = write_wav(path, spec.audio_stream, spec.start_ms, spec.end_ms, sink)
        return Clip(os.fstat(sink).st_size, spec.start_ms, False, stamp)
    if spec.form == "m4a":
        return _sound_alone(path, spec, sink)
    clip = None
    for take in (copied, partial(encoded, anchor=anchor), partial(encoded, anchor=None)):
        with suppress(CannotCopyError):
            clip = clip or _film(path, spec, take, sink)
    assert clip is not None
    return clip


def _sound_alone(path: str, spec: ClipSpec, sink: int) -> Clip:
    if spec.audio_stream is None:
        raise BadMediaError("it has no sound")
    with ExitStack() as stack:
        piece = stack.enter_context(_opened_sound(path, spec, Fraction(spec.start_ms)))
        out = stack.enter_context(_output(sink))
        _write(path, out, piece.packets(out))
    return Clip(os.fstat(sink).st_size, spec.start_ms, False, piece.stamp)


def _film(path: str, spec: ClipSpec, take: Callable[..., Film | None], sink: int) -> Clip | None:
    """The clip with the pictures that `take` gives; None when it gives none."""
    with ExitStack() as stack:
        reel = stack.enter_context(open_reel(path))
        film = take(reel, spec.start_ms, spec.end_ms)
        if film is None:
            return None
        piece = None
        if spec.audio_stream is not None:
            piece = stack.enter_context(_opened_sound(path, spec, film.start_ms))
            if piece.stamp != reel.stamp:
                raise ChangingError(f"{path} changed while it was read: ingest it again when it is complete")
        out = stack.enter_context(_output(sink))
        # every stream is there before the first packet, which writes the header
        tracks = [film.packets(out), *([piece.packets(out)] if piece else [])]
        _write(path, out, merge(*tracks, key=_when))
    return Clip(os.fstat(sink).st_size, float(film.start_ms), take is copied, reel.stamp)


def _opened_sound(path: str, spec: ClipSpec, start_ms: Fraction) -> Any:
    assert spec.audio_stream is not None
    return Piece.open(path, spec.audio_stream, start_ms, Fraction(spec.end_ms))


def _output(sink: int) -> OutputContainer:
    import av

    # By this name the muxer can open the file a second time, to move the index to its front.
    return av.open(f"/proc/self/fd/{sink}", "w", format="mp4", options={"movflags": "+faststart"})


def _write(path: str, out: OutputContainer, packets: Iterator[Packet]) -> None:
    from av import FFmpegError

    written = 0
    try:
        for packet in packets:
            written += packet.size
            if written > MOST_BYTES:
                raise MediaResourceError(f"the clip takes more than {MOST_BYTES >> 20} MiB: cut a shorter one")
            out.mux(packet)
    except FFmpegError as error:
        raise translated(error, path) from error


def _when(packet: Packet) -> Fraction:
    return (packet.dts or 0) * packet.time_base
