"""Where each frame of a video stands: its timestamp, made good where it is missing, and when it is shown.

A player shows at time t the last frame whose timestamp is not after t. Times count from the asset's start,
as those of the sound do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from cluster.errors import BadMediaError
from cluster.media.reading import start_s
from cluster.media.timeline import LONGEST_GAP_S

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# Containers state their start in whole microseconds.
TICK_MS = Fraction(1, 1000)
# A step back that is longer starts the timestamps again, a shorter one is a frame out of order.
RESTART_S = 1.0
# Past the end that the container states, a longer step forward is a damaged timestamp.
JUMP_S = 10.0
# What a time in milliseconds may be, as 32 bits.
LONGEST_MS = 24 * 86_400_000
SLOWEST_FPS, FASTEST_FPS, USUAL_FPS = Fraction(1, 100), 1000, 25


class Place(NamedTuple):
    """`pts` in the stream's time base; `ms` exact from the asset's start; `number` counts the frames shown."""

    pts: int
    ms: Fraction
    number: int

    @property
    def t_ms(self) -> int:
        """The first whole millisecond at which the frame is shown, never before the asset's start."""
        return max(0, math.ceil(self.ms - TICK_MS))

    @property
    def s(self) -> float:
        """Seconds from the asset's start."""
        return float(self.ms) / 1000


class Shown(NamedTuple):
    """A frame, its place, and the millisecond at which the next one takes over."""

    frame: VideoFrame
    place: Place
    until_ms: int


class Clock:
    """Gives each decoded frame its timestamp; the same frames in the same order get the same ones."""

    def __init__(self, container: InputContainer, track: VideoStream) -> None:
        self.time_base = time_base(track)
        self._zero_ms = Fraction(round(start_s(container) * 10**6), 1000)
        self._end_ms = container.duration / 1000 if container.duration else math.inf
        rate = track.average_rate or track.guessed_rate or USUAL_FPS
        if not SLOWEST_FPS <= rate <= FASTEST_FPS:
            rate = USUAL_FPS
        self.step = max(1, round(1 / (rate * self.time_base)))
        self._first = track.start_time or 0
        self._last: int | None = None
        self._shift = 0

    def ms(self, pts: int) -> Fraction:
        """Milliseconds from the asset's start."""
        return pts * self.time_base * 1000 - self._zero_ms

    def pts_at(self, ms: int) -> int:
        """The timestamp of a time after the asset's start."""
        return math.floor((ms + TICK_MS + self._zero_ms) / 1000 / self.time_base)

    def pts(self, frame: VideoFrame) -> int | None:
        """The frame's timestamp in the stream, made good; None for a frame that comes out of order."""
        expected = self._first if self._last is None else self._last + self.step
        stated = frame.pts if frame.pts is not None else frame.dts
        at = expected if stated is None else stated + self._shift
        if self._last is not None:
            late_s = float((at - self._last) * self.time_base)
            beyond_end = late_s > JUMP_S and self.ms(at) > self._end_ms
            if late_s < -RESTART_S or late_s > LONGEST_GAP_S or beyond_end:
                self._shift += expected - at
                at = expected
            elif late_s <= 0:
                return None
        if self.ms(at) > LONGEST_MS:
            raise BadMediaError(f"its timestamps reach beyond {LONGEST_MS // 86_400_000} days")
        self._last = at
        return at


def shown(frames: Iterable[VideoFrame], clock: Clock) -> Iterator[Shown]:
    """The frames that a player shows at some whole millisecond, in order.

    Those before the asset's start are left out, but for the last when nothing else is shown at the start.
    """
    held: tuple[VideoFrame, Place] | None = None
    number = 0
    for frame in frames:
        pts = clock.pts(frame)
        if pts is None:
            continue
        place = Place(pts, clock.ms(pts), number)
        if held is not None and place.t_ms > held[1].t_ms:
            yield Shown(*held, place.t_ms)
            number += 1
            place = place._replace(number=number)
        held = frame, place
    if held is not None:
        after = Place(held[1].pts + clock.step, clock.ms(held[1].pts + clock.step), number)
        yield Shown(*held, max(after.t_ms, held[1].t_ms + 1))


def time_base(track: VideoStream) -> Fraction:
    """Seconds per unit of the stream's timestamps."""
    return track.time_base or Fraction(1, 90_000)
