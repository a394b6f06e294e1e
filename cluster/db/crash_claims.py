"""Crash claims: a note made before work that may end its process, taken back after it.

A claim that is still open when the same row comes back in the same run is a crash of that row, or a
hang that its deadline ended. Runs that died charge nobody: their claims go with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg


@dataclass(frozen=True, slots=True)
class OpenClaims:
    """What earlier attempts at one asset left open: how many, where, and whether time ran out."""

    count: int
    stage: str
    deadline_s: float
    overdue: bool


def open_claim(
    conn: psycopg.Connection[Any],
    run_id: UUID,
    claim_id: UUID,
    stage: str,
    asset_ids: Sequence[int],
    deadline_s: float = 0.0,
    root: str | None = None,
) -> None:
    """Note that `stage` begins on the rows of these assets in this root lane; repeating it changes nothing."""
    conn.execute(
        "INSERT INTO crash_claims (run_id, asset_id, claim_id, stage, deadline_s, root)"
        " SELECT %s, asset_id, %s, %s, %s, %s FROM unnest(%s::bigint[]) asset_id"
        " ON CONFLICT (run_id, asset_id, claim_id) DO NOTHING",
        (run_id, claim_id, stage, deadline_s, root, list(asset_ids)),
    )


def close_claim(conn: psycopg.Connection[Any], run_id: UUID, claim_id: UUID, asset_ids: Sequence[int]) -> None:
    """Take the note back: the process lives."""
    conn.execute(
        "DELETE FROM crash_claims WHERE run_id = %s AND asset_id = ANY(%s) AND claim_id = %s",
        (run_id, list(asset_ids), claim_id),
    )


def mark_overdue(conn: psycopg.Connection[Any], run_id: UUID, claim_id: UUID) -> None:
    """Note that the work passed its deadline: the process ends itself now."""
    conn.execute("UPDATE crash_claims SET overdue = true WHERE run_id = %s AND claim_id = %s", (run_id, claim_id))


def left_open(
    conn: psycopg.Connection[Any], run_id: UUID, stage: str, asset_ids: Sequence[int], root: str | None = None
) -> dict[int, OpenClaims]:
    """What earlier attempts of the run at rows of this root lane left open in `stage`, by asset."""
    rows = conn.execute(
        "SELECT asset_id, count(*), max(deadline_s), bool_or(overdue) FROM crash_claims WHERE run_id = %s"
        " AND asset_id = ANY(%s) AND stage = %s AND root IS NOT DISTINCT FROM %s GROUP BY asset_id",
        (run_id, list(asset_ids), stage, root),
    )
    return {asset_id: OpenClaims(count, stage, deadline, late) for asset_id, count, deadline, late in rows}


def forget_claims(
    conn: psycopg.Connection[Any], run_id: UUID, asset_id: int | None = None, root: str | None = None
) -> None:
    """Drop the notes of one row of an asset, or of the whole run: they are settled, or charge nobody.

    The other row of the asset may be at work: its notes stay.
    """
    conn.execute(
        "DELETE FROM crash_claims WHERE run_id = %s"
        " AND (%s::bigint IS NULL OR (asset_id = %s AND root IS NOT DISTINCT FROM %s))",
        (run_id, asset_id, asset_id, root),
    )
