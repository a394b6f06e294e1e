"""The main job: a list of inputs becomes committed rows, and the counts are checked."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TextIO

from actors.lanes import cache_dir, fingerprints, speech_chain
from cluster.db import ledger, report, runs, spaces
from cluster.db.connect import Database, database_errors, find_database
from cluster.db.migrate import migrate, pending
from cluster.db.register import all_asset_ids, new_refusals
from cluster.errors import RushesError
from cluster.media.inputs import SourceFile, list_inputs
from cluster.plan import Node, Plan, Work, explain, make_plan, object_store_bytes
from cluster.selection import FailureLimit
from cluster.settings import Settings
from jobs.ray_context import ray_session
from jobs.register import Registered, changed, record_failures, register
from jobs.runners import run_inline_rows, run_ray_rows, this_node
from jobs.spec import JobSpec, chain_names, settings_to_dict
from jobs.summary import Summary, summary_dict

Refusals = Sequence[tuple[str, str]]
SPACE_OF_LANE = {"voices": "voice", "texts": "text"}


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """What one call of the main job may touch."""

    inputs: Sequence[str] = ()
    list_files: Sequence[str] = ()
    stdin: TextIO | None = None
    lanes: tuple[str, ...] = ("speech", "voices", "texts")
    limit: int | None = None
    newest_first: bool = False
    since: datetime | None = None
    until: datetime | None = None
    force: bool = False
    retry_failed: bool = False
    max_failures: FailureLimit = field(default_factory=FailureLimit)
    dry_run: bool = False
    address: str | None = None


class Reporter(Protocol):
    """Where progress goes."""

    def registering(self, done: int, total: int) -> None:
        """After each file that was hashed and probed."""

    def planned(self, plan: Plan, work: Work) -> None:
        """Once, before models load."""

    def finished(self, row: dict[str, Any], summary: Summary) -> None:
        """For each asset that came back."""


def open_database(settings: Settings) -> Database:
    """The database with a current schema; an embedded one is brought up to date by itself."""
    database = find_database(settings)
    with database.connect() as conn:
        missing = pending(conn)
        if missing and not database.embedded:
            raise RushesError(f"the database lacks {len(missing)} migration(s): run `rushes db migrate` first")
        if missing:
            migrate(conn)
    return database


def ingest(settings: Settings, options: IngestOptions, reporter: Reporter) -> Summary:
    """Register, run what is pending, reconcile. Raises `RushesError` for what a person can mend."""
    database = open_database(settings)
    _refuse_embedded_elsewhere(database, options.address)
    with database_errors(), database.connect() as conn:
        return _Ingest(conn, database, settings, options, reporter).run()


def _refuse_embedded_elsewhere(database: Database, address: str | None) -> None:
    if address is not None and database.embedded:
        raise RushesError(
            "the embedded database serves one node only: set RUSHES_DATABASE_URL to run on a cluster (--address)"
        )


class _TooManyFailuresError(Exception):
    """--max-failures is exceeded."""


class _Ingest:
    def __init__(
        self, conn: Any, database: Database, settings: Settings, options: IngestOptions, reporter: Reporter
    ) -> None:
        self.conn, self.database, self.settings = conn, database, settings
        self.options, self.reporter = options, reporter
        self.run_id = uuid.uuid4()
        self.prints = fingerprints(settings)
        self.summary = Summary(lanes=options.lanes)
        self.started = time.monotonic()

    def run(self) -> Summary:
        options = self.options
        if not options.dry_run:
            runs.recover_dead_runs(self.conn)
        listing = list_inputs(options.inputs, options.list_files, options.stdin)
        self.summary.ignored = listing.ignored
        again = options.retry_failed or options.force
        files, same = changed(self.conn, listing, retry_unreadable=again)
        refused = listing.unreadable if again else new_refusals(self.conn, listing.unreadable)
        if options.dry_run:
            return self._dry_run(len(files) + len(refused), list(same.values()), list(same))
        if files or refused:
            self._begin()
        try:
            return self._work(files, same, refused)
        except (KeyboardInterrupt, _TooManyFailuresError, RushesError) as error:
            if self.summary.run_id is None:
                raise
            interrupted = isinstance(error, KeyboardInterrupt)
            if not interrupted:
                self.summary.notes.append(f"error: {error}")
            return self._reconcile({}, "interrupted" if interrupted else "failed")
        except BaseException:
            with suppress(Exception):
                runs.finish_run(self.conn, self.run_id, "failed", self._record())
            raise

    def _work(self, files: Sequence[SourceFile], same: Mapping[str, int], refused: Refusals) -> Summary:
        registered = self._register(files, refused)
        ids = sorted({*same.values(), *registered.assets}) if self._named() else all_asset_ids(self.conn)
        rows = self._pending(ids, [*same, *registered.asset_ids], registered)
        if not rows and not registered.unreadable and not registered.no_content:
            return self._nothing(ids)
        if self.summary.run_id is None:
            self._begin()
        return self._execute(rows, registered)

    def _named(self) -> bool:
        return bool(self.options.inputs or self.options.list_files)

    def _begin(self) -> None:
        config = {**settings_to_dict(self.settings), "lanes": list(self.options.lanes)}
        runs.start_run(self.conn, self.run_id, "ingest", config)
        self.summary.run_id = str(self.run_id)

    def _register(self, files: Sequence[SourceFile], refused: Refusals) -> Registered:
        if not files:
            return Registered(no_content=list(refused))
        registered = register(
            self.conn, files, cache_dir(self.settings), lambda done: self.reporter.registering(done, len(files))
        )
        registered.no_content.extend(refused)
        return registered

    def _pending(self, ids: Sequence[int], found: Sequence[str], registered: Registered) -> list[ledger.PendingRow]:
        options = self.options
        again = ("failed", "done") if options.force else ("failed",) if options.retry_failed else ()
        with self.conn.transaction(force_rollback=options.dry_run):
            ledger.ensure_units(self.conn, ids, self.prints, list(self.prints))
            if registered.unreadable or registered.no_content:
                record_failures(self.conn, self.run_id, registered, self.prints)
            selection = ledger.Selection(
                ids, options.since, options.until, options.limit, options.newest_first, again, found
            )
            rows, self.summary.waiting = ledger.pending_rows(self.conn, selection, self.prints, options.lanes)
            if again:
                chosen = [row.asset_id for row in rows]
                ledger.reset_units(self.conn, chosen, self.prints, options.lanes, again)
        return rows

    def _spaces(self) -> dict[str, spaces.Space]:
        """The space of every embedding lane asked for, made when it is new."""
        chain = {stage.name: stage for stage in speech_chain(self.settings)}
        return {
            kind: spaces.ensure_space(
                self.conn,
                kind,
                self.settings.model_choice(kind),
                {"version": chain[lane].version, **chain[lane].identity()},
            )
            for lane, kind in SPACE_OF_LANE.items()
            if lane in self.options.lanes
        }

    def _dry_run(self, unread: int, ids: Sequence[int], found: Sequence[str]) -> Summary:
        rows = self._pending(ids if self._named() else all_asset_ids(self.conn), found, Registered())
        work = _work_of(rows)
        self.summary.state, self.summary.planned = "dry-run", len(rows)
        self.summary.media_h = work.media_s / 3600
        if unread:
            self.summary.notes.append(f"{unread} new or changed file(s) would be read first")
        if rows:
            self.summary.notes.extend(explain(self._plan(work, [this_node(self.settings)]), work))
        return self.summary

    def _nothing(self, ids: Sequence[int]) -> Summary:
        summary = self.summary
        summary.known = ledger.count_states(self.conn, ids, self.prints, self.options.lanes)
        if summary.known.get("done"):
            self._activate(self._spaces())
        if summary.run_id is not None:
            runs.finish_run(self.conn, self.run_id, "done", self._record())
        return summary

    def _plan(self, work: Work, nodes: Sequence[Node]) -> Plan:
        row = self.conn.execute("SHOW max_connections").fetchone()
        stages = chain_names(self.settings, self.options.lanes)
        return make_plan(work, nodes, stages, runner=self._runner(), max_connections=int(row[0]))

    def _runner(self) -> str:
        return "ray" if self.options.address is not None else self.settings.runner

    def _execute(self, rows: Sequence[ledger.PendingRow], registered: Registered) -> Summary:
        summary = self.summary
        summary.failed = len(registered.unreadable) + len(registered.no_content)
        states = ledger.count_states(self.conn, registered.assets, self.prints, self.options.lanes)
        summary.skipped = states.get("skipped", 0)
        summary.planned = len(rows) + summary.failed + summary.skipped
        runs.set_planned(self.conn, self.run_id, summary.planned)
        made = self._spaces()
        self._bear_failures()
        if rows:
            self._stream(rows, _work_of(rows), made)
        return self._reconcile(made, "done")

    def _bear_failures(self) -> None:
        summary = self.summary
        if self.options.max_failures.exceeded(summary.failed, summary.finished):
            raise _TooManyFailuresError(
                f"stopped after {summary.failed} failed of {summary.finished} finished (--max-failures); "
                "without --force the same command goes on with the rest"
            )

    def _stream(self, rows: Sequence[ledger.PendingRow], work: Work, made: dict[str, spaces.Space]) -> None:
        spec = JobSpec(
            run_id=str(self.run_id),
            url=self.database.url,
            settings=settings_to_dict(self.settings),
            lanes=self.options.lanes,
            prints=self.prints,
            spaces={kind: space.space_id for kind, space in made.items()},
        )
        plan = self._plan(work, [this_node(self.settings)])
        if plan.runner == "inline":
            self._consume(work, plan, lambda: run_inline_rows(spec, plan, rows))
            return
        longest_s = max((row.duration_ms or 0) / 1000 for row in rows)
        with ray_session(
            address=self.options.address,
            cpus=this_node(self.settings).cpus,
            niceness=self.settings.worker_niceness,
            object_store_bytes=object_store_bytes(plan, longest_s),
        ) as nodes:
            if self.options.address is not None:
                plan = self._plan(work, nodes)
            self._consume(work, plan, lambda: run_ray_rows(spec, plan, rows))

    def _consume(self, work: Work, plan: Plan, stream: Callable[[], Iterator[dict[str, Any]]]) -> None:
        summary = self.summary
        summary.runner, summary.predicted_hours_per_hour = plan.runner, plan.hours_per_hour
        self.reporter.planned(plan, work)
        try:
            for row in stream():
                self._count(row)
                self.reporter.finished(row, summary)
                self._bear_failures()
        except (KeyboardInterrupt, _TooManyFailuresError):
            # Here, while the actors still live: Ray's end would cut their commits off.
            runs.close_gate(self.conn, self.run_id)
            raise

    def _count(self, row: dict[str, Any]) -> None:
        summary = self.summary
        if row["outcome"] == "done":
            summary.ok += 1
            summary.media_h += (row["duration_ms"] or 0) / 3_600_000
        elif row["outcome"] == "failed":
            summary.failed += 1
        elif row["outcome"] is None:
            # Neither result nor failure could be written: reconciliation counts it as missing.
            summary.notes.append(f"not committed: {row['uri']}: {row['error']['message']}")
        else:
            summary.skipped += 1
            summary.notes.append(f"left to another run: {row['uri']}")
        for timing in row["timings"] or ():
            summary.stage_s[timing["stage"]] = summary.stage_s.get(timing["stage"], 0.0) + timing["seconds"]
        if not summary.start_up_s:
            elapsed = report.first_claim(self.conn, self.run_id)
            summary.start_up_s = max(0.0, time.monotonic() - self.started - (elapsed or 0.0))

    def _reconcile(self, made: Mapping[str, spaces.Space], state: str) -> Summary:
        summary = self.summary
        summary.wall_s = report.first_claim(self.conn, self.run_id) or 0.0
        summary.missing = summary.planned - summary.ok - summary.failed - summary.skipped
        summary.outputs = report.run_outputs(self.conn, self.run_id)
        chosen = report.FailureFilter(run=str(self.run_id))
        summary.failures = report.open_failures(self.conn, chosen)
        if state == "done" and summary.missing:
            state = "failed"
            summary.notes.append(f"{summary.missing} of {summary.planned} planned assets came back without an outcome")
        elif state == "done":
            state = "partial" if summary.failed else "done"
        summary.state = state
        if state in ("done", "partial"):
            self._activate(made)
        runs.finish_run(self.conn, self.run_id, state, self._record())
        return summary

    def _activate(self, made: Mapping[str, spaces.Space]) -> None:
        for kind in SPACE_OF_LANE.values():
            if kind not in made:
                continue
            active, missing = spaces.activate_if_complete(self.conn, made[kind])
            spaces.ensure_index(self.conn, made[kind])
            if missing:
                self.summary.notes.append(
                    f"{kind} space {made[kind].space_id} ({made[kind].profile}) lacks {missing} asset(s)"
                    + ("" if active else "; search keeps using the complete one")
                )
            elif not made[kind].is_active:
                self.summary.notes.append(f"search now uses {kind} space {made[kind].space_id} ({made[kind].profile})")

    def _record(self) -> dict[str, Any]:
        return summary_dict(self.summary)


def _work_of(rows: Sequence[ledger.PendingRow]) -> Work:
    return Work(sum(row.duration_ms or 0 for row in rows) / 1000, len(rows))
