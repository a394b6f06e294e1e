"""The columns of a row, in one place: every stage adds and drops only these.

A row is one (asset, root lane). Times are integer milliseconds from the start of the asset,
audio is 16 kHz mono int16, vectors are unit-length float32. A column that a row did not earn
is a typed null, so that good rows and failed rows share one schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from cluster.errors import FailureClass

SAMPLE_RATE_HZ = 16_000

WORD = pa.struct({"start_ms": pa.int32(), "end_ms": pa.int32(), "text": pa.string(), "probability": pa.float32()})
SPAN = pa.struct({"start_ms": pa.int32(), "end_ms": pa.int32()})
TURN = pa.struct({"start_ms": pa.int32(), "end_ms": pa.int32(), "local_speaker": pa.int16()})
SEGMENT = pa.struct(
    {
        "idx": pa.int32(),
        "start_ms": pa.int32(),
        "end_ms": pa.int32(),
        "local_speaker": pa.int16(),
        "text": pa.string(),
        "words": pa.list_(WORD),
        "text_skip_reason": pa.string(),
    }
)
VOICE = pa.struct(
    {
        "idx": pa.int32(),
        "start_sample": pa.int64(),
        "end_sample": pa.int64(),
        "vector": pa.list_(pa.float32()),
        "skip_reason": pa.string(),
    }
)
CHUNK = pa.struct(
    {
        "idx": pa.int32(),
        "first_segment": pa.int32(),
        "last_segment": pa.int32(),
        "start_ms": pa.int32(),
        "end_ms": pa.int32(),
        "text": pa.string(),
        "vector": pa.list_(pa.float32()),
    }
)
SHOT = pa.struct({"start_ms": pa.int32(), "end_ms": pa.int32()})
FRAME = pa.struct(
    {
        "idx": pa.int32(),
        "shot": pa.int32(),
        "pts": pa.int64(),
        "time_base_num": pa.int32(),
        "time_base_den": pa.int32(),
        "t_ms": pa.int32(),
        "phash": pa.binary(8),
        "is_informative": pa.bool_(),
        "thumbnail_sha256": pa.string(),
    }
)
# Of the whole length of an asset, denser than its keyframes; only informative ones.
SAMPLE = pa.struct({"t_ms": pa.int32(), "phash": pa.binary(8)})
PICTURE_SIZE = pa.struct({"width": pa.int32(), "height": pa.int32()})
THUMBNAIL = pa.struct({"idx": pa.int32(), "jpeg": pa.binary()})
# RGB, row by row, height x width x 3 bytes, in the size that the image model takes.
PIXELS = pa.struct({"idx": pa.int32(), "rgb": pa.large_binary()})
IMAGE_VECTOR = pa.struct({"idx": pa.int32(), "vector": pa.list_(pa.float32())})
UNIT = pa.struct({"lane": pa.string(), "fingerprint": pa.string(), "generation": pa.int64()})
_BLAME = {
    "failure": pa.string(),
    "stage": pa.string(),
    "message": pa.string(),
    "lanes": pa.list_(pa.string()),
    "attempts": pa.int32(),
}
# The first error of a row, and those that later struck lanes it had left alone.
ERROR = pa.struct({**_BLAME, "later": pa.list_(pa.struct(_BLAME))})
# `halvings`: how often the stage's batches were halved because the device ran out of memory.
TIMING = pa.struct({"stage": pa.string(), "seconds": pa.float64(), "halvings": pa.int32()})
TRANSCRIPT = pa.struct(
    {
        "language": pa.string(),
        "language_probability": pa.float32(),
        "windows": pa.int32(),
        "window_fill": pa.float32(),
        "redecoded_windows": pa.int32(),
    }
)

COLUMNS: Mapping[str, pa.DataType] = {
    "asset_id": pa.int64(),
    "sha256": pa.string(),
    "uri": pa.string(),
    "byte_size": pa.int64(),
    "mtime_ns": pa.int64(),
    "media_kind": pa.string(),
    "audio_stream": pa.int32(),
    "duration_ms": pa.int64(),
    "given_turns": pa.list_(TURN),
    "root": pa.string(),
    "lanes": pa.list_(pa.string()),
    "units": pa.list_(UNIT),
    "error": ERROR,
    "timings": pa.list_(TIMING),
    "audio": pa.large_list(pa.int16()),
    "audio_sha256": pa.string(),
    "speech": pa.list_(SPAN),
    "words": pa.list_(WORD),
    "utterances": pa.list_(SPAN),
    "transcript": TRANSCRIPT,
    "turns": pa.list_(TURN),
    "segments": pa.list_(SEGMENT),
    "voices": pa.list_(VOICE),
    "voice_cache_hits": pa.int32(),
    "chunks": pa.list_(CHUNK),
    "shots": pa.list_(SHOT),
    "frames": pa.list_(FRAME),
    "samples": pa.list_(SAMPLE),
    "picture_size": PICTURE_SIZE,
    "thumbnails": pa.list_(THUMBNAIL),
    "pixels": pa.large_list(PIXELS),
    "image_vectors": pa.list_(IMAGE_VECTOR),
    "outcome": pa.string(),
}
ROW = (
    "asset_id", "sha256", "uri", "byte_size", "mtime_ns", "media_kind", "audio_stream", "duration_ms",
    "given_turns", "root", "lanes", "units", "error", "timings",
)  # fmt: skip


def rows_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A table of fresh rows with the columns of `ROW`; missing values are null."""
    arrays = [pa.array([row.get(name) for row in rows], COLUMNS[name]) for name in ROW]
    return pa.table(arrays, names=list(ROW))


def root_in(table: pa.Table) -> str | None:
    """The root lane of the rows of a table, which is one and the same; None where they have none."""
    return table["root"][0].as_py() if table.num_rows and "root" in table.column_names else None


def errors_of(error: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Every error of a row, first to last; each names the lanes it blocks, all when `lanes` is None."""
    return [] if error is None else [error, *(error.get("later") or ())]


def error_record(
    failure: FailureClass, stage: str, message: str, lanes: Sequence[str] | None, attempts: int = 1
) -> dict[str, Any]:
    """One error of a row; None of `lanes` blocks them all.

    Neither Arrow nor PostgreSQL takes every string of Python; a failure that cannot be told would end the run.
    """
    told = message.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    blocked = None if lanes is None else sorted(lanes)
    return {"failure": failure.value, "stage": stage, "message": told, "lanes": blocked, "attempts": attempts}


def add_error(before: Mapping[str, Any] | None, error: dict[str, Any]) -> dict[str, Any]:
    """The row's error after one more; lanes that are blocked already keep their first cause."""
    return error if before is None else {**before, "later": [*(before.get("later") or ()), error]}


def with_column(table: pa.Table, name: str, values: Sequence[Any] | pa.Array) -> pa.Table:
    """The table with column `name` set, typed by `COLUMNS`; an existing one is replaced in place."""
    column = values if isinstance(values, pa.Array) else pa.array(values, COLUMNS[name])
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)


def audio_array(waveforms: Sequence[Any]) -> pa.LargeListArray:
    """int16 waveforms of shape (samples,) as one large_list column, without Python lists."""
    import numpy as np

    lengths = [len(waveform) for waveform in waveforms]
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    if len(waveforms) == 1:
        values = np.ascontiguousarray(waveforms[0], dtype=np.int16)
    else:
        values = np.concatenate([np.asarray(w, np.int16) for w in waveforms]) if waveforms else np.empty(0, np.int16)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))


def waveform(table: pa.Table, row: int) -> Any:
    """The int16 audio of one row, shape (samples,), as a view that copies nothing."""
    return table.column("audio")[row].values.to_numpy(zero_copy_only=True)
