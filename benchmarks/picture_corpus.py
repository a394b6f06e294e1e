"""Pictures, short videos and long films of any number, each with content of its own, and an image model's weights.

Drawn pictures and a real film scaled up with grain: right for speed, not for what is recognised.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from jobs.demo import film_path

ARCHITECTURE = "ViT-B-32"
PICTURE_SIZE = (1280, 960)
FPS = 25
CLIP_S = 10
GRAIN = 16
# Bits per pixel and frame of what phones and cameras write.
BITS_PER_PIXEL = 0.2
SEED = 7


def write_pictures(folder: Path, count: int) -> Path:
    """`count` JPEGs of 1280 x 960 that no hash takes for each other; returns the folder."""
    folder.mkdir()
    rng = np.random.default_rng(SEED)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
        picture = np.asarray(coarse.resize(PICTURE_SIZE, Image.Resampling.BICUBIC))
        _grained(picture, number, rng).save(folder / f"{number:04}.jpg", quality=90)
    return folder


def write_clips(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """`count` clips of 10 s, H.264, 25 frames a second, one part of the film each; returns the folder."""
    folder.mkdir()
    rng = np.random.default_rng(SEED)
    with av.open(str(film_path())) as container:
        frames = container.decode(container.streams.video[0])
        for number in range(count):
            shown = islice(frames, CLIP_S * FPS)
            pictures = (_grained(_scaled(frame, size), one, rng) for one, frame in enumerate(shown))
            _write_clip(folder / f"{number}.mp4", pictures, size)
    return folder


def write_films(folder: Path, count: int) -> Path:
    """`count` copies of the whole film of 212 s with its sound, each a content of its own; returns the folder."""
    film = film_path().read_bytes()
    for number in range(count):
        # an empty box of MP4, which players pass over
        box = (16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big")
        (folder / f"film{number}.mp4").write_bytes(film + box)
    return folder


def write_weights(folder: Path) -> Path:
    """A checkpoint of ViT-B-32 with random weights: as fast as one that has learnt something."""
    import open_clip
    import torch

    folder.mkdir()
    path = folder / "model.pt"
    torch.save(open_clip.create_model(ARCHITECTURE).state_dict(), path)
    return path


def _write_clip(path: Path, pictures: Iterable[Image.Image], size: tuple[int, int]) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.bit_rate = int(size[0] * size[1] * FPS * BITS_PER_PIXEL)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))


def _scaled(frame: Any, size: tuple[int, int]) -> np.ndarray:
    return frame.reformat(*size, format="rgb24").to_ndarray()


def _grained(picture: np.ndarray, number: int, rng: np.random.Generator) -> Image.Image:
    """The picture with grain, without which it would compress and decode like none that a camera took."""
    height, width = picture.shape[:2]
    grain = rng.integers(0, GRAIN, (height // 8, width, 3), np.uint8)
    moved = np.resize(np.roll(grain, number * 37, axis=1), picture.shape)
    return Image.fromarray(picture - picture // GRAIN + moved)
