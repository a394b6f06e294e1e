"""The corpus for many requests at once: a few threads with a session each, behind an asynchronous face.

So every query exists once, whoever asks. A request that ends early, by its time-out or because its client went
away, cancels its statement on the server.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Generic, TypeVar

import psycopg

from cluster.db.patience import Session
from cluster.errors import RushesError

T = TypeVar("T")
Connection = psycopg.Connection[Any]
# Long enough for a new connection where an idle one broke; a database that is away is told after it.
RECONNECT_S = 0.5
CANCEL_EVERY_S = 0.25


class PoolBusyError(RushesError):
    """Every connection is in use, and as many requests wait as may."""


class Corpus:
    """`size` lazy connections to one database; `waiting` requests may stand in line for one."""

    def __init__(self, url: str, *, size: int = 8, waiting: int = 64) -> None:
        self.url, self.size, self.waiting = url, size, waiting
        self._own = threading.local()
        self._sessions: list[Session] = []
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="corpus")
        self._running = 0

    @property
    def in_use(self) -> int:
        """Requests that use a connection or wait for one."""
        return self._running

    async def run(self, work: Callable[[Connection], T]) -> T:
        """`work(conn)` in a thread; cancelling the caller cancels its statement.

        Raises `DatabaseAwayError` for a database that is away, `RefusedError` for one that lets nobody in,
        `PoolBusyError` when the line is full, and what the work raises unchanged. The work must be safe to repeat:
        conflicts and broken connections begin it anew. `write` is for work that is not.
        """
        if self._running >= self.size + self.waiting:
            raise PoolBusyError(f"{self._running} requests use or wait for the {self.size} database connections")
        job = _Job(work)
        future = self._threads.submit(self._run, job)
        self._running += 1
        future.add_done_callback(self._ended)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            job.cancel()
            raise

    async def write(self, work: Callable[[Connection], T]) -> T:
        """`work(conn)` in one transaction that takes effect once; raises as `run` does.

        Where the answer to its commit is lost, what it returned counts if it was committed.
        """
        made: list[tuple[str | None, T]] = []

        def once(conn: Connection) -> T:
            if made and _is_committed(conn, made[-1][0]):
                return made[-1][1]
            with conn.transaction():
                result = work(conn)
                made.append((_transaction_id(conn), result))
            return result

        return await self.run(once)

    async def check(self) -> None:
        """Raise `DatabaseAwayError` unless the database answers."""
        await self.run(lambda conn: conn.execute("SELECT 1").fetchone())

    def close(self) -> None:
        """Let every connection go, once the work in progress has ended."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for session in self._sessions:
            session.close()

    def _run(self, job: _Job[T]) -> T:
        session: Session | None = getattr(self._own, "session", None)
        if session is None:
            session = self._own.session = Session(self.url, RECONNECT_S)
            self._sessions.append(session)
        return session.run(job)

    def _ended(self, _: Future[Any]) -> None:
        self._running -= 1


class _Job(Generic[T]):
    """Work that another thread may cancel, before it begins or while it runs."""

    def __init__(self, work: Callable[[Connection], T]) -> None:
        self._work, self._lock = work, threading.Lock()
        self._conn: Connection | None = None
        self._cancelled = False

    def __call__(self, conn: Connection) -> T:
        with self._lock:
            if self._cancelled:
                raise psycopg.errors.QueryCanceled("the request ended before its work began")
            self._conn = conn
        try:
            return self._work(conn)
        finally:
            with self._lock:
                self._conn = None

    def cancel(self) -> None:
        # In a thread: asking the server takes a connection of its own.
        threading.Thread(target=self._cancel, daemon=True).start()

    def _cancel(self) -> None:
        self._cancelled = True
        while self._cancel_statement():
            time.sleep(CANCEL_EVERY_S)

    def _cancel_statement(self) -> bool:
        """Whether the work goes on: a cancellation that comes between two statements is lost."""
        with self._lock:
            if self._conn is not None:
                with suppress(psycopg.Error):
                    self._conn.cancel_safe(timeout=5.0)
            return self._conn is not None


def _transaction_id(conn: Connection) -> str | None:
    """Its number on the server; None as long as it wrote nothing."""
    row = conn.execute("SELECT pg_current_xact_id_if_assigned()::text").fetchone()
    return row[0] if row else None


def _is_committed(conn: Connection, transaction_id: str | None) -> bool:
    """Whether a transaction took effect; one whose server has not noticed yet that its client is gone is waited for."""
    while True:
        row = conn.execute("SELECT pg_xact_status(%s::xid8)", (transaction_id,)).fetchone()
        if row != ("in progress",):
            return row == ("committed",)
        # on the server, where a cancellation finds it
        conn.execute("SELECT pg_sleep(0.1)")
