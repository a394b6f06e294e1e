"""Looks after a session whose owner is busy elsewhere: what it holds is taken back soon after a connection breaks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Self

import psycopg

from cluster.db.patience import Session
from cluster.errors import RushesError, first_line

EVERY_S = 5.0


def _knock(conn: psycopg.Connection[Any]) -> None:
    conn.execute("SELECT 1").fetchone()


class Watch:
    """Uses `session` every `every_s` seconds from a thread of its own, until the block is left.

    A driver can go without the database for as long as one recording takes. A lost connection takes its
    advisory lock along, and an embedded server that died waits for the driver to start it; both are noticed
    here. `look` is what it does with the session, at most until it raises. Leaving the block ends waits in
    progress and closes the session.
    """

    def __init__(
        self,
        session: Session,
        every_s: float = EVERY_S,
        look: Callable[[psycopg.Connection[Any]], None] = _knock,
    ) -> None:
        self._session, self._every_s, self._look_at = session, every_s, look
        self._ended = threading.Event()
        self._error: RushesError | None = None
        self._thread = threading.Thread(target=self._look, name="database-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._session.give_up()
        self._thread.join()
        self._session.close()

    def check(self) -> None:
        """Raise what the watch met: `DatabaseAwayError`, or what the session's `on_connect` refuses."""
        if self._error is not None:
            raise self._error

    def _look(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                self._session.run(self._look_at)
            except RushesError as error:
                self._error = error
                return
            except Exception as error:  # noqa: BLE001 - a watch that ends unsaid leaves the driver without a lock
                self._error = RushesError(f"the run cannot be held any longer: {first_line(error)}")
                return
