"""Videos with real speech under them, and the rows that an actor would get of them.

The sound is a seeded permutation of short real recordings, the picture one minute of the bundled film, scaled up
with grain and repeated: right for speed, not for what is recognised.
"""

from __future__ import annotations

import hashlib
import random
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import pyarrow as pa

from benchmarks.corpus import SEED, permutation, recordings
from benchmarks.picture_corpus import CLIP_S, write_clips
from cluster.media.sample import mux
from cluster.types import SAMPLE_RATE_HZ, rows_table, with_column

WHAT = f"seeded permutation (seed {SEED}) of short real recordings under one film, scaled up and repeated: speed only"
LANES = {"speech": ["speech", "voices", "texts"], "frames": ["frames", "images"]}
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Length:
    """How many videos of how many seconds; the picture repeats after `loop_clips` x 10 s."""

    assets: int
    asset_s: float
    loop_clips: int
    size: tuple[int, int]


FULL = Length(6, 300.0, 6, (1280, 720))
QUICK = Length(2, 20.0, 1, (320, 240))


def build_media(folder: Path, length: Length) -> list[Path]:
    """The videos of `length` below `folder`."""
    folder.mkdir(parents=True)
    clips = write_clips(folder / "clips", length.loop_clips, length.size)
    film = _repeated(sorted(clips.iterdir()), folder / "film.mp4", round(length.asset_s / CLIP_S))
    order, pool = random.Random(SEED), recordings()
    paths = []
    for number in range(length.assets):
        sound = folder / f"{number}.wav"
        samples = permutation(length.asset_s, order, pool)[: int(length.asset_s * SAMPLE_RATE_HZ)]
        with wave.open(str(sound), "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
            file.writeframes(samples.tobytes())
        paths.append(mux(film, sound, folder / f"{number}.mp4"))
        sound.unlink()
    return paths


def rows(paths: list[Path], asset_s: float, root: str) -> list[Row]:
    """One row for each video, as it enters the chain of the root lane `root`."""
    return [
        {
            "asset_id": number, "uri": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "byte_size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns, "media_kind": "video",
            "audio_stream": 1, "duration_ms": round(asset_s * 1000), "root": root, "lanes": LANES[root],
        }
        for number, path in enumerate(paths)
    ]  # fmt: skip


def table_of(row: Mapping[str, Any]) -> pa.Table:
    """The row as the claim hands it on; keyframes that were committed before would stand in `frames`."""
    table = rows_table([row])
    return with_column(table, "frames", [None]) if row["root"] == "frames" else table


def _repeated(clips: list[Path], target: Path, count: int) -> Path:
    """`count` clips one after the other, from the first again when they end; nothing is encoded anew."""
    with av.open(str(target), "w") as out:
        stream: Any = None
        for number in range(count):
            with av.open(str(clips[number % len(clips)])) as source:
                video = source.streams.video[0]
                stream = stream or out.add_stream_from_template(video)
                assert video.time_base is not None
                offset = int(number * CLIP_S / video.time_base)
                for packet in source.demux(video):
                    if packet.dts is not None and packet.pts is not None:
                        packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, stream
                        out.mux(packet)
    return target
