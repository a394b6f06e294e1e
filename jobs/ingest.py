"""The main job: a list of inputs becomes committed rows, and the counts are checked."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from actors.lanes import fingerprints, node_cache, space_identities
from cluster.db import ledger, rates, report, runs, spaces, uses
from cluster.db.connect import Database, database_errors, find_database, refuse_embedded_elsewhere
from cluster.db.filter import matching
from cluster.db.migrate import migrate, pending
from cluster.db.patience import DatabaseAwayError, Session
from cluster.db.register import all_asset_ids, existing, had_sources, mark_gone, new_refusals
from cluster.db.speakers.who import count_speakers
from cluster.db.watch import Watch
from cluster.errors import RushesError
from cluster.faults import FaultPoint, reach
from cluster.lanes import MEDIA_LANES, SPACE_OF_LANE
from cluster.media.inputs import Folder, Listing, Refused, SourceFile, is_missing, list_inputs
from cluster.media.store import is_remote
from cluster.plan import explain
from cluster.settings import Settings, settings_to_dict
from jobs.alike import find_alike, is_waiting
from jobs.execution import Execution, foresee, lanes_of, work_of
from jobs.forecast import in_words, lane_counts
from jobs.interrupt import interrupt_main, stoppable
from jobs.job import IngestOptions, Job, Reporter
from jobs.ray_job import this_job
from jobs.register import Registered, changed, record_failures, register
from jobs.runners import this_node
from jobs.sources import Sources, gone_below
from jobs.speakers.recognise import recognise, waiting_assets
from jobs.summary import Summary, size, summary_dict

Refusals = Sequence[Refused]


def open_database(settings: Settings, wait_s: float = 0.0) -> Database:
    """The database with a current schema; an embedded one is brought up to date by itself.

    `wait_s` is how long it may be away.
    """
    database = find_database(settings)

    def bring_up_to_date(conn: Any) -> None:
        missing = pending(conn)
        if missing and not database.embedded:
            raise RushesError(f"the database lacks {len(missing)} migration(s): run `rushes db migrate` first")
        if missing:
            migrate(conn)

    with closing(Session(database.url, wait_s)) as session:
        session.run(bring_up_to_date)
    return database


def ingest(settings: Settings, options: IngestOptions, reporter: Reporter) -> Summary:
    """Register, run what is pending, reconcile. Raises `RushesError` for what a person can mend."""
    database = open_database(settings, settings.database_wait_s)
    refuse_embedded_elsewhere(database, options.address)
    _refuse_store_elsewhere(settings, options)
    with database_errors(), stoppable(), ExitStack() as stack:
        return _Ingest(database, settings, options, reporter, stack).run()


def _refuse_store_elsewhere(settings: Settings, options: IngestOptions) -> None:
    if options.address is not None and "frames" in options.lanes and settings.store is None:
        raise RushesError(
            "thumbnails would stay on the nodes that make them: set RUSHES_STORE to an object store or a folder that "
            "all nodes share to run on a cluster (--address), or leave the lane out (--lanes speech,voices,texts)"
        )


class _Ingest:
    def __init__(
        self, database: Database, settings: Settings, options: IngestOptions, reporter: Reporter, stack: ExitStack
    ) -> None:
        self.prints = dict(options.prints or fingerprints(settings))
        options = replace(options, lanes=tuple(lane for lane in options.lanes if lane in self.prints))
        self.settings, self.options, self.stack = settings, options, stack
        self.session = stack.enter_context(closing(self._connect(database, self._keep_gate_closed)))
        # The run's lock has a session to itself, watched while the driver waits for the actors.
        self.lock = stack.enter_context(closing(self._connect(database, self._hold)))
        self.watch: Watch | None = None
        self.sources = Sources(Listing([], 0, []), {}, ())
        self.held = self.gate_closed = self.cancelled = False
        self.in_main_thread = threading.current_thread() is threading.main_thread()
        self.again = options.retry_failed or options.force or bool(options.retry_units)
        self.run_id = uuid.uuid4()
        wanted = [SPACE_OF_LANE[lane] for lane in options.lanes if lane in SPACE_OF_LANE]
        self.identities = {kind: one for kind, one in space_identities(settings).items() if kind in wanted}
        names = [spaces.space_name(kind, *one) for kind, one in self.identities.items()]
        self.names = [*self.prints.values(), *names]
        self.summary = Summary(lanes=options.lanes)
        self.job = Job(settings, options, reporter, database, self.session, self.run_id, self.prints, self.summary)

    def _connect(self, database: Database, on_connect: Callable[[Any], None]) -> Session:
        return Session(database.url, self.settings.database_wait_s, on_connect=on_connect)

    def run(self) -> Summary:
        options = self.options
        if not options.dry_run:
            self.session.run(runs.recover_dead_runs)
            # Opens the session, which names what this run works with before any of it is made.
            self.lock.run(lambda conn: conn.execute("SELECT 1"))
        listing = list_inputs(options.inputs, options.list_files, options.stdin, self._had_sources)
        self.summary.ignored = listing.ignored
        files, same = self.session.run(lambda conn: changed(conn, listing, retry_unreadable=self.again))
        refused = listing.unreadable
        if not self.again:
            refused = self.session.run(lambda conn: new_refusals(conn, listing.unreadable))
        gone = self.session.run(partial(gone_below, listing=listing))
        self.sources = Sources(listing, same, gone)
        if options.dry_run:
            return self._dry_run(files, len(refused), same)
        if files or refused:
            self._begin()
        try:
            return self._work(files, same, refused)
        except (KeyboardInterrupt, RushesError) as error:
            # Nothing can be recorded without the database: the next command finds the run dead.
            if self.summary.run_id is None or isinstance(error, DatabaseAwayError):
                raise
            interrupted = isinstance(error, KeyboardInterrupt)
            if not interrupted:
                self.summary.notes.append(f"error: {error}")
            elif self.cancelled:
                self.summary.notes.append("cancelled: somebody asked for its end with `rushes runs cancel`")
            return self._reconcile({}, "interrupted" if interrupted else "failed")
        except BaseException:
            with suppress(Exception):
                self._finish("failed")
            raise

    def _hold(self, conn: Any) -> None:
        uses.hold(conn, self.names)
        if self.held:
            runs.hold_run(conn, self.run_id)

    def _keep_gate_closed(self, conn: Any) -> None:
        if self.gate_closed:
            runs.close_gate(conn, self.run_id)

    def _close_gate(self) -> None:
        self.session.run(lambda conn: runs.close_gate(conn, self.run_id))
        self.gate_closed = True

    def _check(self) -> None:
        if self.watch is not None:
            self.watch.check()
        if self.cancelled and not self.in_main_thread:
            raise KeyboardInterrupt

    def _look(self, conn: Any) -> None:
        """What the watch does: the session lives, and the driver learns that somebody asked for its end."""
        if self.cancelled or not runs.is_cancelled(conn, self.run_id):
            return
        self.cancelled = True
        # It may wait for one recording for hours.
        if self.in_main_thread:
            interrupt_main()

    def _finish(self, state: str) -> None:
        self.session.run(lambda conn: runs.finish_run(conn, self.run_id, state, summary_dict(self.summary)))
        reach(FaultPoint.RUN_FINISHED)

    def _had_sources(self, folder: Folder) -> bool:
        return self.session.run(lambda conn: had_sources(conn, folder))

    def _work(self, files: Sequence[SourceFile], same: Mapping[str, int], refused: Refusals) -> Summary:
        registered = self._register(files, refused)
        ids = self._chosen(sorted({*same.values(), *registered.assets}) if self._named() else None)
        rows = self._pending(ids, [*same, *registered.asset_ids], registered)
        if not rows and not registered.unreadable and not registered.no_content:
            return self._nothing(ids)
        if self.summary.run_id is None:
            self._begin()
        return self._execute(rows, registered)

    def _chosen(self, ids: Sequence[int] | None) -> list[int]:
        """The assets this call may touch, of `ids` or of everything registered."""
        ids = self.options.asset_ids if ids is None else ids
        found = self.session.run(all_asset_ids) if ids is None else list(ids)
        if not self.options.chosen:
            return found
        return self.session.run(lambda conn: matching(conn, self.options.chosen, found))

    def _named(self) -> bool:
        return bool(self.options.inputs or self.options.list_files)

    def _begin(self) -> None:
        config = {**settings_to_dict(self.settings), "lanes": list(self.options.lanes)}
        self.lock.run(lambda conn: runs.start_run(conn, self.run_id, self.options.kind, config, this_job()))
        self.held, self.summary.run_id = True, str(self.run_id)
        self.watch = self.stack.enter_context(Watch(self.lock, look=self._look))
        reach(FaultPoint.RUN_STARTED)

    def _register(self, files: Sequence[SourceFile], refused: Refusals) -> Registered:
        if not files:
            return Registered(no_content=list(refused))
        registered = register(
            self.session,
            files,
            node_cache(self.settings),
            lambda done: self.job.reporter.registering(done, len(files)),
            tell_again=self.again,
        )
        registered.no_content.extend(refused)
        self.summary.notes.extend(registered.notes)
        reach(FaultPoint.REGISTERED)
        return registered

    def _pending(self, ids: Sequence[int], found: Sequence[str], registered: Registered) -> list[ledger.PendingRow]:
        return self.session.run(lambda conn: self._select(conn, ids, found, registered))

    def _select(
        self, conn: Any, ids: Sequence[int], found: Sequence[str], registered: Registered
    ) -> list[ledger.PendingRow]:
        options = self.options
        again = ("failed", "done") if options.force else ("failed",) if options.retry_failed else ()
        with conn.transaction(force_rollback=options.dry_run):
            self.summary.sources = self.sources.record(conn, list(registered.asset_ids))
            ledger.ensure_units(conn, ids, self.prints, list(self.prints))
            if registered.unreadable or registered.no_content:
                record_failures(conn, self.run_id, registered, self.prints)
            unreadable = {(asset_id, ledger.CHARGED) for asset_id in registered.unreadable}
            ledger.retry_units(conn, options.retry_units - unreadable, self.prints)
            selection = ledger.Selection(
                ids, options.since, options.until, options.limit, options.newest_first, again, found
            )
            rows, self.summary.waiting = self._reachable(conn, selection)
            self.summary.vanished = len(ledger.vanished_assets(conn, selection, self.prints, options.lanes))
            if again:
                self._reset(conn, rows, again)
        return rows

    def _reachable(self, conn: Any, selection: ledger.Selection) -> tuple[list[ledger.PendingRow], int]:
        """Pending rows whose local source is there now; one that went is marked, and another one is taken."""
        while True:
            rows, waiting = ledger.pending_rows(conn, selection, self.prints, self.options.lanes)
            reading = [row.uri for row in rows if MEDIA_LANES.intersection(row.lanes)]
            missing = [uri for uri in reading if not is_remote(uri) and is_missing(uri)]
            if not missing:
                return rows, waiting
            mark_gone(conn, missing)

    def _reset(self, conn: Any, rows: Sequence[ledger.PendingRow], states: Sequence[str]) -> None:
        # What is reset no longer tells how long it took.
        self.job.measured.update(rates.costs_by_runner(conn, {lane: self.prints[lane] for lane in self.options.lanes}))
        by_lanes: dict[tuple[str, ...], list[int]] = {}
        for row in rows:
            by_lanes.setdefault(row.lanes, []).append(row.asset_id)
        for lanes, ids in by_lanes.items():
            ledger.reset_units(conn, ids, self.prints, lanes, states)

    def _spaces(self) -> dict[str, spaces.Space]:
        """The space of every embedding lane asked for, made when it is new."""
        made = {}
        for kind, (choice, identity) in self.identities.items():
            made[kind] = self.session.run(partial(spaces.ensure_space, kind=kind, choice=choice, identity=identity))
        return made

    def _dry_run(self, files: Sequence[SourceFile], refused: int, same: Mapping[str, int]) -> Summary:
        ids = self._chosen(sorted(set(same.values())) if self._named() else None)
        rows = self._pending(ids, list(same), Registered())
        summary, work = self.summary, work_of(rows)
        summary.state, summary.planned, summary.media_h = "dry-run", work.assets, work.media_s / 3600
        if files or refused:
            count_bytes, summary.new_files = sum(file.byte_size for file in files), len(files) + refused
            summary.notes.append(
                f"{summary.new_files} new or changed file(s), {size(count_bytes)}, would be read first: "
                "how long they are is not known yet"
            )
        if rows:
            plan, forecast = foresee(self.job, work, [this_node(self.settings)], lanes_of(rows))
            summary.runner, summary.predicted_hours_per_hour = plan.runner, plan.hours_per_hour
            summary.notes.extend([in_words(lane_counts(rows)), *explain(plan, work), forecast.describe(work.media_s)])
        return summary

    def _nothing(self, ids: Sequence[int]) -> Summary:
        summary = self.summary
        summary.known = self._states(ids)
        # Beside a lane that failed, the other may have committed pictures.
        made = self._spaces() if summary.known.get("done") else {}
        self._activate(made)
        self._recognise(made)
        self._find_alike(made)
        if summary.run_id is not None:
            self._finish("done")
        return summary

    def _states(self, ids: Sequence[int]) -> dict[str, int]:
        return self.session.run(lambda conn: ledger.count_states(conn, ids, self.prints, self.options.lanes))

    def _execute(self, rows: Sequence[ledger.PendingRow], registered: Registered) -> Summary:
        summary = self.summary
        summary.failed = len(registered.unreadable) + len(registered.no_content)
        summary.skipped = self._states(registered.assets).get("skipped", 0)
        for row in rows:
            summary.parts[row.asset_id] = summary.parts.get(row.asset_id, frozenset()) | {row.root}
        summary.planned = len(summary.parts) + summary.failed + summary.skipped
        lanes = lane_counts(rows)
        prints = {lane: self.prints[lane] for lane in lanes}
        work = {"media_s": work_of(rows).media_s, "lanes": lanes, "prints": prints, "settled": summary.finished}
        self.session.run(lambda conn: runs.set_planned(conn, self.run_id, summary.planned, work))
        made = self._spaces()
        Execution(self.job, made, self._check, self._close_gate).run(rows)
        self._check()
        return self._reconcile(made, "done")

    def _reconcile(self, made: Mapping[str, spaces.Space], state: str) -> Summary:
        summary = self.summary
        summary.notes.extend((*summary.lost.values(), *self._elsewhere()))
        summary.missing = summary.planned - summary.ok - summary.failed - summary.skipped
        summary.outputs = self.session.run(lambda conn: report.run_outputs(conn, self.run_id))
        chosen = report.FailureFilter(run=str(self.run_id))
        summary.failures = self.session.run(lambda conn: report.open_failures(conn, chosen))
        if state == "done" and summary.missing:
            state = "failed"
            summary.notes.append(f"{summary.missing} of {summary.planned} planned assets came back without an outcome")
        elif state == "done":
            state = "partial" if summary.failed else "done"
        summary.state = state
        if state in ("done", "partial"):
            self._activate(made)
            self._recognise(made)
            self._find_alike(made)
        self._count_speakers()
        reach(FaultPoint.RECONCILED)
        self._finish(summary.state)
        return summary

    def _recognise(self, made: Mapping[str, spaces.Space]) -> None:
        """Names for voices that nobody looked at yet, if the settings ask for it; nothing here fails the run."""
        if not self.settings.identify or "voice" not in made:
            return
        waiting = waiting_assets(self.session, made["voice"])
        if not waiting:
            return
        if self.summary.run_id is None:
            self._begin()
        self.summary.recognised, note = recognise(self.session, made["voice"], waiting, self.run_id)
        self.summary.notes.append(note)

    def _find_alike(self, made: Mapping[str, spaces.Space]) -> None:
        """Near duplicates and groups of pictures that nobody compared yet; nothing here fails the run."""
        if "frames" not in self.options.lanes and "images" not in self.options.lanes:
            return
        active = self.session.run(lambda conn: spaces.active_space(conn, "image"))
        space = active if active is not None and active.space_id == made.get("image", active).space_id else None
        if not is_waiting(self.session, space):
            return
        if self.summary.run_id is None:
            self._begin()
        self.summary.notes.extend(find_alike(self.session, space, self.settings.visual_threshold))

    def _count_speakers(self) -> None:
        """Known and unknown segments of what this run transcribed; they are all, or the run failed."""
        counts = self.session.run(lambda conn: count_speakers(conn, self.run_id))
        self.summary.speakers = counts
        if not counts.add_up:
            self.summary.state = "failed"
            self.summary.notes.append(counts.describe())

    def _elsewhere(self) -> list[str]:
        """What became of the assets that this run gave up: another run has them, or a person had them forgotten."""
        notes = self.summary.elsewhere
        if not notes:
            return []
        left = self.session.run(lambda conn: existing(conn, list(notes)))
        return [
            note if asset_id in left else f"forgotten meanwhile: {note.partition(': ')[2]}"
            for asset_id, note in notes.items()
        ]

    def _activate(self, made: Mapping[str, spaces.Space]) -> None:
        for kind in made:
            active, missing = self.session.run(partial(spaces.activate_if_complete, space=made[kind]))
            self.session.run(partial(spaces.ensure_index, space=made[kind]))
            if missing:
                self.summary.notes.append(
                    f"{kind} space {made[kind].space_id} ({made[kind].profile}) lacks {missing} asset(s)"
                    + ("" if active else "; search keeps using the complete one")
                )
            elif not made[kind].is_active:
                self.summary.notes.append(f"search now uses {kind} space {made[kind].space_id} ({made[kind].profile})")
