"""Which frames stand for a video: chosen while the frames pass by, so that only a few are held."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cluster.media.pictures import Keyframe, PictureSpec

if TYPE_CHECKING:
    from cluster.media.places import Shown

# A cut is often a short dissolve: half a second later the picture stands.
SETTLED_S = 0.5
# When a shot turns out shorter than twice that, its middle is nearest to one of these.
HELD_S = (0.0, 0.3, SETTLED_S)
MINUTE_S = 60.0

# A frame, its shot, and whether it is wanted even when it says nothing; None for one that is not.
Render = Callable[["Shown", int, bool], Keyframe | None]


class Choice:
    """Feeds keyframes to `take`, in order.

    Each shot gives the frame half a second after its start, or in the middle of a shorter one, and further
    ones so that a minute has at least `min_per_minute`. A frame that says nothing gives way to the next in its
    shot that does, and stands only for a shot without any. Where a minute would have more than
    `max_per_minute`, those nearest to others are dropped, those that say nothing first.
    """

    def __init__(self, spec: PictureSpec, render: Render, take: Callable[[Keyframe], None]) -> None:
        self._render, self._take = render, take
        # one shot's last keyframe and the next one's first may be half a second further apart
        self._step_s = max(SETTLED_S, MINUTE_S / spec.min_per_minute - SETTLED_S)
        self._most = max(1, int(spec.max_per_minute))
        self._window_ms = 1000 * MINUTE_S * max(1.0, 1 / spec.max_per_minute)
        self._recent: list[Keyframe] = []
        self._flushed_ms: int | None = None
        self._shot = -1
        self._start_s = self._next_s = 0.0
        self._held: dict[float, Shown] = {}
        self._flat: Keyframe | None = None
        self._has_any = False

    def add(self, shown: Shown, starts_shot: bool) -> None:
        """The next frame; `starts_shot` is True for the first."""
        at_s = shown.place.s
        if starts_shot:
            self._end_shot(at_s)
            self._shot, self._start_s, self._flat, self._has_any = self._shot + 1, at_s, None, False
            self._held = dict.fromkeys(HELD_S, shown)
        if self._held:
            elapsed_s = at_s - self._start_s
            self._held |= {offset: shown for offset in HELD_S if elapsed_s <= offset}
            if elapsed_s < 2 * SETTLED_S:
                return
            self._settle(elapsed_s)
        if at_s >= self._next_s:
            self._try(shown)

    def finish(self, end_s: float) -> None:
        """The end of the last frame; what is still held goes to `take`."""
        self._end_shot(end_s)
        for frame in self._recent:
            self._take(frame)
        self._recent = []

    def _settle(self, length_s: float) -> None:
        """Try the frame that stands for the start of a shot of at least this length."""
        wanted_s = min(SETTLED_S, length_s / 2)
        best = self._held[max(offset for offset in HELD_S if offset <= wanted_s)]
        self._held = {}
        self._try(best)

    def _try(self, shown: Shown) -> None:
        frame = self._render(shown, self._shot, self._flat is None and not self._has_any)
        if frame is not None and frame.is_informative:
            self._has_any = True
            self._next_s = shown.place.s + self._step_s
            self._accept(frame)
        else:
            self._flat = self._flat or frame
            self._next_s = shown.place.s + SETTLED_S

    def _end_shot(self, end_s: float) -> None:
        if self._held:
            self._settle(end_s - self._start_s)
        if self._flat is not None and not self._has_any:
            self._accept(self._flat)
        self._flat = None

    def _accept(self, frame: Keyframe) -> None:
        self._recent.append(frame)
        while self._recent[0].t_ms <= frame.t_ms - self._window_ms:
            self._flush()
        if len(self._recent) > self._most:
            del self._recent[self._most_crowded()]

    def _flush(self) -> None:
        frame = self._recent.pop(0)
        self._flushed_ms = frame.t_ms
        self._take(frame)

    def _most_crowded(self) -> int:
        times = [frame.t_ms for frame in self._recent]
        before = [self._flushed_ms, *times[:-1]]
        after: list[int | None] = [*times[1:], None]

        def room(index: int) -> tuple[bool, int, int]:
            near = [abs(times[index] - other) for other in (before[index], after[index]) if other is not None]
            return self._recent[index].is_informative, min(near, default=0), -index

        return min(range(len(times)), key=room)
