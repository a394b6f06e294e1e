"""The first stage of every chain: take the row's units for this run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pyarrow as pa

from cluster.db import ledger
from cluster.db.connect import open_connection
from cluster.lanes import LANES
from cluster.types import with_column


class Claim:
    """Marks units as running and narrows the row's lanes to those it got.

    Rows that need no new segments get the committed ones, so that a child lane reads its parent
    without computing it again.
    """

    name = "claim"
    version = 1
    lanes = frozenset(LANES)
    needs = ("asset_id", "lanes")
    adds = ("units", "segments")
    drops = ()
    settles = True

    def __init__(self, url: str, run_id: UUID, prints: Mapping[str, str]) -> None:
        self._url, self._run_id, self._prints = url, run_id, dict(prints)
        self._conn: Any = None

    def identity(self) -> dict[str, Any]:
        """Nothing here decides the output."""
        return {}

    def load(self) -> None:
        """Connections are made by the first row."""

    def process(self, table: pa.Table) -> pa.Table:
        """Claim each row's units; `lanes` keeps only the claimed ones."""
        if self._conn is None or self._conn.closed:
            self._conn = open_connection(self._url)
        claimed, segments = [], []
        for asset_id, lanes in zip(table["asset_id"].to_pylist(), table["lanes"].to_pylist(), strict=True):
            units = ledger.claim_units(self._conn, self._run_id, asset_id, lanes, self._prints)
            claimed.append(units)
            computes = any(unit["lane"] == "speech" for unit in units)
            segments.append(None if computes or not units else ledger.read_segments(self._conn, asset_id))
        table = with_column(table, "lanes", [[unit["lane"] for unit in units] for units in claimed])
        return with_column(with_column(table, "units", claimed), "segments", segments)

    def close(self) -> None:
        """Let the connection go."""
        if self._conn is not None:
            self._conn.close()
