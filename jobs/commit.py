"""The last stage of every chain: write each row in one transaction, then forget its payload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import pyarrow as pa

from cluster.db.connect import classify_database
from cluster.db.crash_claims import Gone, left_open, nobody_gone, open_claim
from cluster.db.patience import Session
from cluster.db.results import commit_row
from cluster.db.spaces import Space
from cluster.errors import FailureClass, ProcessDiedError, RushesError, first_line
from cluster.retry import MAX_ATTEMPTS
from cluster.types import COLUMNS, add_error, error_record, root_in, with_column
from jobs.db_stage import DatabaseStage
from jobs.interrupt import commit_first

# After so many deaths not even the failure is written: the row comes back without an outcome.
MAX_DEATHS = 2 * MAX_ATTEMPTS[FailureClass.CRASH]
KEEPS = ("asset_id", "sha256", "uri", "duration_ms", "root", "lanes", "error", "timings")


class Commit(DatabaseStage):
    """Commits rows; sees failed rows too, because their failure is a result."""

    name = "commit"
    needs = ("asset_id", "units", "error")
    adds = ("outcome",)
    drops = tuple(name for name in COLUMNS if name not in (*KEEPS, "outcome"))
    # As the guard has them: where this process runs, and which nodes were lost.
    node: str | None = None
    gone: Gone = staticmethod(nobody_gone)

    def __init__(self, session: Session, run_id: UUID, spaces: Mapping[str, Space], retry_base_s: float = 5.0) -> None:
        """`retry_base_s`: the first delay of a retry."""
        super().__init__(session, run_id)
        self._spaces, self._retry_base_s = dict(spaces), retry_base_s

    def process(self, table: pa.Table) -> pa.Table:
        """One transaction per row; adds its outcome. Raises `ProcessDiedError` for a row that nobody can settle."""
        light = table.drop_columns([name for name in ("audio",) if name in table.column_names])
        outcomes = [self._settle(light.slice(number, 1)) for number in range(light.num_rows)]
        return with_column(light, "outcome", outcomes)

    def _settle(self, one: pa.Table) -> str | None:
        if not one["units"][0].as_py():
            return None if one["error"][0].as_py() else "taken"
        deaths = self._note(one["asset_id"][0].as_py(), root_in(one))
        if deaths >= MAX_DEATHS:
            raise ProcessDiedError(f"{deaths} processes died while they committed this file", deaths)
        if deaths < MAX_ATTEMPTS[FailureClass.CRASH]:
            return self._commit(one.to_pylist()[0])
        # Its rows kill whoever writes them: only the failure is written.
        [row] = one.select([name for name in (*KEEPS, "units") if name in one.column_names]).to_pylist()
        error = ProcessDiedError(f"the process died while it committed this file, {deaths} times", deaths)
        return self._write({**row, "error": add_error(row["error"], _refusal(row, error))})

    def _note(self, asset_id: int, root: str | None) -> int:
        """Open a crash claim, which the commit itself settles; returns how many commits of the row died before."""
        claim_id = uuid4()
        found = self._session.run(lambda conn: left_open(conn, self._run_id, self.name, [asset_id], root, self.gone))
        self._session.run(
            lambda conn: open_claim(conn, self._run_id, claim_id, self.name, [asset_id], root=root, node=self.node)
        )
        return found[asset_id].count if found else 0

    def _commit(self, row: dict[str, Any]) -> str | None:
        try:
            return self._write(row)
        except RushesError:
            raise  # about the database, not about this row
        except Exception as error:  # noqa: BLE001 - rows the database refuses fail their asset alone
            return self._write({**row, "error": add_error(row["error"], _refusal(row, error))})

    def _write(self, row: dict[str, Any]) -> str:
        def once(conn: Any) -> str:
            # Around each attempt alone: Ctrl-C waits for a commit, not for a database that is away.
            with commit_first():
                return commit_row(conn, self._run_id, row, self._spaces, self._retry_base_s)

        return self._session.run(once)


def _refusal(row: dict[str, Any], error: Exception) -> dict[str, Any]:
    lanes = [unit["lane"] for unit in row["units"]]
    failure, attempts = classify_database(error), getattr(error, "attempts", 1)
    return error_record(failure, Commit.name, first_line(error), lanes, attempts)
