"""Pictures and films for tests, drawn here, and a player that knows nothing of how they were taken."""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
# 96 x 64: green above, red at the left; made with libheif. The second one is to be turned a quarter to the right.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAVZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAA"
    "AAAERAAAEAAQAAAAABegABAAAAAAAAAGwAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA1mlwcnAA"
    "AAC3aXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkA"
    "AAAwAAAwAeoDCBBZbqSSmubgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHBcrAiQAAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABgAAAA"
    "QAAAABBwaXhpAAAAAAMICAgAAAAXaXBtYQAAAAAAAAABAAEEgQIDBAAAAHRtZGF0AAAAaCgBrxOAegumbxM1/7Mo//DLPDMxKRbmufRmFIwrq5"
    "opvdsG5HgN0WQ4IN/up1VfDISXYFjTuxN3/E4P9y+MQmQovGdJG3beinzVxPuFf7eoEVJW/Qv19Sd+kND9L0W2RF79VjwKouCw"
)
HEIC_TURNED = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAaFtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAA"
    "AAAERAAAIAAQAAAAABxQABAAAAAAAAAGwAAgAAAAACMQABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVp"
    "bmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAAA4GlwcnAAAADAaXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGE"
    "ABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAAAwAeoDCBBZbqSSmubgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHBcrAi"
    "QAAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABgAAAAQAAAABBwaXhpAAAAAAMICAgAAAAJaXJvdAMAAAAYaXBtYQAAAAAAAAABAA"
    "EFgQIDBIUAAAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAAAJhtZGF0AAAAaCgBrxOAegumbxM1/7Mo//DLPDMxKRbmufRmFIwrq5opvdsG5HgN"
    "0WQ4IN/up1VfDISXYFjTuxN3/E4P9y+MQmQovGdJG3beinzVxPuFf7eoEVJW/Qv19Sd+kND9L0W2RF79VjwKouCwAAAABkV4aWYAAE1NACoAAA"
    "AIAAEBEgADAAAAAQAGAAAAAAAA"
)


def scene(number: int, size: tuple[int, int] = (160, 120), shift: int = 0) -> Pixels:
    """A picture of its own kind for each number, RGB of shape (height, width, 3), moved by `shift` pixels."""
    width, height = size
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    drawn = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.roll(np.asarray(drawn), shift, axis=1)


def counted(number: int, size: tuple[int, int] = (160, 120)) -> Pixels:
    """A scene with its number as a bar, so that each frame of a film is another."""
    picture = scene(1, size).copy()
    picture[-size[1] // 4 :] = 16
    picture[-size[1] // 4 :, : 4 + number * 2 % (size[0] - 4)] = 235
    return picture


def write_film(
    path: Path,
    pictures: Sequence[Pixels],
    codec: str = "libx264",
    *,
    times_ms: Sequence[int] | None = None,
    fps: int = 25,
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    muxer: Mapping[str, str] | None = None,
    rotation: int | None = None,
    ratio: Fraction | None = None,
    interlaced: bool = False,
) -> Path:
    """Write pictures as a film; `times_ms` gives each its time, else they follow each other. Returns `path`."""
    import av

    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w", options=dict(muxer or {})) as container:
        stream: Any = container.add_stream(codec, rate=fps, options=dict(options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if ratio is not None:
            stream.codec_context.sample_aspect_ratio = ratio
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24").reformat(format=pix_fmt)
            frame.pts = number if times_ms is None else times_ms[number]
            frame.time_base = Fraction(1, fps) if times_ms is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def played(path: Path, t_ms: int) -> Image.Image:
    """What a player shows at a time: the last frame whose timestamp is not after it, turned as it says."""
    import av

    with av.open(str(path)) as container:
        stream = max(container.streams.video, key=lambda stream: stream.width * stream.height)
        stream.codec_context.thread_count = 1
        zero_s = (container.start_time or 0) / 1e6
        zero_s = 0.0 if -0.2 < zero_s < 0 else zero_s
        last = None
        for frame in container.decode(stream):
            if last is not None and frame.time is not None and frame.time > zero_s + t_ms / 1000 + 1e-6:
                break
            last = frame
        assert last is not None
        return last.to_image().rotate(last.rotation, expand=True)


def jpeg(picture: Image.Image | Pixels, quality: int = 92, **more: Any) -> bytes:
    """A picture as JPEG."""
    target = io.BytesIO()
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    image.save(target, "JPEG", quality=quality, **more)
    return target.getvalue()


def apart(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two pictures of one size, of 255."""
    first, second = (np.asarray(image.convert("RGB"), np.int16) for image in (one, other))
    assert first.shape == second.shape
    return float(np.abs(first - second).mean())


def tiled_heic() -> bytes:
    """Twice the picture of `HEIC` side by side, as phones store theirs: tiles, and an item that joins them."""
    inner = _boxes(HEIC[HEIC.index(b"meta") + 8 : HEIC.index(b"mdat") - 4])
    tile = HEIC[HEIC.index(b"mdat") + 4 :]
    grid = struct.pack(">BBBBHH", 0, 0, 0, 1, 192, 64)
    properties = _boxes(_boxes(inner[b"iprp"])[b"ipco"])
    ipco = b"".join(_box(kind, body) for kind, body in properties.items())
    ipco += _box(b"ispe", struct.pack(">III", 0, 192, 64))
    tied = bytes([4, 0x81, 2, 3, 4])
    ipma = struct.pack(">II", 0, 3) + b"\0\1" + tied + b"\0\2" + tied + b"\0\3" + bytes([1, 5])
    kinds = ((1, b"hvc1"), (2, b"hvc1"), (3, b"grid"))
    entries = b"".join(_box(b"infe", struct.pack(">IHH4sx", 2 << 24, item, 0, kind)) for item, kind in kinds)
    iref = _box(b"dimg", struct.pack(">HHHH", 3, 2, 1, 2))

    def meta(at: int) -> bytes:
        places = [(1, at, len(tile)), (2, at, len(tile)), (3, at + len(tile), len(grid))]
        iloc = struct.pack(">IBBH", 0, 0x44, 0, 3)
        iloc += b"".join(struct.pack(">HHHII", item, 0, 1, where, size) for item, where, size in places)
        return _box(
            b"meta",
            bytes(4)
            + _box(b"hdlr", inner[b"hdlr"])
            + _box(b"pitm", struct.pack(">IH", 0, 3))
            + _box(b"iloc", iloc)
            + _box(b"iinf", struct.pack(">IH", 0, 3) + entries)
            + _box(b"iref", bytes(4) + iref)
            + _box(b"iprp", _box(b"ipco", ipco) + _box(b"ipma", ipma)),
        )

    head = HEIC[: HEIC.index(b"meta") - 4]
    return head + meta(len(head) + len(meta(0)) + 8) + _box(b"mdat", tile + grid)


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _boxes(data: bytes) -> dict[bytes, bytes]:
    found, at = {}, 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        found[kind], at = data[at + 8 : at + size], at + size
    return found
