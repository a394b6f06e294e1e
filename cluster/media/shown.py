"""Decoded video frames as they are shown: upright, with square pixels, one field of interlaced ones.

What comes out depends on the frame alone, so a frame met in passing and one sought give the same picture.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from cluster.errors import BadMediaError
from cluster.media.pictures import TINY_SHAPE

if TYPE_CHECKING:
    import numpy as np
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream
    from numpy.typing import NDArray
    from PIL.Image import Image

MOST_PIXELS = 2**28
DETECTOR_WIDTH = 256
_WIDEST_PIXEL = 8
# Quarter turns to the left.
_ROTATED = {1: (True, False, True), 2: (False, True, True), 3: (True, True, False)}


def require_size(width: int, height: int) -> None:
    """Raise `BadMediaError` for a picture that is too large to decode, or has no size at all."""
    if width < 1 or height < 1:
        raise BadMediaError(f"a picture of {width} x {height} pixels shows nothing")
    if width * height > MOST_PIXELS:
        raise BadMediaError(
            f"a picture of {width} x {height} pixels is larger than the {MOST_PIXELS:,} that are decoded: scale it down"
        )


class Painter:
    """Pillow images and arrays of the frames of one stream; holds the scalers, which are slow to set up.

    Each scales in the caller's thread: by itself it starts one per core, and none of them is in the plan or gives
    its stack back to the address space that the child may have.
    """

    def __init__(self, track: VideoStream) -> None:
        from av.video.reformatter import VideoReformatter

        self._ratio = _pixel_ratio(track)
        self._picture, self._grey = VideoReformatter(), VideoReformatter()
        self._small, self._tiny = VideoReformatter(), VideoReformatter()

    def picture(self, frame: VideoFrame) -> Image:
        """RGB, as shown."""
        return self._upright(frame, self._plain(frame, "rgb24", "RGB", self._picture))

    def grey(self, frame: VideoFrame) -> Image:
        """Luma of the full range, mode L, as shown."""
        return self._upright(frame, self._plain(frame, "gray", "L", self._grey))

    def small(self, frame: VideoFrame) -> Image:
        """RGB of at most 256 pixels in width, not upright, for comparing frames with each other."""
        from PIL.Image import frombytes

        scale = min(1.0, DETECTOR_WIDTH / frame.width)
        size = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
        out = self._small.reformat(frame, *size, "rgb24", interpolation="FAST_BILINEAR", threads=1)
        plane = out.planes[0]
        return frombytes("RGB", size, bytes(plane), "raw", "RGB", plane.line_size)

    def tiny(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """RGB of shape (27, 48, 3), as TransNetV2 takes it."""
        import numpy as np

        out = self._tiny.reformat(frame, TINY_SHAPE[1], TINY_SHAPE[0], "rgb24", interpolation="BICUBIC", threads=1)
        return np.asarray(out.to_ndarray(), np.uint8)

    def size(self, frame: VideoFrame) -> tuple[int, int]:
        """Width and height as shown."""
        width, height = _square(frame.width, frame.height, self._ratio)
        return (height, width) if _orientation(frame)[0] else (width, height)

    def _plain(self, frame: VideoFrame, form: str, mode: str, scaler: VideoReformatter) -> Image:
        from PIL.Image import frombytes

        require_size(frame.width, frame.height)
        out = scaler.reformat(frame, format=form, interpolation="BICUBIC", threads=1)
        plane, stride, height = out.planes[0], out.planes[0].line_size, frame.height
        if frame.interlaced_frame and height > 1:
            # twice the stride reads every second line: the first field alone
            stride, height = 2 * stride, height // 2
        data = memoryview(plane)[: stride * height]
        return frombytes(mode, (frame.width, height), data, "raw", mode, stride)

    def _upright(self, frame: VideoFrame, image: Image) -> Image:
        from PIL.Image import Resampling, Transpose

        size = _square(frame.width, frame.height, self._ratio)
        if image.size != size:
            image = image.resize(size, Resampling.BICUBIC)
        transposed, mirrored, upended = _orientation(frame)
        if transposed:
            image = image.transpose(Transpose.TRANSPOSE)
        if mirrored:
            image = image.transpose(Transpose.FLIP_LEFT_RIGHT)
        return image.transpose(Transpose.FLIP_TOP_BOTTOM) if upended else image


def _pixel_ratio(track: VideoStream) -> Fraction:
    ratio = track.sample_aspect_ratio or Fraction(1)
    return ratio if Fraction(1, _WIDEST_PIXEL) <= ratio <= _WIDEST_PIXEL else Fraction(1)


def _square(width: int, height: int, ratio: Fraction) -> tuple[int, int]:
    """The size with square pixels; the side that is too short is stretched, so that nothing is lost."""
    if ratio > 1:
        return round(width * ratio), height
    return (width, round(height / ratio)) if ratio < 1 else (width, height)


def _orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Whether to swap the axes, then to mirror, then to turn upside down, by the display matrix."""
    try:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV 18 does not know every kind of side data that FFmpeg 8 has, such as EXIF
        return _ROTATED.get(round(frame.rotation / 90) % 4, (False, False, False))
    if matrix is None:
        return False, False, False
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0
