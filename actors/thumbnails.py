"""The stage that puts thumbnails into the store."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from cluster.errors import StageError
from cluster.media.blobs import check_store, write_blob
from cluster.types import with_column


class Thumbnails:
    """Writes each frame's JPEG to the store and names it in `frames`, before the row is committed."""

    name = "thumbnails"
    version = 1
    lanes = frozenset({"frames"})
    needs = ("frames", "thumbnails")
    adds = ("frames",)
    drops = ("thumbnails",)

    def __init__(self, store_root: str) -> None:
        """`store_root` is a local folder or the address of one in an object store."""
        self.store_root = store_root

    def identity(self) -> dict[str, Any]:
        """Nothing: where a picture lies does not change it."""
        return {}

    def load(self) -> None:
        """Make the folder of a local store; raises `UsageError` and `StoreError`."""
        check_store(self.store_root)

    def process(self, table: pa.Table) -> pa.Table:
        """Fill `thumbnail_sha256`; raises `StoreError`, and `StageError` for a frame without its JPEG."""
        frames, thumbnails = (table.column(name).to_pylist() for name in self.needs)
        return with_column(table, "frames", [self._named(*pair) for pair in zip(frames, thumbnails, strict=True)])

    def close(self) -> None:
        """Nothing to close."""

    def _named(
        self, frames: list[dict[str, Any]] | None, thumbnails: list[dict[str, Any]] | None
    ) -> list[dict[str, Any]]:
        if frames is None or thumbnails is None:
            raise StageError("the row has no frames or thumbnails: the stage that adds them left them null")
        jpegs = {item["idx"]: item["jpeg"] for item in thumbnails}
        lacking = [frame["idx"] for frame in frames if not jpegs.get(frame["idx"])]
        if lacking:
            raise StageError(f"frames {lacking} have no thumbnail: the stage that adds them left them out")
        return [{**frame, "thumbnail_sha256": write_blob(self.store_root, jpegs[frame["idx"]])} for frame in frames]
