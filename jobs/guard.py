"""The guard of a process that holds models: crash claims in the ledger, and a clock that ends hangs."""

from __future__ import annotations

import faulthandler
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

import pyarrow as pa

from cluster.db.crash_claims import (
    Gone,
    OpenClaims,
    close_claim,
    forget_claims,
    left_open,
    mark_overdue,
    nobody_gone,
    open_claim,
)
from cluster.db.patience import Session
from cluster.deadline import deadline_s
from cluster.errors import FailureClass, HangError, ProcessDiedError, StageError
from cluster.guard import SuspectError
from cluster.retry import MAX_ATTEMPTS
from cluster.types import root_in

LAST_WORDS_S = 10.0
LOADING = "loading"
# One that dies while it loads may have met a bad moment, a third time is no moment.
MAX_LOAD_DEATHS = 3
# Weights may come from a slow disk.
LOAD_DEADLINE_S = 900
STDERR_FD = 2


class CrashGuard:
    """Notes what the process works on, so that a death is charged to the row that caused it.

    A call may take `base_s` plus `s_per_hour` for each hour of its media, one hour where the length is
    unknown. One that takes longer marks its claim as overdue and ends the process. Where native code holds
    the interpreter, a thread that needs no lock of it ends the process a little later, unmarked. `node` is where
    the process runs, `gone` tells which nodes were lost: what died with its node is not charged.
    """

    node: str | None = None
    gone: Gone = staticmethod(nobody_gone)

    def __init__(self, session: Session, run_id: UUID, base_s: float, s_per_hour: float) -> None:
        self._session, self._run_id = session, run_id
        self._base_s, self._s_per_hour = base_s, s_per_hour

    @contextmanager
    def watch(self, stage: str, part: pa.Table) -> Iterator[None]:
        """Claim, run against the clock, take the claim back."""
        ids, root = part["asset_id"].to_pylist(), root_in(part)
        self._check(stage, ids, root)
        claim_id, limit_s = uuid4(), self._deadline_s(part)
        self._session.run(lambda conn: open_claim(conn, self._run_id, claim_id, stage, ids, limit_s, root, self.node))
        timer = threading.Timer(limit_s, self._end_process, (claim_id,))
        timer.daemon = True
        timer.start()
        faulthandler.dump_traceback_later(limit_s + LAST_WORDS_S, exit=True, file=STDERR_FD)
        try:
            yield
        finally:
            timer.cancel()
            faulthandler.cancel_dump_traceback_later()
            self._session.run(lambda conn: close_claim(conn, self._run_id, claim_id, ids))

    @contextmanager
    def loading(self, slot: int | None) -> Iterator[None]:
        """Around the loading of models in a place of a pool that Ray fills again for as long as anyone lets it.

        Raises `RuntimeError` when its processes died of it `MAX_LOAD_DEATHS` times. None: somebody else counts.
        """
        if slot is None:
            yield
            return
        found = self._session.run(lambda conn: left_open(conn, self._run_id, LOADING, [slot], gone=self.gone))
        if found and found[slot].count >= MAX_LOAD_DEATHS:
            raise RuntimeError(
                f"{found[slot].count} processes died while they loaded them, most often because memory ends"
            )
        claim_id = uuid4()
        self._session.run(lambda conn: open_claim(conn, self._run_id, claim_id, LOADING, [slot], node=self.node))
        yield
        self._session.run(lambda conn: forget_claims(conn, self._run_id, slot))

    def _end_process(self, claim_id: UUID) -> None:
        self._session.run(lambda conn: mark_overdue(conn, self._run_id, claim_id))
        faulthandler.dump_traceback(file=STDERR_FD)
        os._exit(1)

    def _check(self, stage: str, ids: list[int], root: str | None) -> None:
        found = self._session.run(lambda conn: left_open(conn, self._run_id, stage, ids, root, self.gone))
        if found and len(ids) > 1:
            raise SuspectError(f"{stage}: a row of this batch ended its process before")
        for claims in found.values():
            if claims.overdue or claims.count >= MAX_ATTEMPTS[FailureClass.CRASH]:
                raise _refusal(claims)

    def _deadline_s(self, part: pa.Table) -> float:
        return deadline_s(self._base_s, self._s_per_hour, part["duration_ms"].to_pylist())


def _refusal(claims: OpenClaims) -> StageError:
    if claims.overdue:
        return HangError(
            f"{claims.stage} took longer than its deadline of {claims.deadline_s:.0f} s; "
            "raise stage_base_s or stage_s_per_hour if it only was slow",
            claims.count,
        )
    return ProcessDiedError(
        f"the process died in {claims.stage} while it worked on this file, {claims.count} times", claims.count
    )
