"""Ledgers for `scale_ledger`: a million units by SQL, and some hours of rows as long as real ones."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import numpy as np
import psycopg

from cluster.db import ledger, results, runs, spaces
from cluster.profiles import ModelChoice
from tests.corpus_rows import new_asset
from tests.picture_rows import frame, phash

# As long as real ones: a fingerprint is the hex of a SHA-256.
PRINTS = {lane: hashlib.sha256(lane.encode()).hexdigest() for lane in ("speech", "voices", "texts", "frames", "images")}
ARCHIVE_H = 1200
HOURS = 12
# An hour of conversation: 150 words a minute, a segment of 6.7 s, chunks of 40 s, ten keyframes a minute.
WORDS, SEGMENTS, CHUNKS, FRAMES = 9_000, 540, 90, 600
DIMENSIONS = {"voice": 256, "text": 384, "image": 512}
SEED = 8
# English words are about as long, and no text repeats itself.
LETTERS, WORD_LETTERS = "etaoinshrdlucmfw", (2, 9)
# Of the finished assets, one in so many has a failed unit of this lane: some part of an archive is always broken.
FAILED_EVERY, FAILED_LANE = 20, "images"
_TIMINGS = '{"timings": {"decode": 1.2, "speech_activity": 3.4, "transcribe": 31.0, "diarize": 9.5, "voices": 4.1}}'

Connection = psycopg.Connection[Any]


def fill(conn: Connection, run_id: uuid.UUID, assets: int, pending: int) -> None:
    """So many films of one to ten minutes, each with a source and five units: pending, failed, or done by one run."""
    conn.execute(
        "INSERT INTO assets (sha256, byte_size, media_kind, audio_stream, duration_ms, recorded_at)"
        " SELECT sha256(i::text::bytea), 1000000 + i, 'video', 0, 60000 + i * 7919 %% 540000,"
        " now() - i * interval '1 minute' FROM generate_series(1, %s) i",
        (assets,),
    )
    conn.execute(
        "INSERT INTO sources (uri, asset_id, byte_size, mtime_ns) SELECT '/archive/' || asset_id % 97 || '/recording-'"
        " || asset_id || '.mp4', asset_id, byte_size, 1 FROM assets"
    )
    _start(conn, run_id, assets)
    conn.execute(
        "INSERT INTO units (asset_id, lane, fingerprint, state, run_id, node, outputs, detail, pace, started_at,"
        " finished_at) SELECT asset_id, lane, print, 'done', %s, 'node-' || asset_id %% 4, 10, %s,"
        " 20 + asset_id %% 1000 / 10.0, now() - interval '5 hours' + asset_id * interval '60 ms',"
        " now() - interval '5 hours' + asset_id * interval '60 ms' + interval '40 s'"
        " FROM assets, unnest(%s::text[], %s::text[]) l(lane, print) ORDER BY asset_id",
        (run_id, _TIMINGS, list(PRINTS), list(PRINTS.values())),
    )
    conn.execute(
        "UPDATE units SET state = 'pending', run_id = NULL, node = NULL, outputs = NULL, pace = NULL,"
        " started_at = NULL, finished_at = NULL, detail = '{}' WHERE asset_id <= %s",
        (pending,),
    )
    conn.execute(
        "WITH broken AS (UPDATE units SET state = 'failed', reason = 'broken', outputs = NULL, pace = NULL"
        " WHERE lane = %s AND asset_id > %s AND asset_id %% %s = 0 RETURNING *)"
        " INSERT INTO failures (run_id, asset_id, lane, fingerprint, failure, stage, message)"
        " SELECT run_id, asset_id, lane, fingerprint, 'bug', 'images', 'broken' FROM broken ORDER BY asset_id",
        (FAILED_LANE, pending, FAILED_EVERY),
    )
    runs.finish_run(conn, run_id, "done", {})
    conn.execute("VACUUM ANALYZE")


def _start(conn: Connection, run_id: uuid.UUID, assets: int) -> None:
    runs.start_run(conn, run_id, "ingest", {})
    work = {"media_s": assets * 330.0, "lanes": dict.fromkeys(PRINTS, assets), "prints": PRINTS}
    runs.set_planned(conn, run_id, assets, work)


def fill_hours(conn: Connection, hours: int) -> None:
    """So many assets of one hour each, committed lane by lane as the pipeline does, with indexes for search."""
    run_id = uuid.uuid4()
    runs.start_run(conn, run_id, "ingest", {})
    made = {kind: _space(conn, kind) for kind in DIMENSIONS}
    rng = np.random.default_rng(SEED)
    for number in range(hours):
        asset_id = new_asset(conn, f"hour-{number}", media_kind="video", duration_ms=3_600_000)
        ledger.ensure_units(conn, [asset_id], PRINTS, list(PRINTS))
        for lanes, row in ((("speech", "voices", "texts"), _heard(rng)), (("frames", "images"), _seen(rng, number))):
            units = ledger.claim_units(conn, run_id, asset_id, lanes, PRINTS)
            whole = {"asset_id": asset_id, "uri": "/x", "units": units, "error": None, "timings": [], **row}
            if results.commit_row(conn, run_id, whole, made) != "done":
                raise RuntimeError(f"hour {number} was not committed")
    for space in made.values():
        spaces.activate_if_complete(conn, space)
        spaces.ensure_index(conn, space)


def _space(conn: Connection, kind: str) -> spaces.Space:
    choice = ModelChoice(role=kind, profile="test", engine="none", weights="path:/none", dimension=DIMENSIONS[kind])
    return spaces.ensure_space(conn, kind, choice, {"kind": kind})


def _vectors(rng: np.random.Generator, count: int, kind: str) -> np.ndarray[Any, Any]:
    found = rng.standard_normal((count, DIMENSIONS[kind]), np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _heard(rng: np.random.Generator) -> dict[str, Any]:
    said = ["".join(rng.choice(list(LETTERS), rng.integers(*WORD_LETTERS))) for _ in range(WORDS)]
    words = [
        {"start_ms": 400 * n, "end_ms": 400 * n + 350, "text": word, "probability": float(rng.random())}
        for n, word in enumerate(said)
    ]
    each, per_chunk = WORDS // SEGMENTS, SEGMENTS // CHUNKS
    segments = [
        {
            "idx": n,
            "start_ms": 6_600 * n,
            "end_ms": 6_600 * n + 6_500,
            "local_speaker": n % 3,
            "text": " ".join(said[n * each : (n + 1) * each]),
            "words": words[n * each : (n + 1) * each],
            "text_skip_reason": None,
        }
        for n in range(SEGMENTS)
    ]
    voices = [
        {"idx": n, "start_sample": 104_000 * n, "end_sample": 104_000 * n + 102_400, "vector": v, "skip_reason": None}
        for n, v in enumerate(_vectors(rng, SEGMENTS, "voice"))
    ]
    chunks = [
        {
            "idx": n,
            "first_segment": n * per_chunk,
            "last_segment": (n + 1) * per_chunk - 1,
            "start_ms": 40_000 * n,
            "end_ms": 40_000 * n + 39_000,
            "text": " ".join(said[n * each * per_chunk : (n + 1) * each * per_chunk]),
            "vector": v,
        }
        for n, v in enumerate(_vectors(rng, CHUNKS, "text"))
    ]
    return {
        "audio_sha256": hashlib.sha256(rng.bytes(8)).hexdigest(),
        "transcript": {"language": "en"},
        "segments": segments,
        "voices": voices,
        "voice_cache_hits": 0,
        "chunks": chunks,
    }


def _seen(rng: np.random.Generator, number: int) -> dict[str, Any]:
    frames = [frame(n, phash(number * FRAMES + n), 6_000 * n, shot=n // 2) for n in range(FRAMES)]
    return {
        "shots": [{"start_ms": 12_000 * n, "end_ms": 12_000 * (n + 1)} for n in range(FRAMES // 2)],
        "frames": frames,
        "samples": [{"t_ms": f["t_ms"], "phash": f["phash"]} for f in frames],
        "picture_size": {"width": 1920, "height": 1080},
        "image_vectors": [{"idx": n, "vector": v} for n, v in enumerate(_vectors(rng, FRAMES, "image"))],
    }
