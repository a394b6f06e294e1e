"""Shots, keyframes, hashes, thumbnails and pixels of an image or a video, in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from actors.registered import read_registered
from actors.transnet import TransNet
from cluster.deadline import deadline_s
from cluster.errors import StageError
from cluster.media.child import MediaChild
from cluster.media.cuts import DETECTOR_ID
from cluster.media.node_cache import NodeCache
from cluster.media.pictures import PICTURES_ID, PictureSpec
from cluster.media.pictures import Pictures as Found
from cluster.profiles import ModelChoice
from cluster.types import COLUMNS, with_column

FILE = ("uri", "sha256", "byte_size", "mtime_ns")


class Pictures:
    """Adds `shots`, `frames`, `samples`, `picture_size`, `thumbnails` and `pixels`, through one media child.

    A row of the lane `frames` is taken anew. One of `images` alone keeps its committed `frames`, whose pictures
    are picked again; its `shots`, `samples` and `picture_size` are null. `pixels` are null without `images`.
    A video whose shots a model finds is decoded twice. A row may take `base_s` plus `s_per_hour` for each hour
    of media each time; unknown lengths count as one hour.
    """

    name = "pictures"
    version = 1
    lanes = frozenset({"frames", "images"})
    needs = (*FILE, "media_kind", "duration_ms", "lanes", "frames")
    adds = ("shots", "frames", "samples", "picture_size", "thumbnails", "pixels")
    drops: tuple[str, ...] = ()

    def __init__(
        self,
        base_s: float,
        s_per_hour: float,
        memory_bytes: int,
        cache: NodeCache,
        spec: PictureSpec,
        shots: ModelChoice | None,
    ) -> None:
        """`shots` finds cuts with a model, None by comparing frames."""
        self.base_s = base_s
        self.s_per_hour = s_per_hour
        self.cache = cache
        self.spec = spec
        self.child = MediaChild(memory_bytes)
        self.shots = None if shots is None else TransNet(shots)

    def identity(self) -> dict[str, Any]:
        """The detector, the pictures' own version and their number; what a model takes of them is its own matter."""
        return {
            "pictures": PICTURES_ID,
            "detector": {"engine": DETECTOR_ID} if self.shots is None else self.shots.identity(),
            "min_per_minute": self.spec.min_per_minute,
            "max_per_minute": self.spec.max_per_minute,
        }

    def load(self) -> None:
        """Bring the shot model into memory, if there is one; the child starts with the first row."""
        if self.shots is not None:
            self.shots.load()

    def process(self, table: pa.Table) -> pa.Table:
        """Row by row; raises what `MediaChild` raises, `FileNotFoundError` for a file that is gone."""
        found = [self._take(row) for row in table.select(self.needs).to_pylist()]
        rows = pa.concat_tables([one.table for one in found])
        for name in self.adds:
            table = with_column(table, name, _one_array(rows.column(name), COLUMNS[name]))
        return table

    def close(self) -> None:
        """End the child, let go of the model."""
        self.child.close()
        if self.shots is not None:
            self.shots.close()

    def _take(self, row: Mapping[str, Any]) -> Found:
        limit_s = deadline_s(self.base_s, self.s_per_hour, [row["duration_ms"]])
        lanes, kind = set(row["lanes"]), row["media_kind"]
        if "frames" not in lanes:
            return self._pick(row, limit_s)
        spec = self.spec if "images" in lanes else replace(self.spec, pixels=None)
        cuts = self._cuts(row, limit_s) if kind == "video" else None
        return read_registered(row, self.cache, lambda path: self.child.pictures(path, kind, spec, limit_s, cuts))

    def _cuts(self, row: Mapping[str, Any], limit_s: float) -> list[int] | None:
        if self.shots is None:
            return None
        tiny = read_registered(row, self.cache, partial(self.child.tiny, deadline_s=limit_s))
        return self.shots.cuts(tiny.frames)

    def _pick(self, row: Mapping[str, Any], limit_s: float) -> Found:
        frames, kind = row["frames"], row["media_kind"]
        if frames is None:
            raise StageError("the row has no frames: its frames lane has not run")
        found = read_registered(row, self.cache, lambda path: self.child.pick(path, kind, frames, self.spec, limit_s))
        return replace(found, table=with_column(found.table, "frames", [frames]))


def _one_array(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """The column in one piece; a single row is not copied."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], kind)
