"""Still images of every common format as upright RGB; runs inside the media child.

Pillow reads what it knows by its content, FFmpeg the rest. An animated image (GIF, WebP, APNG) is an image:
its first frame stands for it.
"""

from __future__ import annotations

import os
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from cluster.errors import BadMediaError
from cluster.media.hashing import Stamp, open_regular, require_unchanged, stamp_of
from cluster.media.look import hash_of, pixels, thumbnail
from cluster.media.pictures import Keyframe, PictureSpec, Sink
from cluster.media.probe import open_media, require_whole, unreadable
from cluster.media.reading import Damage, frames, only
from cluster.media.shown import Painter, require_size

if TYPE_CHECKING:
    from PIL.Image import Image

# Formats with a signature of their own; those that name other files or run programs stay out (EPS, PDF, WMF).
FORMATS = (
    "JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "QOI", "ICO", "PSD",
)  # fmt: skip
# `mif1` is any picture in this container: AVIF, which Pillow reads, is named among the brands that follow.
_HEIF_HEAD = re.compile(rb".{4}ftyp(heic|heix|heim|heis|mif1(?!.*avif))", re.DOTALL)
_HEIF_HEAD_BYTES = 64
STILL_TIME_BASE = (1, 1000)
_ORIENTATION, _EXIF = 0x0112, 0x8769
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# As much as a JPEG can hold.
_EXIF_BYTES = 1 << 16
_TAKEN = ((0x9003, 0x9011), (0x9004, 0x9012))
_DATE = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d:\d\d:\d\d)")
_ZONE = re.compile(r"[+-]\d\d:\d\d")
_WIDE = 65_535


@dataclass(frozen=True, slots=True)
class StillHeader:
    """What an image says before it is decoded; the size is that of the upright picture."""

    format: str
    width: int
    height: int
    taken_at: str | None


def still_header(path: str) -> tuple[StillHeader, Stamp] | None:
    """The header of an image that Pillow knows, None for anything else.

    Raises `BadMediaError` for one that is too large, `OSError` for an unreadable file.
    """
    with _opened(path) as (image, stamp):
        if image is None:
            return None
        if image.format == "PNG" and not image.info.keys() & {"exif", "Raw profile type exif"}:
            # else Pillow decodes the picture to look behind it
            image.info["exif"] = _png_exif(path)
        width, height = image.size
        # Pillow tells the size of a TIFF upright, of all else as it is stored
        if image.format != "TIFF" and _orientation(image) >= 5:
            width, height = height, width
        return StillHeader((image.format or "").lower(), width, height, _taken_at(image)), stamp


def take_still(path: str, spec: PictureSpec, file: BinaryIO, limit_bytes: int, picked: bool = False) -> dict[str, Any]:
    """Everything about an image, written to `file`; the answer is for `read_row`. `picked`: pixels are all it is for.

    Raises `BadMediaError` for what cannot be decoded whole, `OSError` for an unreadable file.
    """
    picture, stamp = read_still(path)
    phash, informative = hash_of(picture.convert("L"))
    square = pixels(picture, spec.pixels) if spec.pixels else None
    sink = Sink(file, limit_bytes, spec.pixels)
    sink.add(Keyframe(None, 0, STILL_TIME_BASE, 0, phash, informative, thumbnail(picture), square))
    told = sink.finish() if picked else sink.finish(picture.size, [], [(0, phash)] if informative else [])
    return {**told, "skipped_packets": 0, "stamp": stamp}


def read_still(path: str) -> tuple[Image, Stamp]:
    """The picture, mode RGB, upright, and the stamp of its file; raises as `take_still` does."""
    with _opened(path) as (image, stamp):
        if image is not None:
            return _decoded(image, path), stamp
    return _by_ffmpeg(path)


@contextmanager
def _opened(path: str) -> Iterator[tuple[Image | None, Stamp]]:
    """Pillow's image, not yet decoded, or None when it knows no such content."""
    handle = open_regular(path)
    with os.fdopen(handle, "rb") as file:
        stamp = stamp_of(handle)
        if stamp.byte_size == 0:
            raise BadMediaError("the file is empty")
        with _own_bound():
            image = _known(file)
            if image is not None:
                require_size(*image.size)
            yield image, stamp
        require_unchanged(handle, stamp, path)


@contextmanager
def _own_bound() -> Iterator[None]:
    """Pillow's bound is one of the whole process; ours is checked before anything is decoded."""
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _known(file: BinaryIO) -> Image | None:
    from PIL import Image

    head = file.read(_HEIF_HEAD_BYTES)
    file.seek(0)
    try:
        if _HEIF_HEAD.match(head):
            # It joins the tiles that phones store; FFmpeg does not.
            from pi_heif import register_heif_opener

            # by itself it starts four threads, and none of them is in the plan
            register_heif_opener(decode_threads=0)
            return Image.open(file, formats=("HEIF",))
        return Image.open(file, formats=FORMATS)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - Pillow says what it does not know in a dozen ways
        return None


def _decoded(image: Image, path: str) -> Image:
    """Decode it whole; what is cut off or damaged is refused rather than filled up."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        image.load()
        turn = turns.get(_orientation(image))
        picture = _rgb(image)
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and (trouble := unreadable(path)):
            raise trouble from error
        kind = (image.format or "image").lower()
        raise BadMediaError(f"not readable as {kind}: {error or type(error).__name__}") from error
    return picture.transpose(turn) if turn is not None else picture


def _rgb(image: Image) -> Image:
    """8-bit RGB: transparent pixels over white, deeper ones scaled down."""
    if image.mode == "I" or image.mode == "F" or image.mode.startswith("I;"):
        return _scaled(image).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        from PIL import Image as Images

        seen = image.convert("RGBA")
        white = Images.new("RGBA", seen.size, (255, 255, 255, 255))
        return Images.alpha_composite(white, seen).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _scaled(image: Image) -> Image:
    """8-bit grey out of 16-bit, 32-bit or float grey; values outside the usual range stretch it."""
    import numpy as np
    from PIL import Image as Images

    values = np.nan_to_num(np.asarray(image).astype(np.float32), posinf=0.0, neginf=0.0)
    usual = 1.0 if image.mode == "F" else float(_WIDE)
    low, high = min(0.0, float(values.min())), max(usual, float(values.max()))
    return Images.fromarray(np.rint((values - low) * (255 / (high - low))).astype(np.uint8))


def _orientation(image: Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - damaged metadata is no reason to refuse a picture
        return 1


def _png_exif(path: str) -> bytes:
    """The EXIF of a PNG, which may stand behind the picture; empty when there is none."""
    with os.fdopen(open_regular(path), "rb") as file:
        file.seek(len(_PNG_SIGNATURE))
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                return file.read(min(length, _EXIF_BYTES))
            if kind == b"IEND":
                break
            file.seek(length + 4, os.SEEK_CUR)
    return b""


def _taken_at(image: Image) -> str | None:
    """When it was taken, as ISO 8601; the camera's own time, without a zone unless it tells one."""
    try:
        exif = image.getexif().get_ifd(_EXIF)
        stated = [(str(exif.get(tag, "")), str(exif.get(offset, ""))) for tag, offset in _TAKEN]
    except Exception:  # noqa: BLE001 - damaged metadata is no reason to refuse a picture
        return None
    for date, offset in stated:
        if found := _DATE.match(date):
            year, month, day, time = found.groups()
            zone = _ZONE.match(offset)
            return f"{year}-{month}-{day}T{time}{zone.group() if zone else ''}"
    return None


def _by_ffmpeg(path: str) -> tuple[Image, Stamp]:
    """The first frame of what FFmpeg calls pictures."""
    with open_media(path) as (container, stamp):
        track = next((stream for stream in container.streams.video if stream.codec_context), None)
        if track is None:
            raise BadMediaError("it holds no picture that can be decoded")
        require_whole(container)
        require_size(track.width or 1, track.height or 1)
        only(container, track)
        damage = Damage(path)
        frame = next(frames(container, track, damage), None)
        if frame is None or damage.packets:
            raise BadMediaError(f"no picture could be decoded{f': {damage.last}' if damage.last else ''}")
        damage.settle()
        return Painter(track).picture(frame), stamp
