"""What is shown, as rows: shots, keyframes, hashes and image vectors of one asset, written and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from cluster.db.copy import stage_rows
from cluster.db.spaces import Space

Row = Mapping[str, Any]

_FRAME: dict[str, LiteralString] = {
    "idx": "int4",
    "shot": "int4",
    "pts": "int8",
    "time_base_num": "int4",
    "time_base_den": "int4",
    "t_ms": "int4",
    "is_informative": "bool",
}


def write_frames(conn: psycopg.Connection[Any], asset_id: int, row: Row) -> None:
    """Write an asset's shots, keyframes and hashes in place of the old ones; what hung on those goes with them.

    The caller holds the transaction and the asset, and settles the units.
    """
    for table in ("frames", "shots", "pictures"):
        conn.execute(f"DELETE FROM {table} WHERE asset_id = %s".encode(), (asset_id,))
    conn.execute("DELETE FROM near_duplicates WHERE %(id)s IN (asset_a, asset_b)", {"id": asset_id})
    times, hashes = pack_samples(row["samples"])
    size = row["picture_size"]
    conn.execute(
        "INSERT INTO pictures (asset_id, width, height, samples, sample_times, sample_hashes)"
        " VALUES (%s, %s, %s, %s, %s, %s)",
        (asset_id, size["width"], size["height"], len(row["samples"]), times, hashes),
    )
    shots = row["shots"]
    conn.execute(
        "INSERT INTO shots (asset_id, idx, start_ms, end_ms) SELECT %s, i - 1, s, e"
        " FROM unnest(%s::int[], %s::int[]) WITH ORDINALITY t(s, e, i) ORDER BY i",
        (asset_id, [shot["start_ms"] for shot in shots], [shot["end_ms"] for shot in shots]),
    )
    columns: dict[str, LiteralString] = {**_FRAME, "phash": "int8", "thumbnail": "bytea"}
    stage_rows(conn, "stage_frames", columns, (_frame(frame) for frame in row["frames"]))
    names = ", ".join(_FRAME)
    conn.execute(
        f"INSERT INTO frames (asset_id, {names}, phash, thumbnail)"
        f" SELECT DISTINCT ON (idx) %s::bigint, {names}, phash::bit(64), thumbnail FROM stage_frames"
        " ORDER BY idx".encode(),
        (asset_id,),
    )


def _frame(frame: Row) -> tuple[Any, ...]:
    hashed = int.from_bytes(frame["phash"], "big", signed=True)
    return (*(frame[name] for name in _FRAME), hashed, bytes.fromhex(frame["thumbnail_sha256"]))


def write_image_vectors(
    conn: psycopg.Connection[Any], space: Space, asset_id: int, vectors: Sequence[Row], frames: Sequence[Row]
) -> None:
    """Write the image vectors of an asset's keyframes in place of the old ones of this space.

    Every keyframe has exactly one. What was decided by the old ones is decided again.
    """
    have, want = sorted(item["idx"] for item in vectors), sorted(frame["idx"] for frame in frames)
    if have != want:
        raise AssertionError(f"asset {asset_id}: image vectors of frames {have}, but its frames are {want}")
    mine = sql.SQL("frame_id IN (SELECT frame_id FROM frames WHERE asset_id = {})").format(sql.Literal(asset_id))
    table = sql.Identifier(space.table_name)
    conn.execute(sql.SQL("DELETE FROM {} WHERE {}").format(table, mine))
    conn.execute(sql.SQL("DELETE FROM visual_members WHERE space_id = %s AND {}").format(mine), (space.space_id,))
    stage_rows(
        conn,
        "stage_images",
        {"idx": "int4", "embedding": "vector"},
        ((item["idx"], np.asarray(item["vector"], np.float32)) for item in vectors),
    )
    conn.execute(
        sql.SQL(
            "INSERT INTO {} (frame_id, embedding) SELECT f.frame_id, s.embedding FROM stage_images s"
            " JOIN frames f ON f.asset_id = %s AND f.idx = s.idx ORDER BY f.frame_id"
        ).format(table),
        (asset_id,),
    )
    conn.execute("UPDATE pictures SET is_compared = false WHERE asset_id = %s", (asset_id,))


def read_frames(conn: psycopg.Connection[Any], asset_id: int) -> list[dict[str, Any]]:
    """The committed keyframes of an asset, in the shape of the `frames` column."""
    return _frames(conn, "WHERE asset_id = %s ORDER BY idx", (asset_id,))


def last_frame(conn: psycopg.Connection[Any], asset_id: int, t_ms: int) -> dict[str, Any] | None:
    """The last committed keyframe at or before a time; None without one."""
    found = _frames(conn, "WHERE asset_id = %s AND t_ms <= %s ORDER BY idx DESC LIMIT 1", (asset_id, t_ms))
    return found[0] if found else None


def thumbnail_of(conn: psycopg.Connection[Any], asset_id: int, idx: int) -> str | None:
    """The SHA-256 (hex) of the thumbnail of one keyframe; None when there is no such frame."""
    row = conn.execute(
        "SELECT encode(thumbnail, 'hex') FROM frames WHERE asset_id = %s AND idx = %s", (asset_id, idx)
    ).fetchone()
    return None if row is None else row[0]


def _frames(conn: psycopg.Connection[Any], which: LiteralString, values: tuple[int, ...]) -> list[dict[str, Any]]:
    names = ", ".join(_FRAME)
    rows = conn.execute(f"SELECT {names}, phash::bigint, encode(thumbnail, 'hex') FROM frames {which}".encode(), values)
    return [
        {
            **dict(zip(_FRAME, row[:-2], strict=True)),
            "phash": row[-2].to_bytes(8, "big", signed=True),
            "thumbnail_sha256": row[-1],
        }
        for row in rows
    ]


def pack_samples(samples: Sequence[Row]) -> tuple[bytes, bytes]:
    """Times (little-endian int32 ms) and hashes (8 bytes each) of samples, in the order of their times."""
    ordered = sorted(samples, key=lambda sample: sample["t_ms"])
    times = np.array([sample["t_ms"] for sample in ordered], "<i4")
    return times.tobytes(), b"".join(sample["phash"] for sample in ordered)


def unpack_samples(times: bytes, hashes: bytes) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
    """The inverse of `pack_samples`: int32 of shape (samples,) and uint64 of shape (samples,)."""
    return np.frombuffer(times, "<i4").astype(np.int32), np.frombuffer(hashes, ">u8").astype(np.uint64)
