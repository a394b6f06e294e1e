"""What the claim and the commit share: one lazy connection per actor, and sight of failed rows."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from cluster.db.connect import open_connection
from cluster.lanes import LANES


class DatabaseStage:
    """A stage bound to the database: it settles units, so it sees every row of every lane."""

    version = 1
    lanes = frozenset(LANES)
    settles = True

    def __init__(self, url: str, run_id: UUID) -> None:
        self._url, self._run_id = url, run_id
        self._conn: Any = None

    def identity(self) -> dict[str, Any]:
        """Nothing here decides the output."""
        return {}

    def load(self) -> None:
        """Connections are made by the first row."""

    def close(self) -> None:
        """Let the connection go."""
        if self._conn is not None:
            self._conn.close()

    def _connection(self) -> Any:
        if self._conn is None or self._conn.closed:
            self._conn = open_connection(self._url)
        return self._conn
