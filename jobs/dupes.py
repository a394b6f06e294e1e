"""The job that finds near duplicates: what was committed since the last time, compared with all there is."""

from __future__ import annotations

from collections.abc import Callable

from cluster.db.duplicates.find import compare_again, compare_one, waiting
from cluster.db.patience import Session


def compare(session: Session, *, again: bool = False, told: Callable[[int, int], None] | None = None) -> int:
    """Compare every asset that waits, or all when `again`; returns the pairs found.

    Each asset commits by itself: killed and repeated, it goes on where it stopped. `told` hears how many of how
    many are done.
    """
    if again:
        session.run(compare_again)
    found, ids = 0, session.run(waiting)
    for done, asset_id in enumerate(ids, 1):
        found += session.run(lambda conn, asset_id=asset_id: compare_one(conn, asset_id))
        if told is not None:
            told(done, len(ids))
    return found
