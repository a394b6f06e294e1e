"""Sound of an asset, decoded once for every later stage of its row."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from actors.registered import read_registered
from cluster.deadline import deadline_s
from cluster.errors import BadMediaError
from cluster.media.child import Decoded, MediaChild
from cluster.media.decode import DECODER_ID
from cluster.media.node_cache import NodeCache
from cluster.types import audio_array, with_column


class Decode:
    """Adds `audio` (int16, 16 kHz, mono) and `audio_sha256`, through one media child.

    A row may take `base_s` plus `s_per_hour` for each hour of media; unknown lengths count as one hour.
    What is decoded is the registered content: a file that changed since fails its row.
    """

    name = "decode"
    version = 1
    lanes = frozenset({"speech", "voices"})
    needs = ("uri", "sha256", "byte_size", "mtime_ns", "audio_stream", "duration_ms")
    adds = ("audio", "audio_sha256")
    drops = ()

    def __init__(self, base_s: float, s_per_hour: float, memory_bytes: int, cache: NodeCache) -> None:
        self.base_s = base_s
        self.s_per_hour = s_per_hour
        self.cache = cache
        self.child = MediaChild(memory_bytes)
        self.decodes = 0

    def identity(self) -> dict[str, Any]:
        """The decoder alone: deadline and memory decide whether it ends, not what it gives."""
        return {"decoder": DECODER_ID}

    def load(self) -> None:
        """Nothing: the child starts with the first row."""

    def process(self, table: pa.Table) -> pa.Table:
        """Decode row by row; raises what `MediaChild.decode` raises, `FileNotFoundError` for a file that is gone."""
        decoded = [self._decode(row) for row in table.select(self.needs).to_pylist()]
        table = with_column(table, "audio", audio_array([sound.samples for sound in decoded]))
        return with_column(table, "audio_sha256", [sound.sha256 for sound in decoded])

    def close(self) -> None:
        """End the child."""
        self.child.close()

    def _decode(self, row: dict[str, Any]) -> Decoded:
        if row["audio_stream"] is None:
            raise BadMediaError("no audio stream")
        self.decodes += 1
        limit_s = self._deadline_s(row["duration_ms"])
        stream = row["audio_stream"]
        return read_registered(row, self.cache, lambda path: self.child.decode(path, stream, limit_s))

    def _deadline_s(self, duration_ms: int | None) -> float:
        return deadline_s(self.base_s, self.s_per_hour, [duration_ms])
