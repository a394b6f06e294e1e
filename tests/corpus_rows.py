"""Synthetic assets and computed rows, so that the database is tested without models."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import numpy as np

from cluster.db import ledger, runs, spaces
from cluster.db.register import NewAsset, add_asset, add_source
from cluster.profiles import ModelChoice

PRINTS = {"speech": "s1", "voices": "v1", "texts": "t1"}
LANES = ("speech", "voices", "texts")


def choice(kind: str, dimension: int = 8, profile: str = "test") -> ModelChoice:
    role = {"voice": "voice", "text": "text"}[kind]
    engine = {"voice": "ge2e", "text": "none"}[kind]
    return ModelChoice(role=role, profile=profile, engine=engine, weights="path:/none", dimension=dimension)


def make_spaces(conn: Any, dimension: int = 8) -> dict[str, spaces.Space]:
    return {
        kind: spaces.ensure_space(conn, kind, choice(kind, dimension), {"kind": kind, "d": dimension})
        for kind in ("voice", "text")
    }


def new_run(conn: Any) -> uuid.UUID:
    run_id = uuid.uuid4()
    runs.start_run(conn, run_id, "ingest", {})
    return run_id


def new_asset(conn: Any, name: str, **fields: Any) -> int:
    values = {"media_kind": "audio", "audio_stream": 0, "duration_ms": 60_000, **fields}
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    asset_id = add_asset(conn, NewAsset(sha256=sha256, byte_size=10, **values))
    add_source(conn, f"/media/{name}", asset_id, 10, 1, None)
    return asset_id


def claimed(
    conn: Any, run_id: uuid.UUID, asset_id: int, lanes: Any = LANES, prints: Any = None, node: str = "node-1"
) -> list[dict[str, Any]]:
    prints = prints or PRINTS
    ledger.ensure_units(conn, [asset_id], prints, list(prints))
    return ledger.claim_units(conn, run_id, asset_id, lanes, prints, node)


def unit_vector(seed: int, dimension: int = 8) -> list[float]:
    vector = np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
    return list(vector / np.linalg.norm(vector))


def computed_row(
    asset_id: int,
    units: list[dict[str, Any]],
    *,
    segments: int = 4,
    dimension: int = 8,
    text: str = "hello world",
) -> dict[str, Any]:
    words = [{"start_ms": 0, "end_ms": 500, "text": "hello", "probability": 0.9}]
    listed = [
        {
            "idx": i,
            "start_ms": i * 1000,
            "end_ms": i * 1000 + 900,
            "local_speaker": None if i == 3 else i % 2,
            "text": f"{text} {i}",
            "words": words,
            "text_skip_reason": None,
        }
        for i in range(segments)
    ]
    voices = [
        {
            "idx": i,
            "start_sample": i * 16_000,
            "end_sample": i * 16_000 + 14_400,
            "vector": None if i == 2 else unit_vector(asset_id * 100 + i, dimension),
            "skip_reason": "too_short" if i == 2 else None,
        }
        for i in range(segments)
    ]
    chunks = [
        {
            "idx": 0,
            "first_segment": 0,
            "last_segment": segments - 1,
            "start_ms": 0,
            "end_ms": segments * 1000,
            "text": " ".join(s["text"] for s in listed),
            "vector": unit_vector(asset_id, dimension),
        }
    ]
    return {
        "asset_id": asset_id,
        "uri": f"/media/{asset_id}",
        "units": units,
        "error": None,
        "timings": [{"stage": "decode", "seconds": 0.1}],
        "audio_sha256": hashlib.sha256(str(asset_id).encode()).hexdigest(),
        "transcript": {"language": "en"},
        "segments": listed,
        "voices": voices,
        "voice_cache_hits": 0,
        "chunks": chunks if segments else [],
    }
