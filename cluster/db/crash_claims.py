"""Crash claims: a note made before work that may end its process, taken back after it.

A claim that is still open when the same row comes back in the same run is a crash of that row, or a
hang that its deadline ended. Runs that died charge nobody: their claims go with them. Nodes that were lost
are nobody's fault, unless they are lost again and again under the same row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any
from uuid import UUID

import psycopg

# A third node that goes down under the same row is no accident.
FORGIVEN_NODES = 2
# Which of these nodes are gone.
Gone = Callable[[Sequence[str]], Sequence[str]]


def nobody_gone(nodes: Sequence[str]) -> Sequence[str]:
    """Outside a cluster a process dies alone."""
    return ()


@dataclass(frozen=True, slots=True)
class OpenClaims:
    """What earlier attempts at one asset left open: how many deaths to charge, where, and whether time ran out."""

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
    node: str | None = None,
) -> None:
    """Note that `stage` begins on the rows of these assets in this root lane; repeating it changes nothing."""
    conn.execute(
        "INSERT INTO crash_claims (run_id, asset_id, claim_id, stage, deadline_s, root, node)"
        " SELECT %s, asset_id, %s, %s, %s, %s, %s FROM unnest(%s::bigint[]) asset_id"
        " ON CONFLICT (run_id, asset_id, claim_id) DO NOTHING",
        (run_id, claim_id, stage, deadline_s, root, node, list(asset_ids)),
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
    conn: psycopg.Connection[Any],
    run_id: UUID,
    stage: str,
    asset_ids: Sequence[int],
    root: str | None = None,
    gone: Gone = nobody_gone,
) -> dict[int, OpenClaims]:
    """What earlier attempts of the run at rows of this root lane left open in `stage`, by asset.

    Of the claims whose node is `gone`, `FORGIVEN_NODES` count for nothing.
    """
    rows = conn.execute(
        "SELECT asset_id, deadline_s, overdue, node FROM crash_claims WHERE run_id = %s"
        " AND asset_id = ANY(%s) AND stage = %s AND root IS NOT DISTINCT FROM %s ORDER BY asset_id",
        (run_id, list(asset_ids), stage, root),
    ).fetchall()
    # Asked only when there is something to charge: a cluster takes a while to answer.
    lost = set(gone(sorted({node for *_, node in rows if node}))) if rows else set()
    found: dict[int, OpenClaims] = {}
    for asset_id, group in groupby(rows, key=itemgetter(0)):
        claims = list(group)
        nodes_lost = sum(node in lost and not late for _, _, late, node in claims)
        deaths = len(claims) - min(nodes_lost, FORGIVEN_NODES)
        if deaths:
            longest_s = max(deadline for _, deadline, _, _ in claims)
            found[asset_id] = OpenClaims(deaths, stage, longest_s, any(late for _, _, late, _ in claims))
    return found


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
