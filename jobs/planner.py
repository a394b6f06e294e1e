"""The plan that a person asks to see: for this machine, for the cluster at an address, or for one in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from actors.lanes import fingerprints
from cluster.db import ledger, report
from cluster.db.connect import database_errors
from cluster.db.rates import stored_measured
from cluster.db.register import all_asset_ids
from cluster.errors import UsageError
from cluster.hardware import check_prices, parse_nodes
from cluster.plan import Node, Plan, Work
from cluster.plan_explain import costs
from cluster.reservation import beside_models, reserved
from cluster.settings import Settings
from jobs.execution import work_of
from jobs.forecast import Forecast, foretell, informed
from jobs.runners import this_node
from jobs.stage_costs import machine_of, plan_by_costs, stage_identities

# A cluster that is described without hours of media is planned for so many.
NOMINAL_HOURS = 1_200.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person wants planned; `nodes` describes a cluster, `address` is that of one that runs."""

    lanes: tuple[str, ...]
    hours: float | None = None
    nodes: str | None = None
    address: str | None = None
    prices: Mapping[str, float] | None = None
    beside_service: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The plan, what it is for, and what it costs in the currency of the prices."""

    plan: Plan
    work: Work
    nodes: tuple[Node, ...]
    forecast: Forecast
    prices: Mapping[str, float]

    @property
    def kinds(self) -> list[str]:
        """The type of every node."""
        return [node.kind for node in self.nodes]

    def costs(self) -> dict[str, float]:
        """See `cluster.plan_explain.costs`; `of_this_work` for the work itself, start-up included."""
        found = costs(self.plan, self.kinds, self.prices)
        if found and self.work.media_s:
            hours = self.plan.load_s / 3600 + self.work.media_s / 3600 / max(self.plan.hours_per_hour, 1e-9)
            found["of_this_work"] = round(found["per_hour"] * hours, 2)
        return found


def answer(settings: Settings, asked: Asked) -> Answer:
    """The plan; `UsageError` for words that make no sense, `PlanError` with the arithmetic for what cannot work."""
    if asked.nodes is not None and asked.address is not None:
        raise UsageError("--nodes describes a cluster, --address joins one: give one of them")
    prices = {**settings.plan.prices, **(asked.prices or {})}
    check_prices(prices)
    here = asked.nodes is None and asked.address is None
    nodes = _nodes(settings, asked)
    if asked.beside_service:
        nodes = beside(settings, nodes)
    with _database(settings, needed=asked.nodes is None) as conn:
        return _planned(settings, asked, conn, nodes, here, prices)


def beside(settings: Settings, nodes: Sequence[Node]) -> list[Node]:
    """The nodes with the service's share of the first card taken, and the memory of its models."""
    first = next((number for number, node in enumerate(nodes) if node.gpu_gib), None)
    share, gib = reserved(settings)
    return [
        replace(node, gpus_held=share, held_gib=gib if share else 0.0) if number == first else node
        for number, node in enumerate(nodes)
    ]


def _nodes(settings: Settings, asked: Asked) -> list[Node]:
    if asked.nodes is not None:
        return parse_nodes(asked.nodes)
    if asked.address is None:
        return [this_node(settings)]
    from jobs.ray_context import ray_session

    with ray_session(address=asked.address, cpus=1, niceness=0, object_store_bytes=0) as nodes:
        return beside_models(settings, nodes)


def _database(settings: Settings, *, needed: bool) -> AbstractContextManager[Any]:
    """A connection to the corpus; None for a described cluster where no database is configured."""
    if not needed and settings.database_url is None:
        return nullcontext()
    from jobs.ingest import open_database

    return closing(open_database(settings).connect())


def _planned(
    settings: Settings, asked: Asked, conn: Any, nodes: Sequence[Node], here: bool, prices: Mapping[str, float]
) -> Answer:
    with database_errors():
        limit = None if conn is None else report.max_connections(conn)
        stored = [] if conn is None else stored_measured(conn, stage_identities(settings))
        work = _work(conn, settings, asked)
    made = plan_by_costs(settings, work, nodes, asked.lanes, stored, limit, here)
    forecast = Forecast(made.hours_per_hour, None, 0)
    if conn is not None and asked.nodes is None:
        forecast = foretell(conn, settings, fingerprints(settings), asked.lanes, made, machine=machine_of(nodes, here))
    return Answer(informed(made, forecast), work, tuple(nodes), forecast, prices)


def _work(conn: Any, settings: Settings, asked: Asked) -> Work:
    """So many hours as asked for; else what is pending, and a nominal archive where nothing is known."""
    hours = asked.hours if conn is not None or asked.hours is not None else NOMINAL_HOURS
    if hours is not None:
        return Work(hours * 3600, max(1, round(hours)))
    ids, prints = all_asset_ids(conn), fingerprints(settings)
    with conn.transaction(force_rollback=True):
        ledger.ensure_units(conn, ids, prints, list(prints))
        rows, _ = ledger.pending_rows(conn, ledger.Selection(ids), prints, asked.lanes)
    return work_of(rows)
