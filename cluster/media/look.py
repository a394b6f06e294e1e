"""What is kept of a picture: its hash, whether it says anything, a thumbnail, and a model's pixels."""

from __future__ import annotations

import io

import numpy as np
from PIL.Image import Image, Resampling

from cluster.media.borders import content_box
from cluster.media.phash import SIDE, phash
from cluster.media.pictures import PixelSpec

THUMBNAIL_PX = 320
THUMBNAIL_QUALITY = 80
# Borders and flatness are judged on a picture of about this size, where noise is averaged out.
JUDGED_PX = 256
# Standard deviation of luma, of 255: below it a picture is flat, such as black, a fade's end or a blank wall.
FLAT = 8.0
# A model's square of a picture longer than this shows next to nothing of it, but scaling it takes its length.
LONGEST_SHAPE = 32


def hash_of(grey: Image) -> tuple[bytes, bool]:
    """The pHash (8 bytes) of a picture of mode L without its borders, and whether it is informative."""
    factor = max(1, min(max(grey.size) // JUDGED_PX, *grey.size))
    judged = np.asarray(grey.reduce(factor) if factor > 1 else grey)
    top, bottom, left, right = content_box(judged)
    informative = bool(judged[top:bottom, left:right].std() >= FLAT)
    if (bottom - top, right - left) != judged.shape:
        width, height = grey.size
        box = left * factor, top * factor, min(right * factor, width), min(bottom * factor, height)
        grey = grey.crop(box)
    small = grey.resize((SIDE, SIDE), Resampling.LANCZOS)
    return phash(np.asarray(small)[None])[0].tobytes(), informative


def thumbnail(picture: Image) -> bytes:
    """A JPEG of an RGB picture, its longer side at most 320 pixels."""
    width, height = picture.size
    scale = min(1.0, THUMBNAIL_PX / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    target = io.BytesIO()
    picture.resize(size, Resampling.BICUBIC, reducing_gap=3.0).save(target, "JPEG", quality=THUMBNAIL_QUALITY)
    return target.getvalue()


def pixels(picture: Image, spec: PixelSpec) -> bytes:
    """RGB bytes of a model's square, the same as open_clip's own preprocessing before it normalises."""
    by = Resampling[spec.interpolation.upper()]
    if spec.resize == "squash":
        return picture.resize((spec.size, spec.size), by).tobytes()
    picture = _middle(picture, min(picture.size) * LONGEST_SHAPE)
    width, height = picture.size
    short, long = min(width, height), int(spec.size * max(width, height) / min(width, height))
    scaled = picture.resize((spec.size, long) if width == short else (long, spec.size), by)
    return _middle(scaled, spec.size).tobytes()


def _middle(picture: Image, side: int) -> Image:
    """The middle of a picture, at most `side` pixels wide and high; rounded as torchvision's `CenterCrop` does."""
    width, height = picture.size
    wide, high = min(width, side), min(height, side)
    if (wide, high) == (width, height):
        return picture
    left, top = round((width - wide) / 2.0), round((height - high) / 2.0)
    return picture.crop((left, top, left + wide, top + high))
