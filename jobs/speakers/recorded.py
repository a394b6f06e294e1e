"""A job about people, recorded as a run: it looks, begins, works, and says how it ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, TypeVar
from uuid import UUID

from cluster.db import runs
from cluster.db.patience import Session
from cluster.errors import first_line

P = TypeVar("P")
T = TypeVar("T")


def recorded(
    url: str,
    wait_s: float,
    run_id: UUID | None,
    kind: str,
    look: Callable[[Any], tuple[P, dict[str, Any]]],
    work: Callable[[Session, P], T],
    summary: Callable[[T], dict[str, Any]],
) -> T:
    """What `work` makes of what `look` found; no run begins when there is nothing to do it with.

    `look` also gives the run's config. Without a run id nothing is recorded. The pieces of `work` that go through
    the session wait for a database that is away, and hold the run again when it is back.
    """
    held: list[UUID] = []

    def hold(conn: Any) -> None:
        for one in held:
            runs.hold_run(conn, one)

    with closing(Session(url, wait_s, on_connect=hold)) as session:
        found, config = session.run(look)
        if run_id is None:
            return work(session, found)
        session.run(runs.recover_dead_runs)
        session.run(lambda conn: runs.start_run(conn, run_id, kind, config))
        held.append(run_id)
        try:
            result = work(session, found)
        except BaseException as error:
            notes = {"notes": [f"error: {first_line(error)}"]}
            with suppress(Exception):
                session.run(lambda conn: runs.finish_run(conn, run_id, "failed", notes))
            raise
        session.run(lambda conn: runs.finish_run(conn, run_id, "done", summary(result)))
        return result
