"""Transcripts as they are stored: what a new text space is made from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import psycopg


def stored_transcripts(conn: psycopg.Connection[Any]) -> dict[str, list[int]]:
    """Speech fingerprint -> the assets whose segments it made, most assets first."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for fingerprint, asset_id in conn.execute(
        "SELECT fingerprint, asset_id FROM units WHERE lane = 'speech' AND state = 'done' ORDER BY asset_id"
    ):
        found[fingerprint].append(asset_id)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def count_chunks(conn: psycopg.Connection[Any], asset_ids: Sequence[int], space_id: int | None) -> int:
    """Chunks of these assets in a space."""
    row = conn.execute(
        "SELECT count(*) FROM chunks WHERE asset_id = ANY(%s) AND space_id = %s", (list(asset_ids), space_id)
    ).fetchone()
    return row[0] if row else 0


def last_texts_per_s(conn: psycopg.Connection[Any]) -> dict[int, float]:
    """Space id -> texts per second of the last run that filled it from stored transcripts."""
    rows = conn.execute(
        "SELECT DISTINCT ON (1) (summary->>'space_id')::int, (summary->>'texts_per_s')::float8 FROM runs"
        " WHERE kind = 'reembed' AND (summary->>'texts_per_s')::float8 > 0 ORDER BY 1, started_at DESC"
    )
    return dict(rows.fetchall())


def note_texts_per_s(conn: psycopg.Connection[Any], run_id: str, space_id: int, texts_per_s: float) -> None:
    """Record in the run's summary how fast it filled the space."""
    conn.execute(
        "UPDATE runs SET summary = summary || jsonb_build_object('space_id', %s::int, 'texts_per_s', %s::float8)"
        " WHERE run_id = %s",
        (space_id, texts_per_s, run_id),
    )


def speech_fingerprint(conn: psycopg.Connection[Any], asset_id: int) -> str | None:
    """The fingerprint of the asset's transcript; None when it has none."""
    row = conn.execute(
        "SELECT fingerprint FROM units WHERE asset_id = %s AND lane = 'speech' AND state = 'done'"
        " ORDER BY finished_at DESC LIMIT 1",
        (asset_id,),
    ).fetchone()
    return None if row is None else row[0]


def lacks_child(conn: psycopg.Connection[Any], asset_id: int, lane: str, child_of: Callable[[str], str]) -> bool:
    """Whether the asset has a transcript without this child lane; False where there is no transcript.

    `child_of` gives the lane's fingerprint for that of the transcript.
    """
    speech = speech_fingerprint(conn, asset_id)
    return speech is not None and unit_state(conn, asset_id, lane, child_of(speech)) != "done"


def unit_state(conn: psycopg.Connection[Any], asset_id: int, lane: str, fingerprint: str) -> str | None:
    """The state of a unit; None when there is no such unit."""
    row = conn.execute(
        "SELECT state FROM units WHERE asset_id = %s AND lane = %s AND fingerprint = %s", (asset_id, lane, fingerprint)
    ).fetchone()
    return None if row is None else row[0]
