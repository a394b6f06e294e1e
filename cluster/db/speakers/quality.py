"""What keeps segments from having a voice print."""

from __future__ import annotations

from typing import Any

import psycopg

from cluster.db.spaces import active_space


def skipped_voices(conn: psycopg.Connection[Any], asset_id: int) -> dict[str, int]:
    """Reason -> how many segments of the asset have no vector in the active voice space, most frequent first."""
    space = active_space(conn, "voice")
    if space is None:
        return {}
    rows = conn.execute(
        "SELECT skip_reason, count(*) FROM voices JOIN segments USING (segment_id)"
        " WHERE asset_id = %s AND space_id = %s AND skip_reason IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1",
        (asset_id, space.space_id),
    )
    return dict(rows.fetchall())
