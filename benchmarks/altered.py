"""Altered copies of pictures and clips: what people and platforms do to them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from cluster.media.child import MediaChild
from cluster.media.pictures import PictureSpec

Picture = Image.Image


def _quality(picture: Picture, quality: int) -> Picture:
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=quality)
    return Image.open(target).convert("RGB")


def _smaller(picture: Picture, share: float) -> Picture:
    return picture.resize((round(picture.width * share), round(picture.height * share)), Image.Resampling.BICUBIC)


def _middle(picture: Picture, cut: float) -> Picture:
    """Without this share of its width and height, taken evenly from all sides."""
    across, down = round(picture.width * cut / 2), round(picture.height * cut / 2)
    return picture.crop((across, down, picture.width - across, picture.height - down))


def _brighter(picture: Picture, factor: float) -> Picture:
    return ImageEnhance.Brightness(picture).enhance(factor)


def _barred(picture: Picture) -> Picture:
    bar = picture.height // 6
    return ImageOps.expand(picture, (0, bar), "black")


PICTURES: Mapping[str, Callable[[Picture], Picture]] = {
    "resize to 50 %": lambda picture: _smaller(picture, 0.5),
    "JPEG quality 30": lambda picture: _quality(picture, 30),
    "crop 5 %": lambda picture: _middle(picture, 0.05),
    "crop 10 %": lambda picture: _middle(picture, 0.1),
    "crop 20 %": lambda picture: _middle(picture, 0.2),
    "mirror": ImageOps.mirror,
    "rotate 2 degrees": lambda picture: picture.rotate(2, Image.Resampling.BICUBIC),
    "rotate 90 degrees": lambda picture: picture.rotate(90, expand=True),
    "brightness +25 %": lambda picture: _brighter(picture, 1.25),
    "brightness -25 %": lambda picture: _brighter(picture, 0.75),
    "white border": lambda picture: ImageOps.expand(picture, round(picture.width * 0.05), "white"),
    "letterbox": _barred,
    "60 %, brighter, JPEG 50": lambda picture: _quality(_brighter(_smaller(picture, 0.6), 1.1), 50),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cut:
    """How a clip is made anew: its size, which share of its length goes at the start and the end, bars, frame rate."""

    scale: float = 1.0
    from_start: float = 0.0
    from_end: float = 0.0
    bars: float = 0.0
    fps: int | None = None
    codec: str = "mpeg4"
    bits_per_s: int = 400_000


CLIPS: Mapping[str, Cut] = {
    "half size": Cut(scale=0.5),
    "trim 10 % at the start": Cut(from_start=0.1),
    "trim 10 % at the end, half size": Cut(scale=0.5, from_end=0.1),
    "letterbox": Cut(bars=0.15),
    "other frame rate": Cut(fps=15),
    "low bit rate": Cut(bits_per_s=120_000),
    "a third out of the middle": Cut(scale=0.75, from_start=0.33, from_end=0.33),
}


def alter_picture(source: Path, target: Path, kind: str) -> Path:
    """Write an altered copy of a picture as JPEG; returns `target`."""
    with Image.open(source) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    PICTURES[kind](picture).save(target, "JPEG", quality=90)
    return target


def alter_clip(source: Path, target: Path, cut: Cut) -> Path:
    """Decode a clip and encode it anew; returns `target`."""
    import av

    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        rate = Fraction(cut.fps or stream.average_rate or 25)
        length_s = float((container.duration or 0) / av.time_base)
        end_s = length_s * (1 - cut.from_end)
        shown = _ticked(container.decode(stream), length_s * cut.from_start, end_s, float(1 / rate))
        pictures = (_shaped(frame.to_ndarray(format="rgb24"), cut) for frame in shown)
        return write_clip(target, pictures, rate, cut.codec, cut.bits_per_s)


def _ticked(frames: Iterable[Any], start_s: float, end_s: float, step_s: float) -> Iterator[Any]:
    """What is on screen at each tick from start to end, whatever rate the frames came at."""
    first_s, tick_s, last = None, start_s, None
    for frame in frames:
        first_s = frame.time if first_s is None else first_s
        while last is not None and tick_s < min(frame.time - first_s, end_s):
            yield last
            tick_s += step_s
        if tick_s >= end_s:
            return
        last = frame


def _shaped(pixels: Any, cut: Cut) -> Any:
    picture = _smaller(Image.fromarray(pixels), cut.scale)
    if cut.bars:
        picture = ImageOps.expand(picture, (0, round(picture.height * cut.bars)), "black")
    return np.asarray(picture)


def write_clip(path: Path, pictures: Iterator[Any], rate: Fraction, codec: str, bits_per_s: int) -> Path:
    """Encode RGB pictures of one size, uint8 (height, width, 3); odd sides lose a line. Returns `path`."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.pix_fmt, stream.bit_rate = "yuv420p", bits_per_s
        for number, picture in enumerate(pictures):
            height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
            if not number:
                stream.width, stream.height = width, height
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def look(reader: MediaChild, path: Path, kind: str, deadline_s: float = 300) -> dict[str, Any]:
    """The `frames` and `samples` of a file, as the pictures stage gives them; thumbnails are named, not stored."""
    row = reader.pictures(path, kind, PictureSpec(), deadline_s).table.to_pylist()[0]
    jpegs = {one["idx"]: hashlib.sha256(one["jpeg"]).hexdigest() for one in row["thumbnails"]}
    frames = [{**frame, "thumbnail_sha256": jpegs[frame["idx"]]} for frame in row["frames"]]
    return {"frames": frames, "samples": [(one["t_ms"], one["phash"]) for one in row["samples"]]}
