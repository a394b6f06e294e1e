"""What becomes of claimed units: failed, charged, put off; and by whom they were settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import psycopg

from cluster.db.ledger import PARENT_FAILED
from cluster.lanes import children, root_of


def fail_units(
    conn: psycopg.Connection[Any],
    asset_id: int,
    prints: Mapping[str, str],
    failed: Sequence[str],
    message: str,
) -> None:
    """The lanes in `failed` end as failed, their children as skipped."""
    for state, lanes, reason in (
        ("failed", list(failed), message),
        ("skipped", sorted(children(failed) - set(failed)), PARENT_FAILED),
    ):
        conn.execute(
            "UPDATE units SET state = %s, reason = %s, finished_at = now()"
            " WHERE asset_id = %s AND lane = ANY(%s) AND fingerprint = ANY(%s) AND state <> 'done'",
            (state, reason, asset_id, lanes, [prints[lane] for lane in lanes if lane in prints]),
        )


def charge_unit(conn: psycopg.Connection[Any], asset_id: int, lane: str, fingerprint: str, attempts: int) -> int:
    """Charge a unit with failed attempts; returns how many it has."""
    row = conn.execute(
        "UPDATE units SET attempts = attempts + %s WHERE asset_id = %s AND lane = %s AND fingerprint = %s"
        " RETURNING attempts",
        (attempts, asset_id, lane, fingerprint),
    ).fetchone()
    assert row is not None
    return row[0]


def postpone_units(
    conn: psycopg.Connection[Any], asset_id: int, prints: Mapping[str, str], lanes: Sequence[str], delay_s: float
) -> None:
    """The lanes and their children return to pending until `delay_s` seconds from now."""
    waiting = sorted({*lanes, *children(lanes)} & set(prints))
    conn.execute(
        "UPDATE units SET state = 'pending', not_before = now() + make_interval(secs => %s)"
        " WHERE asset_id = %s AND lane = ANY(%s) AND fingerprint = ANY(%s) AND state = 'running'",
        (delay_s, asset_id, waiting, [prints[lane] for lane in waiting]),
    )


def settled_by(
    conn: psycopg.Connection[Any],
    run_id: UUID,
    asset_ids: Sequence[int],
    prints: Mapping[str, str],
    lanes: Sequence[str],
) -> dict[tuple[int, str], str]:
    """What became of those (asset, root lane) that wait for nothing: `failed` or `done` by the run, or `taken`."""
    rows = conn.execute(
        "SELECT asset_id, root, CASE WHEN bool_or(state = 'failed' AND run_id = %(run)s) THEN 'failed'"
        "  WHEN bool_or(state = 'done' AND run_id = %(run)s) AND NOT bool_or(state = 'running') THEN 'done'"
        "  ELSE 'taken' END"
        " FROM units JOIN unnest(%(lanes)s::text[], %(prints)s::text[], %(roots)s::text[]) t(lane, fingerprint, root)"
        "  USING (lane, fingerprint) WHERE asset_id = ANY(%(ids)s)"
        " GROUP BY asset_id, root HAVING NOT bool_or(state = 'pending')",
        {
            "run": run_id,
            "ids": list(asset_ids),
            "lanes": list(lanes),
            "prints": [prints[lane] for lane in lanes],
            "roots": [root_of(lane) for lane in lanes],
        },
    )
    return {(asset_id, root): outcome for asset_id, root, outcome in rows}
