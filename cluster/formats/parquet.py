"""Segments and chunks with their vectors as Parquet: the columns, and tables of them.

Times are integer milliseconds from the start of the asset, vectors fixed-size lists of float32. Every
file names in its schema metadata the space its vectors belong to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.conversation import Segment
from cluster.formats.model import Transcript, confidence
from cluster.types import WORD

_ASSET = {"sha256": pa.string(), "name": pa.string(), "title": pa.string(), "channel": pa.string()}
_SEGMENT = {
    "idx": pa.int32(),
    "start_ms": pa.int32(),
    "end_ms": pa.int32(),
    "local_speaker": pa.int16(),
    "speaker": pa.string(),
    "method": pa.string(),
    "score": pa.float32(),
    "text": pa.string(),
    "text_skip_reason": pa.string(),
    "confidence": pa.float32(),
    "words": pa.list_(WORD),
}
_CHUNK = {
    "idx": pa.int32(),
    "first_segment": pa.int32(),
    "last_segment": pa.int32(),
    "start_ms": pa.int32(),
    "end_ms": pa.int32(),
    "text": pa.string(),
}
TIMES = {"rushes.times": "ms from the start of the asset"}


def segments_schema(dimension: int | None, said: Mapping[str, str], *, partitioned: bool = False) -> pa.Schema:
    """Columns of segments; with `dimension` also `voice_skip_reason` and `voice_vector`.

    `said` is the metadata; the `speaker` column is left out where it is the name of a folder.
    """
    columns = {**_ASSET, **_SEGMENT}
    if partitioned:
        del columns["speaker"]
    if dimension is not None:
        columns |= {"voice_skip_reason": pa.string(), "voice_vector": pa.list_(pa.float32(), dimension)}
    return pa.schema(columns, metadata={**TIMES, **said})


def chunks_schema(dimension: int, said: Mapping[str, str]) -> pa.Schema:
    """Columns of chunks with their `text_vector`; `said` is the metadata."""
    vector = {"text_vector": pa.list_(pa.float32(), dimension)}
    return pa.schema({**_ASSET, **_CHUNK, **vector}, metadata={**TIMES, **said})


def segments_table(
    transcript: Transcript,
    segments: Iterable[Segment],
    voices: Mapping[int, Sequence[Any]],
    schema: pa.Schema,
) -> pa.Table:
    """The segments as rows of `schema`; `voices` maps an idx to (skip reason, vector or None)."""
    rows = []
    for segment in segments:
        who = transcript.who(segment)
        reason, vector = voices.get(segment.idx, (None, None))
        rows.append(
            {
                **_asset(transcript),
                **segment.to_row(),
                "local_speaker": who.local_speaker,
                "speaker": who.shown,
                "method": who.method,
                "score": who.score,
                "confidence": confidence(segment),
                "voice_skip_reason": reason,
                "voice_vector": vector,
            }
        )
    return _table(rows, schema)


def chunks_table(transcript: Transcript, chunks: Iterable[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """Chunks, each (idx, first and last segment, start and end in ms, text, vector), as rows of `schema`."""
    names = (*_CHUNK, "text_vector")
    return _table([{**_asset(transcript), **dict(zip(names, chunk, strict=True))} for chunk in chunks], schema)


def _asset(transcript: Transcript) -> dict[str, str | None]:
    return {name: getattr(transcript, name) for name in _ASSET}


def _table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    arrays = [_column([row[field.name] for row in rows], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if not isinstance(kind, pa.FixedSizeListType):
        return pa.array(values, kind)
    # One block of numbers: element by element, vectors take longer than all the rest of an export.
    block = np.zeros((len(values), kind.list_size), np.float32)
    for row, vector in enumerate(values):
        if vector is not None:
            block[row] = vector
    missing = pa.array([vector is None for vector in values], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), type=kind, mask=missing)
