"""Pictures that look alike: what an ingest and `rushes images cluster` do about them."""

from __future__ import annotations

from typing import Any

from cluster.db import visual
from cluster.db.patience import Session
from cluster.db.spaces import Space, active_space
from cluster.errors import RushesError


def cluster(session: Session, space: Space, threshold: float) -> visual.Decided:
    """Decide what waits; safe to be killed at any moment and repeated."""
    return session.run(lambda conn: visual.decide_waiting(conn, space, threshold))


def cluster_again(session: Session, space: Space, threshold: float) -> visual.Again:
    """Decide everything anew, in one step for all who look."""
    return session.run(lambda conn: visual.decide_again(conn, space, threshold))


def image_space(conn: Any) -> Space:
    """The active image space; `RushesError` before there is any."""
    space = active_space(conn, "image")
    if space is None:
        raise RushesError(
            "no picture has a vector yet: give the image role a model (RUSHES_IMAGE_PROFILE=speed, or "
            "RUSHES_IMAGE_WEIGHTS=path:FILE with RUSHES_IMAGE_ARCHITECTURE), then `rushes ingest --lanes images`"
        )
    return space
