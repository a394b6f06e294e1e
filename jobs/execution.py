"""The middle of a run: what is due goes through a runner, pass after pass, until nothing waits any more."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from cluster.db import ledger, report, runs
from cluster.db.rates import stored_measured
from cluster.db.settling import settled_by
from cluster.db.spaces import Space
from cluster.errors import RushesError
from cluster.hardware import parse_nodes
from cluster.lanes import LANES
from cluster.plan import Node, Plan, Work, object_store_bytes
from cluster.reservation import beside_models
from cluster.settings import settings_to_dict
from jobs.forecast import Forecast, forecast_for, informed
from jobs.interrupt import take_sigterm
from jobs.job import Job
from jobs.node_check import no_longer_ready, require_ready
from jobs.nodes import cluster_nodes, in_room, release_nodes, wait_for_nodes
from jobs.ray_context import prints_to, ray_session
from jobs.run_files import run_log
from jobs.runners import run_inline_rows, run_ray_rows, run_worker_rows, this_node
from jobs.spec import JobSpec
from jobs.stage_costs import machine_of, plan_by_costs, stage_identities
from jobs.worker import Worker

# A row that comes back without an outcome, for whatever reason, is sent so many times.
MAX_LOSSES = 3


class TooManyFailuresError(RushesError):
    """--max-failures is exceeded."""


class Execution:
    """Runs the rows of one job.

    `check` raises when the run must not go on; `close_gate` lets no further commit of it begin.
    """

    def __init__(
        self, job: Job, made: Mapping[str, Space], check: Callable[[], None], close_gate: Callable[[], None]
    ) -> None:
        self.job, self.check, self.close_gate = job, check, close_gate
        self.selection = ledger.Selection(())
        self.losses: Counter[tuple[int, str]] = Counter()
        self.lanes: tuple[str, ...] = ()
        self.worker: Worker | None = None
        self.spec = JobSpec(
            run_id=str(job.run_id),
            url=job.database.url,
            settings=settings_to_dict(job.settings),
            lanes=job.options.lanes,
            prints=job.prints,
            spaces={kind: space.space_id for kind, space in made.items()},
            chain=job.options.chain,
            downloads=job.options.address is None,
        )

    def run(self, rows: Sequence[ledger.PendingRow]) -> None:
        """Run what is due; what failed and may be tried again comes back when its delay is over."""
        try:
            self._passes(rows)
        except BaseException:
            if self.worker is not None:
                self.worker.kill()
            raise
        if self.worker is not None:
            self.worker.close()

    def _passes(self, rows: Sequence[ledger.PendingRow]) -> None:
        self.bear_failures()
        job, chosen = self.job, rows
        # No actor loads the models of a lane without work.
        self.lanes = lanes_of(rows)
        self.spec = replace(self.spec, lanes=self.lanes)
        self.selection = ledger.Selection(
            sorted({row.asset_id for row in rows}),
            newest_first=job.options.newest_first,
            found=[row.uri for row in rows],
        )
        while rows:
            due = [row for row in rows if row.due_in_s <= 0]
            if due:
                self._stream(due, work_of(due))
            else:
                delay_s = min(row.due_in_s for row in rows)
                job.reporter.waiting(len(rows), delay_s)
                time.sleep(delay_s)
            rows = [row for row in job.session.run(self._pending) if self.losses[row.asset_id, row.root] < MAX_LOSSES]
        self._settle(chosen)
        self.bear_failures()

    def _settle(self, chosen: Sequence[ledger.PendingRow]) -> None:
        """Count by the ledger what no answer told, or told wrong.

        The answer of a commit may be lost, and the row sent again finds nothing left to claim; another run may
        take a row that waits for its next attempt here.
        """
        job, heard = self.job, self.job.summary.outcomes
        settled = job.session.run(
            lambda conn: settled_by(conn, job.run_id, self.selection.asset_ids, job.prints, job.options.lanes)
        )
        for row in chosen:
            outcome, before = settled.get((row.asset_id, row.root)), heard.get(row.asset_id, {}).get(row.root)
            if outcome is None or outcome == before or (before in ("done", "failed") and outcome != "failed"):
                continue
            told = {"asset_id": row.asset_id, "uri": row.uri, "duration_ms": row.duration_ms, "root": row.root}
            job.summary.count({**told, "outcome": outcome})

    def _pending(self, conn: Any) -> list[ledger.PendingRow]:
        # No actor runs now: what is still claimed came back without an outcome.
        runs.release_units(conn, self.job.run_id)
        rows, _ = ledger.pending_rows(conn, self.selection, self.job.prints, self.job.options.lanes)
        return rows

    def bear_failures(self) -> None:
        """Raise `TooManyFailuresError` when there are more than the user bears."""
        summary = self.job.summary
        if self.job.options.max_failures.exceeded(summary.failed, summary.finished):
            raise TooManyFailuresError(
                f"stopped after {summary.failed} failed of {summary.finished} finished (--max-failures); "
                "without --force the same command goes on with the rest"
            )

    def _stream(self, rows: Sequence[ledger.PendingRow], work: Work) -> None:
        job, spec = self.job, self.spec
        if job.options.address is not None:
            # A cluster's plan is made of its own nodes: this machine may have nothing of what they have.
            self._on_ray(rows, work, None)
            return
        plan = plan_for(job, work, [this_node(job.settings)], self.lanes)
        if plan.runner == "inline":
            self._consume(work, plan, lambda: run_inline_rows(spec, plan, rows))
        elif plan.runner == "worker":
            worker = self._worker_for(plan)
            self._consume(work, plan, lambda: run_worker_rows(worker, rows))
        else:
            self._on_ray(rows, work, plan)

    def _on_ray(self, rows: Sequence[ledger.PendingRow], work: Work, local: Plan | None) -> None:
        """Through Ray: a local one for the plan that is given, else the cluster of the address."""
        job, spec = self.job, self.spec
        heard_s = [(row.duration_ms or 0) / 1000 for row in rows if row.root == "speech"]
        log_path = run_log(job.settings.data_dir, spec.run_id, "ray.log")
        with (
            prints_to(log_path),
            ray_session(
                address=job.options.address,
                cpus=this_node(job.settings).cpus,
                niceness=job.settings.worker_niceness,
                object_store_bytes=object_store_bytes(local, heard_s) if local else 0,
            ) as joined,
            nodes_asked_for(job, joined) as nodes,
        ):
            # Ray takes the signal when it starts, and would leave without a word.
            take_sigterm()
            plan = local or self._cluster_plan(nodes, work, [row.uri for row in rows])
            self._consume(work, plan, lambda: run_ray_rows(spec, plan, rows, job.settings))

    def _cluster_plan(self, nodes: list[Node], work: Work, uris: Sequence[str]) -> Plan:
        """The plan for the cluster's nodes, all of them ready; a later pass leaves out those that no longer are."""
        import ray

        job = self.job

        def plan_on(found: list[Node]) -> Plan:
            return plan_for(job, work, beside_models(job.settings, found), self.lanes)

        plan = in_room(plan_on, nodes)
        if not job.summary.runner:
            require_ready(self.spec, plan.groups, uris)
            return plan
        out = no_longer_ready(self.spec, plan.groups, uris)
        if not out:
            return plan
        plan = in_room(plan_on, cluster_nodes(ray, out), without=out)
        elsewhere = {"ray.io/node-id": f"!in({','.join(out)})"}
        return replace(
            plan, groups=tuple(replace(group, labels={**group.labels, **elsewhere}) for group in plan.groups)
        )

    def _worker_for(self, plan: Plan) -> Worker:
        if self.worker is None:
            log_path = run_log(self.job.settings.data_dir, self.spec.run_id, "worker.log")
            group = plan.groups[0]
            self.worker = Worker(self.spec.to_json(), group.stages, group.threads, log_path)
        return self.worker

    def _consume(self, work: Work, plan: Plan, stream: Callable[[], Iterator[dict[str, Any]]]) -> None:
        job = self.job
        if not job.summary.runner:  # a later pass of a few retries says nothing of the run
            job.summary.expect(plan, work)
        job.reporter.planned(plan, work)
        try:
            for row in stream():
                self._count(row)
                job.reporter.finished(row, job.summary)
                self.check()
                self.bear_failures()
        except (KeyboardInterrupt, TooManyFailuresError):
            # Here, while the actors still live: Ray's end would cut their commits off.
            self.close_gate()
            raise

    def _count(self, row: dict[str, Any]) -> None:
        summary = self.job.summary
        summary.count(row)
        if row["outcome"] is None:
            self.losses[row["asset_id"], row["root"]] += 1
            # A database that is gone for good ends the run here, and not after a wait for every row.
            self.job.session.run(lambda conn: conn.execute("SELECT 1"))
        for timing in row["timings"] or ():
            summary.stage_s[timing["stage"]] = summary.stage_s.get(timing["stage"], 0.0) + timing["seconds"]
            summary.halvings += timing["halvings"]
        if not summary.start_up_s:
            elapsed = since_first_claim(self.job)
            summary.start_up_s = max(0.0, time.monotonic() - self.job.started - (elapsed or 0.0))
        # Until now, because ending Ray afterwards takes seconds in which nothing is done.
        summary.wall_s = time.monotonic() - self.job.started - summary.start_up_s


@contextmanager
def nodes_asked_for(job: Job, nodes: list[Node]) -> Iterator[list[Node]]:
    """The nodes to plan for: those that are there, in the first pass with those that the settings ask a cluster for."""
    wanted = job.settings.plan.nodes
    if job.options.address is None or wanted is None or job.summary.runner:
        yield nodes
        return
    try:
        yield wait_for_nodes(parse_nodes(wanted), tell=job.reporter.told)
    finally:
        # Ray keeps a request for nodes when its driver has gone.
        release_nodes()


def plan_for(job: Job, work: Work, nodes: Sequence[Node], lanes: Sequence[str]) -> Plan:
    """The plan of this work in these lanes on these nodes, with the rate that such work had before."""
    return foresee(job, work, nodes, lanes)[0]


def foresee(job: Job, work: Work, nodes: Sequence[Node], lanes: Sequence[str]) -> tuple[Plan, Forecast]:
    """The plan, and where its rate comes from."""
    here = job.options.address is None
    limit = job.session.run(report.max_connections)
    stored = job.session.run(lambda conn: stored_measured(conn, stage_identities(job.settings)))
    plan = plan_by_costs(job.settings, work, nodes, lanes, stored, limit, here)
    job.summary.machine = machine_of(nodes, here)
    forecast = forecast_for(job, plan, lanes, job.summary.machine)
    return informed(plan, forecast), forecast


def since_first_claim(job: Job) -> float | None:
    """Seconds since the run claimed its first unit; None before."""
    return job.session.run(lambda conn: report.first_claim(conn, job.run_id))


def work_of(rows: Sequence[ledger.PendingRow]) -> Work:
    """The work that is in the rows; an asset counts once, whatever number of rows it has."""
    assets = {row.asset_id: row.duration_ms or 0 for row in rows}
    pictures = len({row.asset_id for row in rows if row.media_kind == "image"})
    return Work(sum(assets.values()) / 1000, len(assets), pictures)


def lanes_of(rows: Sequence[ledger.PendingRow]) -> tuple[str, ...]:
    """The lanes that have work in the rows, in their order."""
    found = {lane for row in rows for lane in row.lanes}
    return tuple(lane for lane in LANES if lane in found)
