"""Synthetic keyframes and hashes, so that duplicates, clusters and search are tested without media or models."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cluster.db import spaces
from cluster.db.results import commit_row
from cluster.profiles import ModelChoice
from tests.corpus_rows import claimed, new_asset, new_run, unit_vector

PICTURE_PRINTS = {"frames": "f1", "images": "i1"}


def image_space(conn: Any, dimension: int = 8) -> spaces.Space:
    choice = ModelChoice(role="image", profile="test", engine="open_clip", weights="path:/none", dimension=dimension)
    return spaces.ensure_space(conn, "image", choice, {"kind": "image", "d": dimension})


def phash(number: int) -> bytes:
    """A hash of its own for each number, far from those of others."""
    return hashlib.sha256(str(number).encode()).digest()[:8]


def flipped(hashed: bytes, bits: Sequence[int]) -> bytes:
    """The hash with these bits (0 to 63, first to last) turned over."""
    value = int.from_bytes(hashed, "big")
    for bit in bits:
        value ^= 1 << (63 - bit)
    return value.to_bytes(8, "big")


def frame(idx: int, hashed: bytes, t_ms: int, *, informative: bool = True, shot: int | None = 0) -> dict[str, Any]:
    return {
        "idx": idx,
        "shot": shot,
        "pts": t_ms,
        "time_base_num": 1,
        "time_base_den": 1000,
        "t_ms": t_ms,
        "phash": hashed,
        "is_informative": informative,
        "thumbnail_sha256": hashlib.sha256(hashed).hexdigest(),
    }


def picture_row(
    asset_id: int,
    units: list[dict[str, Any]],
    frames: list[dict[str, Any]],
    *,
    samples: Sequence[tuple[int, bytes]] | None = None,
    vectors: Sequence[Any] | None = None,
    length_ms: int = 60_000,
) -> dict[str, Any]:
    """A computed row of the frames chain; samples default to the informative frames, vectors to random ones."""
    taken = [(f["t_ms"], f["phash"]) for f in frames if f["is_informative"]] if samples is None else samples
    found = [unit_vector(asset_id * 1000 + f["idx"]) for f in frames] if vectors is None else vectors
    is_video = any(f["shot"] is not None for f in frames)
    return {
        "asset_id": asset_id,
        "uri": f"/media/{asset_id}",
        "units": units,
        "error": None,
        "timings": [{"stage": "pictures", "seconds": 0.1}],
        "shots": [{"start_ms": 0, "end_ms": length_ms}] if is_video else [],
        "frames": frames,
        "samples": [{"t_ms": t_ms, "phash": hashed} for t_ms, hashed in taken],
        "picture_size": {"width": 640, "height": 360},
        "image_vectors": [{"idx": f["idx"], "vector": list(v)} for f, v in zip(frames, found, strict=True)],
    }


def commit_pictures(
    conn: Any, name: str, frames: list[dict[str, Any]], *, space: spaces.Space | None = None, **more: Any
) -> int:
    """Register an asset and commit its frames, with vectors when there is a space; returns its id."""
    still = all(f["shot"] is None for f in frames)
    asset_id = new_asset(
        conn, name, media_kind="image" if still else "video", audio_stream=None, duration_ms=None if still else 60_000
    )
    lanes = ("frames", "images") if space is not None else ("frames",)
    run_id = new_run(conn)
    units = claimed(conn, run_id, asset_id, lanes, {lane: PICTURE_PRINTS[lane] for lane in lanes})
    made = {"image": space} if space is not None else {}
    assert commit_row(conn, run_id, picture_row(asset_id, units, frames, **more), made) == "done"
    return asset_id


def unit(*values: float) -> np.ndarray:
    """A unit vector in the direction of `values`, padded to 8 dimensions."""
    vector = np.zeros(8, np.float32)
    vector[: len(values)] = values
    return vector / np.linalg.norm(vector)
