"""How many units there are of each kind, kept beside them: a million are not counted to tell how far the work is.

Triggers append each change to `unit_counts` (migration 0007), so that no writer waits for another; `fold` adds the
rows up. The sum is exact in every snapshot, folded or not; `rushes db check` compares it with the units.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

import psycopg

# Adding up this many rows takes milliseconds; they come from about as many commits as an actor makes in minutes.
FOLD_EVERY = 64
_FOLD_LOCK = 0x756E6974
# One at a time: the others have nothing to wait for. A row that is written meanwhile stays for the next time.
_FOLD = """
WITH whole AS (DELETE FROM unit_counts WHERE (SELECT pg_try_advisory_xact_lock(%s)) RETURNING *)
INSERT INTO unit_counts
SELECT run_id, node, lane, fingerprint, state, sum(units), sum(media_ms) FROM whole
GROUP BY 1, 2, 3, 4, 5 HAVING sum(units) <> 0 OR sum(media_ms) <> 0
"""


def fold(conn: psycopg.Connection[Any]) -> None:
    """Add up what was appended since the last time, unless somebody else does so now."""
    conn.execute(_FOLD, (_FOLD_LOCK,))


def by_state(conn: psycopg.Connection[Any], prints: Mapping[str, str]) -> dict[tuple[str, str], tuple[int, int]]:
    """(lane, state) -> units of these fingerprints and the ms of media they are of; nothing for none."""
    rows = conn.execute(
        "SELECT lane, state, sum(units)::bigint, sum(media_ms)::bigint FROM unit_counts"
        " WHERE (lane, fingerprint) IN (SELECT * FROM unnest(%s::text[], %s::text[]))"
        " GROUP BY 1, 2 HAVING sum(units) <> 0",
        (list(prints), list(prints.values())),
    )
    return {(lane, state): (units, media_ms) for lane, state, units, media_ms in rows}


def of_run(conn: psycopg.Connection[Any], run_id: UUID) -> dict[tuple[str | None, str, str], tuple[int, int]]:
    """(node, lane, state) -> units that the run took last, and the ms of media they are of; nothing for none."""
    rows = conn.execute(
        "SELECT node, lane, state, sum(units)::bigint, sum(media_ms)::bigint FROM unit_counts WHERE run_id = %s"
        " GROUP BY 1, 2, 3 HAVING sum(units) <> 0",
        (run_id,),
    )
    return {(node, lane, state): (units, media_ms) for node, lane, state, units, media_ms in rows}


def complete_lanes(conn: psycopg.Connection[Any], prints: Mapping[str, str], lanes: Collection[str]) -> set[str]:
    """Those of the lanes in which every asset has its unit under the fingerprint."""
    rows = conn.execute(
        "SELECT lane FROM unit_counts WHERE (lane, fingerprint) IN (SELECT * FROM unnest(%s::text[], %s::text[]))"
        " GROUP BY 1 HAVING sum(units) = (SELECT count(*) FROM assets)",
        (list(lanes), [prints[lane] for lane in lanes]),
    )
    return {row[0] for row in rows}
