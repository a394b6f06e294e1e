"""The first stage of every chain: take the row's units for this run."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any
from uuid import UUID

import pyarrow as pa

from cluster.db import ledger
from cluster.db.patience import Session
from cluster.db.pictures import read_frames
from cluster.db.turns import read_turns
from cluster.faults import FaultPoint, reach
from cluster.lanes import root_of
from cluster.types import with_column
from jobs.db_stage import DatabaseStage

Rows = list[dict[str, Any]]


@cache
def node_name() -> str:
    """What people call this node: its host, and in a cluster of several the address by which the others know it."""
    ray, host = sys.modules.get("ray"), socket.gethostname()
    if ray is None or not ray.is_initialized():
        return host
    address = ray.util.get_node_ip_address()
    return host if address.startswith("127.") else f"{host} ({address})"


class Claim(DatabaseStage):
    """Marks units as running and narrows the row's lanes to those it got.

    Rows that need no new segments or keyframes get the committed ones, so that a child lane reads its
    parent without computing it again; rows that need segments get the turns that a person gave, if any.
    """

    name = "claim"
    needs = ("asset_id", "uri", "lanes")
    adds = ("units", "segments", "given_turns", "frames")
    drops = ()

    def __init__(self, session: Session, run_id: UUID, prints: Mapping[str, str]) -> None:
        super().__init__(session, run_id)
        self._prints = dict(prints)

    def process(self, table: pa.Table) -> pa.Table:
        """Claim each row's units; `lanes` keeps only the claimed ones."""
        claimed: list[dict[str, Rows | None]] = []
        for row in table.select(self.needs).to_pylist():
            claimed.append(self._session.run(partial(self._claim, asset_id=row["asset_id"], lanes=row["lanes"])))
            reach(FaultPoint.CLAIMED, row["uri"])
        table = with_column(table, "lanes", [[unit["lane"] for unit in one["units"] or ()] for one in claimed])
        for name in self.adds:
            table = with_column(table, name, [one.get(name) for one in claimed])
        return table

    def _claim(self, conn: Any, asset_id: int, lanes: Sequence[str]) -> dict[str, Rows | None]:
        # Safe to repeat: a claim whose answer was lost is made again, with a higher generation.
        units = ledger.claim_units(conn, self._run_id, asset_id, lanes, self._prints, node_name())
        taken = {unit["lane"] for unit in units}
        found: dict[str, Rows | None] = {"units": units}
        if "speech" in taken:
            found["given_turns"] = read_turns(conn, asset_id)
        elif "speech" in map(root_of, taken):
            found["segments"] = ledger.read_segments(conn, asset_id)
        elif taken == {"images"}:
            found["frames"] = read_frames(conn, asset_id)
        return found
