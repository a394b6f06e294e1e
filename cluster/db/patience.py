"""Work that outlives its database connection: the server may be away, restarted, read-only or full for a while."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from cluster.db.connect import UnreachableError, describe_url, open_connection
from cluster.db.embedded import revive_embedded
from cluster.errors import FailureClass, RushesError, StageError, first_line

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
# Of two transactions in a deadlock one goes through, so a few rounds settle any number of writers.
CONFLICT_ROUNDS = 10
CONFLICT_PAUSE_S = 0.05

CONFLICTS = frozenset({"40P01", "40001"})
CAUSES = {
    "25006": "takes no writes",  # a failover left us with the standby
    "25P03": "closed an idle transaction",
    "53000": "is out of resources",
    "53100": "has a full disk",
    "53200": "is out of memory",
    "53300": "has too many connections",
    "55P03": "holds a lock for another session",
    "57P01": "is shutting down or closed the connection",
    "57P02": "crashed and restarts",
    "57P03": "is starting or stopping",
    "57P04": "was dropped",
    "57P05": "closed an idle connection",
    "58030": "cannot read or write its disk",
}

Connection = psycopg.Connection[Any]
T = TypeVar("T")
logger = logging.getLogger(__name__)


class DatabaseAwayError(RushesError, StageError):
    """The database stayed away for longer than anyone may wait; a transient failure, charged to no row."""

    failure = FailureClass.TRANSIENT
    attempts = 0
    about_rows = False


class Session:
    """One lazy connection that is made again when it breaks; threads that share it take turns.

    `wait_s` bounds how long one `run` waits for a database that is away, in seconds from the first failure; an
    attempt in progress is not cut short. `on_connect` runs on every new connection before anything else does:
    there a session takes back what it held, such as an advisory lock. What it raises is handled like
    what the work raises.
    """

    def __init__(self, url: str, wait_s: float, *, on_connect: Callable[[Connection], None] | None = None) -> None:
        self._url, self._wait_s, self._on_connect = url, wait_s, on_connect
        self._conn: Connection | None = None
        self._broke = False
        self._turn, self._no_more = threading.RLock(), threading.Event()

    def run(self, work: Callable[[Connection], T]) -> T:
        """`work(conn)`, begun again on a new connection for as long as the database is away.

        The work must be safe to repeat even when it had succeeded and only the answer was lost. Deadlocks and
        serialization failures repeat at once. Raises `DatabaseAwayError` when `wait_s` is spent, `RushesError`
        for an address that is wrong, and what the work raises about its rows unchanged.
        """
        with self._turn:
            return self._run(work, _Outage(self._url, self._wait_s, self._no_more))

    def close(self) -> None:
        """Let the connection go; the next `run` makes a new one."""
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()

    def give_up(self) -> None:
        """Nobody waits any longer, from whatever thread this is called: a wait in progress ends with its error."""
        self._no_more.set()

    def _run(self, work: Callable[[Connection], T], outage: _Outage) -> T:
        conflicts = 0
        while True:
            try:
                result = self._attempt(work)
            except (psycopg.Error, UnreachableError) as error:
                if getattr(error, "sqlstate", None) in CONFLICTS and conflicts < CONFLICT_ROUNDS:
                    conflicts += 1
                    time.sleep(random.uniform(0, CONFLICT_PAUSE_S * conflicts))
                    continue
                cause = cause_of(error, lost=self._broke)
                if cause is None:
                    raise
                self.close()
                if isinstance(error, UnreachableError):
                    revive_embedded(self._url)
                outage.wait(cause, error)
            else:
                outage.end()
                return result

    def _attempt(self, work: Callable[[Connection], T]) -> T:
        self._broke = False
        conn = self._connection()
        try:
            result = work(conn)
        except BaseException:
            self._broke = conn.closed
            # Whatever a broken-off transaction holds must not become part of the next work.
            if conn.info.transaction_status != TransactionStatus.IDLE:
                self.close()
            raise
        if conn.info.transaction_status not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN):
            self.close()
            raise AssertionError("the work left its transaction open: nothing of it was committed")
        return result

    def _connection(self) -> Connection:
        if self._conn is not None and not self._conn.closed:
            return self._conn
        self._conn = open_connection(self._url)
        if self._on_connect is not None:
            try:
                self._on_connect(self._conn)
            except BaseException:
                self.close()
                raise
        return self._conn


def take_lock(conn: Connection, key: int) -> None:
    """Hold the session-level advisory lock `key`; `LockNotAvailable`, which a `Session` waits out, if it is taken.

    After a lost connection the server may take half a minute to notice, and holds the lock until then.
    """
    if conn.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone() != (True,):
        raise psycopg.errors.LockNotAvailable(f"advisory lock {key} is taken")


def cause_of(error: psycopg.Error | UnreachableError, *, lost: bool) -> str | None:
    """What keeps the database from working, as the end of a sentence; None when the error is about the work.

    `lost` says that the connection broke, which some errors do not tell.
    """
    if isinstance(error, UnreachableError):
        return error.cause
    code = error.sqlstate
    if code is None:
        return "closed the connection" if lost or isinstance(error, psycopg.OperationalError) else None
    return CAUSES.get(code) or ("closed the connection" if code.startswith("08") else None)


class _Outage:
    """One wait: its pauses, and the two lines that are said about it."""

    def __init__(self, url: str, wait_s: float, no_more: threading.Event) -> None:
        self._url, self._wait_s, self._no_more = url, wait_s, no_more
        self._began: float | None = None
        self._pause_s = FIRST_PAUSE_S

    def wait(self, cause: str, error: Exception) -> None:
        """Pause before the next attempt; raises `DatabaseAwayError` once the time is spent."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
            if self._wait_s > 0:
                logger.warning("%s; waiting up to %g s for it", self._describe(cause, error), self._wait_s)
            else:
                raise DatabaseAwayError(
                    f"{self._describe(cause, error)}: mend it, or check RUSHES_DATABASE_URL, "
                    "or unset it to use the embedded server"
                ) from error
        left_s = self._began + self._wait_s - now
        if left_s <= 0 or self._no_more.is_set():
            raise DatabaseAwayError(
                f"{self._describe(cause, error)}; waited {now - self._began:.0f} s for it (RUSHES_DATABASE_WAIT_S). "
                "What was committed is safe: mend the database, and the same command goes on"
            ) from error
        # Jitter, so that the actors of a cluster do not come back in step.
        self._no_more.wait(min(left_s, self._pause_s * random.uniform(0.5, 1)))
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

    def end(self) -> None:
        """Say that the database is back, if it was away."""
        if self._began is not None:
            away_s = time.monotonic() - self._began
            logger.warning("the database %s is back after %.1f s", describe_url(self._url), away_s)

    def _describe(self, cause: str, error: Exception) -> str:
        said = error.__cause__ if isinstance(error, UnreachableError) else None
        return f"the database {describe_url(self._url)} {cause} ({first_line(said or error)})"
