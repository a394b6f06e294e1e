"""Pictures that look alike, found at the end of another job: near duplicates and visual clusters."""

from __future__ import annotations

import logging
from collections.abc import Callable

from cluster.db.duplicates.find import waiting
from cluster.db.patience import Session
from cluster.db.spaces import Space
from cluster.db.visual import waiting_frames
from cluster.errors import first_line
from cluster.faults import FaultPoint, reach
from jobs.dupes import compare
from jobs.visual import cluster

logger = logging.getLogger(__name__)


def is_waiting(session: Session, space: Space | None) -> bool:
    """Whether pictures were committed that nobody compared yet, by whatever run.

    `space` is the image space whose clusters are looked after; None for none.
    """
    return bool(session.run(waiting)) or (space is not None and bool(session.run(lambda c: waiting_frames(c, space))))


def find_alike(session: Session, space: Space | None, threshold: float) -> list[str]:
    """Compare what waits; what came of it in words. A failure is words too: the next run goes on with it."""
    told = _attempt("near duplicates were not looked for", "rushes dupes find", lambda: _duplicates(session))
    if space is not None:
        told += _attempt(
            "pictures were not grouped", "rushes images cluster", lambda: _clusters(session, space, threshold)
        )
    return told


def _duplicates(session: Session) -> list[str]:
    found = compare(session, told=lambda done, total: reach(FaultPoint.COMPARED))
    return [f"{found} near duplicate(s) found: `rushes dupes list`"] if found else []


def _clusters(session: Session, space: Space, threshold: float) -> list[str]:
    decided = cluster(session, space, threshold)
    if not decided.joined + decided.led:
        return []
    return [f"{decided.joined} picture(s) look like others, {decided.led} lead a group: `rushes images clusters`"]


def _attempt(failing: str, command: str, work: Callable[[], list[str]]) -> list[str]:
    try:
        return work()
    except Exception as error:
        logger.info("%s", failing, exc_info=True)
        return [f"{failing}: {first_line(error)}; `{command}` tries again"]
