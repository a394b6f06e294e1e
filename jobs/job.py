"""What one call of the main job is asked to do, and what its parts share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TextIO
from uuid import UUID

from cluster.db.connect import Database
from cluster.db.filter import AssetFilter
from cluster.db.patience import Session
from cluster.db.rates import Cost
from cluster.lanes import LANES
from cluster.plan import Plan, Work
from cluster.selection import FailureLimit
from cluster.settings import Settings
from jobs.spec import CHAIN
from jobs.summary import Summary


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """What one call of the main job may touch.

    Of `lanes` those are done that the settings have models for. `asset_ids` and `prints`, given by a job that
    works on what is stored, stand for everything registered and for the fingerprints of the settings. `chain`
    makes the stages; measurements give another with the same names.
    """

    inputs: Sequence[str] = ()
    list_files: Sequence[str] = ()
    stdin: TextIO | None = None
    lanes: tuple[str, ...] = LANES
    chosen: AssetFilter = field(default_factory=AssetFilter)
    limit: int | None = None
    newest_first: bool = False
    since: datetime | None = None
    until: datetime | None = None
    force: bool = False
    retry_failed: bool = False
    retry_units: frozenset[tuple[int, str]] = frozenset()
    max_failures: FailureLimit = field(default_factory=FailureLimit)
    dry_run: bool = False
    kind: str = "ingest"
    asset_ids: Sequence[int] | None = None
    prints: Mapping[str, str] | None = None
    address: str | None = None
    chain: str = CHAIN


class Reporter(Protocol):
    """Where progress goes."""

    def registering(self, done: int, total: int) -> None:
        """After each file that was hashed and probed."""

    def planned(self, plan: Plan, work: Work) -> None:
        """Before each pass: the first, and one for what is tried again."""

    def finished(self, row: dict[str, Any], summary: Summary) -> None:
        """For each asset that came back."""

    def waiting(self, assets: int, delay_s: float) -> None:
        """Before a pause: so many assets wait for their next attempt."""

    def told(self, line: str) -> None:
        """For what else a person waits for."""


@dataclass(frozen=True, slots=True)
class Job:
    """One call of the main job; `session` waits for a database that is away.

    `measured` is what the work that is done over took before, runner by runner.
    """

    settings: Settings
    options: IngestOptions
    reporter: Reporter
    database: Database
    session: Session
    run_id: UUID
    prints: dict[str, str]
    summary: Summary
    started: float = field(default_factory=time.monotonic)
    measured: dict[str, list[Cost]] = field(default_factory=dict)
