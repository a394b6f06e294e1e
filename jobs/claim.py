"""The first stage of every chain: take the row's units for this run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import pyarrow as pa

from cluster.db import ledger
from cluster.db.patience import Session
from cluster.db.turns import read_turns
from cluster.faults import FaultPoint, reach
from cluster.types import with_column
from jobs.db_stage import DatabaseStage

Rows = list[dict[str, Any]]


class Claim(DatabaseStage):
    """Marks units as running and narrows the row's lanes to those it got.

    Rows that need no new segments get the committed ones, so that a child lane reads its parent
    without computing it again; rows that do get the turns that a person gave, if any.
    """

    name = "claim"
    needs = ("asset_id", "uri", "lanes")
    adds = ("units", "segments", "given_turns")
    drops = ()

    def __init__(self, session: Session, run_id: UUID, prints: Mapping[str, str]) -> None:
        super().__init__(session, run_id)
        self._prints = dict(prints)

    def process(self, table: pa.Table) -> pa.Table:
        """Claim each row's units; `lanes` keeps only the claimed ones."""
        claimed, segments, given = [], [], []
        for row in table.select(self.needs).to_pylist():
            units, committed, turns = self._session.run(
                partial(self._claim, asset_id=row["asset_id"], lanes=row["lanes"])
            )
            reach(FaultPoint.CLAIMED, row["uri"])
            claimed.append(units)
            segments.append(committed)
            given.append(turns)
        table = with_column(table, "lanes", [[unit["lane"] for unit in units] for units in claimed])
        table = with_column(table, "given_turns", given)
        return with_column(with_column(table, "units", claimed), "segments", segments)

    def _claim(self, conn: Any, asset_id: int, lanes: Sequence[str]) -> tuple[Rows, Rows | None, Rows | None]:
        # Safe to repeat: a claim whose answer was lost is made again, with a higher generation.
        units = ledger.claim_units(conn, self._run_id, asset_id, lanes, self._prints)
        if any(unit["lane"] == "speech" for unit in units):
            return units, None, read_turns(conn, asset_id)
        return units, ledger.read_segments(conn, asset_id) if units else None, None
