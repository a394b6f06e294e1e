"""Pictures of an asset, from the reader's process to columns: what is asked for, and one row of what was found.

Pixels and thumbnails cross in shared memory and are never copied: the columns lie over it.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self

from cluster.errors import MediaResourceError
from cluster.media.hashing import Stamp

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

# Pictures as this code makes them out of a decoded frame: its colours, its orientation, its hash.
PICTURES_ID = "pyav-pillow-phash-1"
CHANNELS = 3
# Height, width, channels, as TransNetV2 takes them.
TINY_SHAPE = (27, 48, CHANNELS)


@dataclass(frozen=True, slots=True)
class PixelSpec:
    """What an image model takes: RGB of `size` x `size`.

    `shortest` scales the shorter side to `size` and takes the middle, `squash` scales both.
    """

    size: int
    resize: Literal["shortest", "squash"] = "shortest"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    @property
    def picture_bytes(self) -> int:
        """Bytes of one picture."""
        return self.size * self.size * CHANNELS


@dataclass(frozen=True, slots=True)
class PictureSpec:
    """How many keyframes a minute of video gets, and the pixels to take of each, None for none."""

    min_per_minute: float = 6.0
    max_per_minute: float = 20.0
    pixels: PixelSpec | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        pixels = values["pixels"]
        return cls(values["min_per_minute"], values["max_per_minute"], PixelSpec(**pixels) if pixels else None)


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """One row of `shots`, `frames`, `samples`, `picture_size`, `thumbnails`, `pixels` as in `cluster.types`.

    `stamp` is the file they were taken from, as it was all the while. `skipped_packets` were damaged.
    """

    table: pa.Table
    skipped_packets: int
    stamp: Stamp


@dataclass(frozen=True, slots=True, eq=False)
class Tiny:
    """Every frame that is shown, uint8 of shape (frames, 27, 48, 3) RGB, read-only."""

    frames: NDArray[np.uint8]
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Keyframe:
    """A frame that stands for its part of the asset; `t_ms` is rounded up from the asset's start."""

    shot: int | None
    pts: int
    time_base: tuple[int, int]
    t_ms: int
    phash: bytes
    is_informative: bool
    thumbnail: bytes
    rgb: bytes | None


@dataclass(slots=True)
class Sink:
    """Writes what was found into shared memory: pixels as they come, the rest at the end; bounded."""

    file: BinaryIO
    limit_bytes: int
    pixels: PixelSpec | None
    thumbnails: list[bytes] = field(default_factory=list)
    frames: list[dict[str, Any]] = field(default_factory=list)
    taken_bytes: int = 0

    def add(self, frame: Keyframe, idx: int | None = None) -> None:
        """Append a keyframe, under its own `idx` or the next; `MediaResourceError` beyond `limit_bytes`."""
        if frame.rgb is not None:
            self.file.write(frame.rgb)
        self.thumbnails.append(frame.thumbnail)
        self.taken_bytes += len(frame.rgb or b"") + len(frame.thumbnail)
        require_room(self.taken_bytes, self.limit_bytes)
        num, den = frame.time_base
        self.frames.append(
            {
                "idx": len(self.frames) if idx is None else idx,
                "shot": frame.shot,
                "pts": frame.pts,
                "time_base_num": num,
                "time_base_den": den,
                "t_ms": frame.t_ms,
                "phash": frame.phash.hex(),
                "is_informative": frame.is_informative,
                "thumbnail_sha256": None,
            }
        )

    def finish(
        self,
        size: tuple[int, int] | None = None,
        shots: Sequence[tuple[int, int]] | None = None,
        samples: Sequence[tuple[int, bytes]] | None = None,
    ) -> dict[str, int]:
        """Write the thumbnails and the numbers; where each part begins, for `read_row`."""
        told = {
            "frames": self.frames,
            "thumbnails": [len(jpeg) for jpeg in self.thumbnails],
            "picture_bytes": self.pixels.picture_bytes if self.pixels else None,
            "size": size and {"width": size[0], "height": size[1]},
            "shots": shots and [{"start_ms": start, "end_ms": end} for start, end in shots],
            "samples": samples and [(at, phash.hex()) for at, phash in samples],
            "whole": size is not None,
        }
        thumbnails_at = self.file.tell()
        self.file.write(b"".join(self.thumbnails))
        numbers_at = self.file.tell()
        self.file.write(json.dumps(told).encode())
        return {"thumbnails_at": thumbnails_at, "numbers_at": numbers_at, "end": self.file.tell()}


def require_room(taken_bytes: int, limit_bytes: int) -> None:
    """Raise `MediaResourceError` when the pictures of one asset take more than they may."""
    if taken_bytes > limit_bytes:
        raise MediaResourceError(
            f"its pictures take more than {limit_bytes / 2**20:.0f} MiB: raise decode_memory_bytes, "
            "lower max_frames_per_minute or split the file"
        )


def read_row(memory: int, thumbnails_at: int, numbers_at: int, end: int) -> pa.Table:
    """One row out of what a `Sink` wrote into descriptor `memory`; its bytes are mapped, not copied.

    `shots`, `samples` and `picture_size` are null when frames were picked, `pixels` when none were asked for.
    """
    import pyarrow as pa

    from cluster.types import COLUMNS

    whole = pa.py_buffer(mmap.mmap(memory, end, access=mmap.ACCESS_READ))
    told = json.loads(os.pread(memory, end - numbers_at, numbers_at))
    columns = {
        "shots": [(told["shots"] or []) if told["whole"] else None],
        "frames": [[{**frame, "phash": bytes.fromhex(frame["phash"])} for frame in told["frames"]]],
        "samples": [_samples(told["samples"]) if told["whole"] else None],
        "picture_size": [told["size"]],
    }
    arrays = {name: pa.array(values, COLUMNS[name]) for name, values in columns.items()}
    lengths, stride = told["thumbnails"], told["picture_bytes"]
    idx = [frame["idx"] for frame in told["frames"]]
    jpegs = whole.slice(thumbnails_at, numbers_at - thumbnails_at)
    arrays["thumbnails"] = _blobs("thumbnails", idx, jpegs, lengths)
    if stride is None:
        arrays["pixels"] = pa.nulls(1, COLUMNS["pixels"])
    else:
        arrays["pixels"] = _blobs("pixels", idx, whole.slice(0, thumbnails_at), [stride] * len(idx))
    return pa.table(arrays)


def write_json(values: Any) -> int:
    """A new memory descriptor that holds the values: a request may be longer than a message."""
    memory = os.memfd_create("rushes-request")
    with open(memory, "wb", closefd=False) as file:
        file.write(json.dumps(values).encode())
    return memory


def read_json(memory: int) -> Any:
    """The inverse of `write_json`."""
    return json.loads(os.pread(memory, os.fstat(memory).st_size, 0))


def _samples(told: Sequence[tuple[int, str]] | None) -> list[dict[str, Any]]:
    return [{"t_ms": at, "phash": bytes.fromhex(phash)} for at, phash in told or ()]


def _blobs(column: str, idx: Sequence[int], data: pa.Buffer, lengths: Sequence[int]) -> pa.Array:
    """A list column of one row over bytes that lie one after the other."""
    import numpy as np
    import pyarrow as pa

    from cluster.types import COLUMNS

    listed = COLUMNS[column]
    item = listed.value_type
    wide = pa.types.is_large_binary(item.field(1).type)
    offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))).astype(np.int64 if wide else np.int32)
    blobs = pa.Array.from_buffers(item.field(1).type, len(lengths), [None, pa.py_buffer(offsets), data])
    struct = pa.StructArray.from_arrays([pa.array(idx, pa.int32()), blobs], fields=list(item))
    kind = pa.LargeListArray if pa.types.is_large_list(listed) else pa.ListArray
    return kind.from_arrays([0, len(lengths)], struct)
