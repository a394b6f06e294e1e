"""The moving pictures of a part of a video as H.264: copied from the key frame before, or encoded anew.

Runs inside the media child, never in the caller's process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.media.clip_sound import SOUGHT
from cluster.media.instant import shown_from
from cluster.media.places import TICK_MS, Clock, Shown

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from PIL.Image import Image

    from cluster.media.moving import Reel

# What every browser shows; other pictures are encoded anew.
COPIED = "h264"
COPIED_PIXELS = frozenset({"yuv420p", "yuvj420p"})
# A player decodes all that comes before the start, unseen.
MOST_HIDDEN_MS = 20_000
MOST_HIDDEN_BYTES = 64 << 20
MOST_SIDE = 1920
# H.264 holds back sixteen pictures at most.
_MOST_UNDATED = 17
MS = Fraction(1, 1000)
_BT709, _VIDEO_RANGE = 1, 1
_ENCODER = {"preset": "veryfast", "crf": "23"}


class CannotCopyError(Exception):
    """These pictures have to be encoded anew."""


class _Timed(NamedTuple):
    """A packet with sound timestamps."""

    packet: Packet
    pts: int
    dts: int


@dataclass(frozen=True, slots=True)
class Film:
    """Pictures from `start_ms` on; `packets` adds their stream to an output and gives what goes there, from zero."""

    start_ms: Fraction
    packets: Callable[[OutputContainer], Iterator[Packet]]


def copied(reel: Reel, start_ms: int, end_ms: int) -> Film:
    """The pictures as they are. What comes before the one shown at the start has negative times.

    Raises `CannotCopyError` when a player might not show them, or not from the right one on.
    """
    context = reel.track.codec_context
    if context.name != COPIED or context.pix_fmt not in COPIED_PIXELS or reel.container.format.name not in SOUGHT:
        raise CannotCopyError
    clock = Clock(reel.container, reel.track)
    reading = _checked(reel)
    lead = _lead(reel, reading, clock, start_ms)
    seen = [one.pts for one in lead if not one.packet.is_discard and clock.ms(one.pts) <= start_ms + TICK_MS]
    if not seen:
        raise CannotCopyError
    zero = max(seen)

    def packets(out: OutputContainer) -> Iterator[Packet]:
        stream = out.add_stream_from_template(reel.track, opaque=True)

        def shifted() -> Iterator[Packet]:
            for packet, pts, dts in chain(lead, reading):
                if clock.ms(dts) >= end_ms:
                    return
                packet.pts, packet.dts, packet.stream = pts - zero, dts - zero, stream
                yield packet

        return shifted()

    return Film(max(clock.ms(zero), Fraction(0)), packets)


def _lead(reel: Reel, reading: Iterator[_Timed], clock: Clock, start_ms: int) -> list[_Timed]:
    """The packets from the key frame before the start until all that is shown by then is there."""
    reel.container.seek(clock.pts_at(start_ms), stream=reel.track)
    lead: list[_Timed] = []
    held_bytes = 0
    for timed in reading:
        if not lead and (not timed.packet.is_keyframe or clock.ms(timed.pts) > start_ms + TICK_MS):
            raise CannotCopyError
        lead.append(timed)
        held_bytes += timed.packet.size
        if start_ms - clock.ms(lead[0].pts) > MOST_HIDDEN_MS or held_bytes > MOST_HIDDEN_BYTES:
            raise CannotCopyError
        if clock.ms(timed.dts) > start_ms + TICK_MS:
            break
    return lead


def _checked(reel: Reel) -> Iterator[_Timed]:
    """Packets with sound timestamps; `CannotCopyError` at the first that has none, and for damage."""
    from av import FFmpegError

    last: int | None = None
    try:
        for packet in _dated(packet for packet in reel.container.demux(reel.track) if packet.size):
            if packet.pts is None or packet.dts is None or packet.is_corrupt:
                raise CannotCopyError
            if packet.dts > packet.pts or (last is not None and packet.dts <= last):
                raise CannotCopyError
            last = packet.dts
            yield _Timed(packet, packet.pts, packet.dts)
    except FFmpegError as error:
        raise CannotCopyError from error


def _dated(packets: Iterator[Packet]) -> Iterator[Packet]:
    """The packets, the first with decoding times of their own: Matroska has none, and they are known a little later."""
    waiting: list[Packet] = []
    for packet in packets:
        waiting.append(packet)
        if packet.dts is not None or len(waiting) > _MOST_UNDATED:
            break
    known = waiting[-1].dts if waiting else None
    for earlier, packet in enumerate(reversed(waiting[:-1]), 1):
        packet.dts = None if known is None else known - earlier * (packet.duration or 1)
    yield from waiting
    yield from packets


def encoded(reel: Reel, start_ms: int, end_ms: int, anchor: Mapping[str, Any] | None) -> Film | None:
    """The pictures that are shown in this time, upright, at most `MOST_SIDE` on a side.

    Read from `anchor` on, else from the start; None when the anchor is not found where its timestamp says.
    """
    all_shown = reel.shown() if anchor is None else shown_from(reel, anchor)
    if all_shown is None:
        return None
    pictures = _within(reel, all_shown, start_ms, end_ms)
    first = next(pictures)
    size = _size(first[1])

    def packets(out: OutputContainer) -> Iterator[Packet]:
        rate = reel.track.average_rate or Fraction(25)
        stream: Any = out.add_stream("libx264", rate=min(max(rate, Fraction(1)), Fraction(240)), options=_ENCODER)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        context = stream.codec_context
        context.time_base, context.thread_count = MS, 1
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _VIDEO_RANGE
        return _encode(stream, chain([first], pictures), size)

    return Film(Fraction(start_ms), packets)


def _within(reel: Reel, all_shown: Iterator[Shown], start_ms: int, end_ms: int) -> Iterator[tuple[int, Image]]:
    """(ms after the start, picture) of all that is shown then; a video that ended before leaves its last picture."""
    last: Shown | None = None
    given = False
    for last in all_shown:
        if last.place.t_ms >= end_ms:
            break
        if last.until_ms > start_ms:
            yield max(last.place.t_ms - start_ms, 0), reel.painter.picture(last.frame)
            given = True
    if last is None:
        raise reel.nothing()
    if not given:
        yield 0, reel.painter.picture(last.frame)


def _encode(stream: Any, pictures: Iterator[tuple[int, Image]], size: tuple[int, int]) -> Iterator[Packet]:
    from av.video.frame import VideoFrame
    from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

    scaler = VideoReformatter()
    for at_ms, picture in pictures:
        frame = VideoFrame.from_image(picture if picture.size == size else picture.resize(size))
        frame = scaler.reformat(
            frame,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation="BICUBIC",
            threads=1,
        )
        frame.pts, frame.time_base = at_ms, MS
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _size(picture: Image) -> tuple[int, int]:
    scale = min(1.0, MOST_SIDE / max(picture.size))
    width, height = (max(2, round(side * scale) // 2 * 2) for side in picture.size)
    return width, height
