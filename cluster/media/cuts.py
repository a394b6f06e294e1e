"""Where one shot ends and the next begins, found while the frames pass by."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from PIL.Image import Image

    from cluster.media.places import Place
    from cluster.media.shown import Painter

# The defaults of PySceneDetect's ContentDetector, whose measure this is.
THRESHOLD = 27.0
SHORTEST_SHOT_S = 0.6
DETECTOR_ID = "content-hsv-1"
# Pillow counts hues to 255, OpenCV to 180.
_HUE = 180 / 256


class Cuts(Protocol):
    """Says of each frame, in order, whether a shot begins with it."""

    def starts_shot(self, frame: VideoFrame, place: Place) -> bool:
        """Called once per frame shown."""
        ...


class ContentCuts:
    """A cut is where hue, saturation and brightness change by more than 27 of 255 from one frame to the next.

    The mean over all pixels and the three channels, on a picture of 256 pixels in width; no shot is
    shorter than 0.6 s.
    """

    def __init__(self, painter: Painter) -> None:
        self._painter = painter
        self._before: Image | None = None
        self._since_s = 0.0

    def starts_shot(self, frame: VideoFrame, place: Place) -> bool:
        """Whether the frame differs from the one before it as a new shot does; the first one always does."""
        now, before = self._painter.small(frame).convert("HSV"), self._before
        self._before = now
        if before is None:
            self._since_s = place.s
            return True
        if place.s - self._since_s < SHORTEST_SHOT_S or difference(before, now) < THRESHOLD:
            return False
        self._since_s = place.s
        return True


class GivenCuts:
    """Shots that begin with frames of these numbers, and with the first."""

    def __init__(self, numbers: Collection[int]) -> None:
        self._numbers = {0, *numbers}

    def starts_shot(self, frame: VideoFrame, place: Place) -> bool:
        """Whether it is one of them."""
        return place.number in self._numbers


def difference(one: Image, other: Image) -> float:
    """The mean change from one HSV picture to the other, of 255; everything when their sizes differ."""
    from PIL.ImageChops import difference as changes
    from PIL.ImageStat import Stat

    if one.size != other.size:
        return 255.0
    hue, saturation, value = Stat(changes(one, other)).mean
    return (hue * _HUE + saturation + value) / 3
