"""What the claim and the commit share: the session of their process, and sight of failed rows."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from cluster.db.patience import Session
from cluster.lanes import LANES


class DatabaseStage:
    """A stage bound to the database: it settles units, so it sees every row of every lane."""

    version = 1
    lanes = frozenset(LANES)
    settles = True

    def __init__(self, session: Session, run_id: UUID) -> None:
        self._session, self._run_id = session, run_id

    def identity(self) -> dict[str, Any]:
        """Nothing here decides the output."""
        return {}

    def load(self) -> None:
        """Connections are made by the first row."""

    def close(self) -> None:
        """Let the connection go."""
        self._session.close()
