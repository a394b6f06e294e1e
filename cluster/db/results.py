"""Commit one row: everything a pass computed for one asset, in one transaction or not at all."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, LiteralString
from uuid import UUID

import numpy as np
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from cluster.db.copy import stage_rows
from cluster.db.counts import FOLD_EVERY, fold
from cluster.db.crash_claims import forget_claims
from cluster.db.local_voices import spans_of, without_forgotten, write_ghosts, write_local_voices
from cluster.db.pictures import write_frames, write_image_vectors
from cluster.db.register import add_failure
from cluster.db.runs import pass_gate
from cluster.db.settling import charge_unit, fail_units, postpone_units
from cluster.db.spaces import Space
from cluster.db.speakers.carry import lock_naming, remember, resettle
from cluster.errors import FailureClass
from cluster.faults import FaultPoint, reach
from cluster.lanes import PARENT, SPACE_OF_LANE, children
from cluster.retry import next_try_s
from cluster.tally import TALLY
from cluster.types import errors_of

Row = Mapping[str, Any]


def commit_row(
    conn: psycopg.Connection[Any], run_id: UUID, row: Row, spaces: Mapping[str, Space], retry_base_s: float = 5.0
) -> str:
    """Write the row's lanes and settle its units; returns the outcome.

    `done`: every lane committed; `failed`: at least one lane did not and will not; `retry`: at least
    one lane waits for its next attempt; `fenced`: a newer generation owns the units, nothing was
    written; `stopped`: the run takes no more commits. `retry_base_s` is the first delay of a retry.
    """
    units = {unit["lane"]: unit for unit in row["units"] or ()}
    with conn.transaction():
        reach(FaultPoint.COMMIT_BEGUN, row["uri"])
        if _SPOKEN.intersection(units):
            lock_naming(conn, row["asset_id"])
        # Before the gate: a commit that landed and whose answer was lost is done, stopped or not.
        state = _fence(conn, run_id, row["asset_id"], units)
        if state != "mine":
            return state
        if not pass_gate(conn, run_id):
            return "stopped"
        reach(FaultPoint.COMMIT_FENCED, row["uri"])
        failed = _failed_lanes(row, units)
        done = [lane for lane in units if lane not in failed and lane not in children(failed)]
        before = remember(conn, row["asset_id"]) if _SPOKEN.intersection(done) else None
        for lane in done:
            _WRITERS[lane](conn, row, spaces)
            reach(_WRITTEN[lane], row["uri"])
        if _SPOKEN.intersection(done):
            resettle(conn, row["asset_id"], before, voiced="voices" in done)
        for lane in done:
            _finish(conn, row, units[lane], spaces.get(SPACE_OF_LANE.get(lane, "")))
        outcome = _record_failures(conn, run_id, row, units, failed, retry_base_s)
        forget_claims(conn, run_id, row["asset_id"], row.get("root"))
        reach(FaultPoint.UNITS_SETTLED, row["uri"])
    reach(FaultPoint.COMMITTED, row["uri"])
    TALLY.written.update({lane: len(row[_OUTPUT[lane]]) for lane in done})
    TALLY.voice_cache_hits += (row.get("voice_cache_hits") or 0) if "voices" in done else 0
    if row["asset_id"] % FOLD_EVERY == 0:
        fold(conn)
    return outcome


def _fence(conn: psycopg.Connection[Any], run_id: UUID, asset_id: int, units: Row) -> str:
    lanes = sorted(units)
    # One commit per asset at a time: a speech commit also removes units of other runs.
    conn.execute("SELECT 1 FROM assets WHERE asset_id = %s FOR NO KEY UPDATE", (asset_id,))
    found = conn.execute(
        "SELECT u.state, u.generation = t.generation AND u.run_id = %s"
        " FROM units u JOIN unnest(%s::text[], %s::text[], %s::bigint[]) t(lane, fingerprint, generation)"
        " USING (lane, fingerprint) WHERE u.asset_id = %s ORDER BY u.lane FOR UPDATE OF u",
        (run_id, lanes, [units[lane]["fingerprint"] for lane in lanes],
         [units[lane]["generation"] for lane in lanes], asset_id),
    ).fetchall()  # fmt: skip
    states = {state for state, _ in found}
    if not found or not all(mine for _, mine in found):
        return "fenced"
    if states == {"running"}:
        return "mine"
    # Settled by an earlier call whose answer was lost.
    return "failed" if "failed" in states else "retry" if "pending" in states else "done"


def _failed_lanes(row: Row, units: Row) -> dict[str, Row]:
    """Lane -> the error that failed it; children of a failed lane are not charged themselves."""
    blamed: dict[str, Row] = {}
    for error in errors_of(row["error"]):
        for lane in units if error["lanes"] is None else error["lanes"]:
            blamed.setdefault(lane, error)
    return {lane: blamed[lane] for lane in sorted(set(units) & set(blamed)) if PARENT.get(lane) not in blamed}


def _record_failures(
    conn: psycopg.Connection[Any], run_id: UUID, row: Row, units: Row, failed: Mapping[str, Row], retry_base_s: float
) -> str:
    asset_id, outcomes = row["asset_id"], {"done"}
    prints = {lane: unit["fingerprint"] for lane, unit in units.items()}
    for lane, error in failed.items():
        attempts = charge_unit(conn, asset_id, lane, prints[lane], error["attempts"])
        delay_s = next_try_s(FailureClass(error["failure"]), attempts, retry_base_s, random.random())
        if delay_s is None:
            fail_units(conn, asset_id, prints, [lane], error["message"])
        else:
            postpone_units(conn, asset_id, prints, [lane], delay_s)
        outcomes.add("failed" if delay_s is None else "retry")
        add_failure(
            conn,
            run_id=run_id,
            asset_id=asset_id,
            uri=row["uri"],
            lane=lane,
            fingerprint=prints[lane],
            failure=error["failure"],
            stage=error["stage"],
            message=error["message"],
        )
    return next(outcome for outcome in ("failed", "retry", "done") if outcome in outcomes)


def _finish(conn: psycopg.Connection[Any], row: Row, unit: Row, space: Space | None) -> None:
    lane = unit["lane"]
    timings = {t["stage"]: round(t["seconds"], 3) for t in row["timings"] or ()}
    detail: dict[str, Any] = {"timings": timings}
    if space is not None:
        detail["space_id"] = space.space_id
    if lane in _DETAIL:
        detail[_DETAIL[lane]] = row.get(_DETAIL[lane])
    conn.execute(
        "UPDATE units SET state = 'done', outputs = %s, detail = %s, finished_at = now(), reason = NULL,"
        " attempts = 0, pace = (SELECT a.duration_ms / 1000.0 / nullif(%s, 0) FROM assets a"
        "   WHERE a.asset_id = units.asset_id AND a.duration_ms > 0)"
        " WHERE asset_id = %s AND lane = %s AND fingerprint = %s",
        (len(row[_OUTPUT[lane]]), Jsonb(detail), sum(timings.values()), row["asset_id"], lane, unit["fingerprint"]),
    )


def _write_speech(conn: psycopg.Connection[Any], row: Row, spaces: Mapping[str, Space]) -> None:
    replace_segments(conn, row["asset_id"], row["segments"])
    _drop_derived(conn, row, "speech")


def _write_frames(conn: psycopg.Connection[Any], row: Row, spaces: Mapping[str, Space]) -> None:
    write_frames(conn, row["asset_id"], row)
    _drop_derived(conn, row, "frames")


def _write_images(conn: psycopg.Connection[Any], row: Row, spaces: Mapping[str, Space]) -> None:
    write_image_vectors(conn, spaces["image"], row["asset_id"], row["image_vectors"], row["frames"])


def _drop_derived(conn: psycopg.Connection[Any], row: Row, root: str) -> None:
    """Drop the units of what other fingerprints derived, or are deriving now, from the replaced rows of `root`.

    A child lane that read those before is fenced off by it.
    """
    mine = [unit["lane"] + unit["fingerprint"] for unit in row["units"]]
    conn.execute(
        "DELETE FROM units WHERE asset_id = %s AND lane = ANY(%s) AND lane || fingerprint <> ALL(%s)"
        " AND state <> 'pending'",
        (row["asset_id"], [root, *children([root])], mine),
    )


def replace_segments(conn: psycopg.Connection[Any], asset_id: int, segments: Sequence[Row]) -> None:
    """Write an asset's segments and local speakers in place of the old ones; what hung on those goes with them.

    The caller holds the transaction, and settles the units and the names.
    """
    conn.execute("DELETE FROM segments WHERE asset_id = %s", (asset_id,))
    conn.execute("DELETE FROM chunks WHERE asset_id = %s", (asset_id,))
    conn.execute("DELETE FROM local_speakers WHERE asset_id = %s", (asset_id,))
    stage_rows(conn, "stage_segments", _SEGMENT_COLUMNS, (_segment(asset_id, s) for s in segments))
    names = ", ".join(_SEGMENT_COLUMNS)
    conn.execute(
        f"INSERT INTO segments ({names}) SELECT DISTINCT ON (asset_id, idx) {names} FROM stage_segments"
        " ORDER BY asset_id, idx".encode()
    )
    conn.execute(
        "INSERT INTO local_speakers (asset_id, local_speaker, segments, speech_ms)"
        " SELECT asset_id, local_speaker, count(*), sum(end_ms - start_ms) FROM segments"
        " WHERE asset_id = %s AND local_speaker IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2",
        (asset_id,),
    )
    write_ghosts(conn, asset_id, spans_of(segments))


_SEGMENT_COLUMNS: dict[str, LiteralString] = {
    "asset_id": "bigint",
    "idx": "int4",
    "start_ms": "int4",
    "end_ms": "int4",
    "local_speaker": "int2",
    "text": "text",
    "words": "jsonb",
    "text_skip_reason": "text",
}


def _segment(asset_id: int, segment: Row) -> tuple[Any, ...]:
    words = [[w["start_ms"], w["end_ms"], w["text"], round(w["probability"], 4)] for w in segment["words"]]
    return (
        asset_id, segment["idx"], segment["start_ms"], segment["end_ms"], segment["local_speaker"],
        segment["text"], Jsonb(words), segment["text_skip_reason"],
    )  # fmt: skip


def _write_voices(conn: psycopg.Connection[Any], row: Row, spaces: Mapping[str, Space]) -> None:
    space, asset_id = spaces["voice"], row["asset_id"]
    _check_paired(row, "voices")
    conn.execute(
        "DELETE FROM voices v USING segments s"
        " WHERE s.segment_id = v.segment_id AND s.asset_id = %s AND v.space_id = %s",
        (asset_id, space.space_id),
    )
    _delete_vectors(conn, space, "segments", asset_id)
    audio_sha256 = bytes.fromhex(row["audio_sha256"])
    conn.execute("UPDATE assets SET audio_sha256 = %s WHERE asset_id = %s", (audio_sha256, asset_id))
    columns: dict[str, LiteralString] = {
        "idx": "int4",
        "start_sample": "int8",
        "end_sample": "int8",
        "skip_reason": "text",
        "embedding": "vector",
    }
    voices = without_forgotten(conn, asset_id, row["segments"], row["voices"])
    stage_rows(conn, "stage_voices", columns, _voices(voices))
    conn.execute(
        "INSERT INTO voices (segment_id, space_id, skip_reason) SELECT s.segment_id, %s, v.skip_reason"
        " FROM stage_voices v JOIN segments s ON s.asset_id = %s AND s.idx = v.idx ORDER BY s.segment_id",
        (space.space_id, asset_id),
    )
    conn.execute(
        sql.SQL(
            "INSERT INTO {} (segment_id, embedding) SELECT s.segment_id, v.embedding FROM stage_voices v"
            " JOIN segments s ON s.asset_id = %s AND s.idx = v.idx WHERE v.embedding IS NOT NULL ORDER BY s.segment_id"
        ).format(sql.Identifier(space.table_name)),
        (asset_id,),
    )
    conn.execute(
        sql.SQL(
            "INSERT INTO {} (audio_sha256, start_sample, end_sample, embedding)"
            " SELECT DISTINCT ON (start_sample, end_sample) %s::bytea, start_sample, end_sample, embedding"
            " FROM stage_voices WHERE embedding IS NOT NULL ORDER BY start_sample, end_sample ON CONFLICT DO NOTHING"
        ).format(sql.Identifier(space.cache_table)),
        (audio_sha256,),
    )
    write_local_voices(conn, space, asset_id, row["segments"], voices)


def _voices(voices: Sequence[Row]) -> Iterable[tuple[Any, ...]]:
    for voice in voices:
        vector = voice["vector"]
        yield (
            voice["idx"], voice["start_sample"], voice["end_sample"], voice["skip_reason"],
            None if vector is None else np.asarray(vector, np.float32),
        )  # fmt: skip


def _check_paired(row: Row, column: str) -> None:
    have = Counter(item["idx"] for item in row[column])
    want = Counter(segment["idx"] for segment in row["segments"])
    if have != want:
        raise AssertionError(
            f"asset {row['asset_id']}: {sum(want.values())} segments but {sum(have.values())} {column}; "
            "every segment needs exactly one"
        )


def _delete_vectors(conn: psycopg.Connection[Any], space: Space, parent: str, asset_id: int) -> None:
    owner = "segment_id" if parent == "segments" else "chunk_id"
    conn.execute(
        sql.SQL("DELETE FROM {} WHERE {} IN (SELECT {} FROM {} WHERE asset_id = %s)").format(
            *map(sql.Identifier, (space.table_name, owner, owner, parent))
        ),
        (asset_id,),
    )


def _write_texts(conn: psycopg.Connection[Any], row: Row, spaces: Mapping[str, Space]) -> None:
    space, asset_id = spaces["text"], row["asset_id"]
    conn.execute("DELETE FROM chunks WHERE asset_id = %s AND space_id = %s", (asset_id, space.space_id))
    names = ("idx", "first_segment", "last_segment", "start_ms", "end_ms", "text")
    columns: dict[str, LiteralString] = dict.fromkeys(names[:-1], "int4")
    columns |= {"text": "text", "embedding": "vector"}
    stage_rows(
        conn,
        "stage_chunks",
        columns,
        ((*(chunk[name] for name in names), np.asarray(chunk["vector"], np.float32)) for chunk in row["chunks"]),
    )
    listed = ", ".join(names)
    conn.execute(
        f"INSERT INTO chunks (asset_id, space_id, {listed}) SELECT DISTINCT ON (idx) %s::bigint, %s::int, {listed}"
        " FROM stage_chunks ORDER BY idx".encode(),
        (asset_id, space.space_id),
    )
    conn.execute(
        sql.SQL(
            "INSERT INTO {} (chunk_id, embedding) SELECT c.chunk_id, s.embedding FROM stage_chunks s"
            " JOIN chunks c ON c.asset_id = %s AND c.space_id = %s AND c.idx = s.idx ORDER BY c.chunk_id"
        ).format(sql.Identifier(space.table_name)),
        (asset_id, space.space_id),
    )


# Lanes after which a name may belong elsewhere.
_SPOKEN = frozenset({"speech", "voices"})
_WRITERS = {
    "speech": _write_speech,
    "voices": _write_voices,
    "texts": _write_texts,
    "frames": _write_frames,
    "images": _write_images,
}
_WRITTEN = {
    "speech": FaultPoint.SPEECH_WRITTEN,
    "voices": FaultPoint.VOICES_WRITTEN,
    "texts": FaultPoint.TEXTS_WRITTEN,
    "frames": FaultPoint.FRAMES_WRITTEN,
    "images": FaultPoint.IMAGES_WRITTEN,
}
_OUTPUT = {"speech": "segments", "voices": "voices", "texts": "chunks", "frames": "frames", "images": "image_vectors"}
_DETAIL = {"speech": "transcript", "voices": "voice_cache_hits"}
