"""Recognition inside another job, and what keeps two of them apart."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

from cluster.db.patience import Session
from cluster.db.spaces import Space
from cluster.db.speakers.gallery import count_known, never_asked
from cluster.db.speakers.identify import Identified, IdentifyOptions, identify
from cluster.errors import RushesError, first_line

_LOCK_KEY = 0x4964_656E_7469_6679

logger = logging.getLogger(__name__)


@contextmanager
def alone(conn: Any) -> Iterator[None]:
    """Nobody else recognises voices meanwhile; `RushesError` when somebody does."""
    if conn.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK_KEY,)).fetchone() != (True,):
        raise RushesError("somebody else recognises voices just now (`rushes status`): wait until that is done")
    try:
        yield
    finally:
        with suppress(Exception):
            conn.execute("SELECT pg_advisory_unlock(%s)", (_LOCK_KEY,))


def waiting_assets(session: Session, space: Space) -> list[int]:
    """Assets with voices that nobody looked at yet; none where nobody is known.

    Whoever committed them: a run that died before it got here leaves them to the next.
    """
    return session.run(lambda conn: never_asked(conn, space) if count_known(conn, space)[0] else [])


def recognise(session: Session, space: Space, asset_ids: list[int], run_id: UUID) -> tuple[int, str]:
    """How many voices of these assets were recognised, and that in words; a failure is words too."""
    try:
        found = session.run(lambda conn: identify_alone(conn, space, IdentifyOptions(asset_ids), run_id))
    except Exception as error:
        logger.info("recognition failed", exc_info=True)
        return 0, f"no voice was recognised: {first_line(error)}; `rushes speakers identify` tries again"
    return found.named, f"{found.named} of {found.asked} unknown voice(s) recognised"


def identify_alone(conn: Any, space: Space, options: IdentifyOptions, run_id: UUID | None) -> Identified:
    """`identify` while nobody else does; `RushesError` when somebody does."""
    with alone(conn):
        return identify(conn, space, options, run_id)
