"""How long work will take: from what such work took before, or from the plan's own assumptions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from actors.lanes import stages_for, whole_chain
from cluster.db import rates
from cluster.db.ledger import PendingRow
from cluster.lanes import LANES
from cluster.plan import Plan
from cluster.settings import Settings
from jobs.job import Job
from jobs.summary import duration


@dataclass(frozen=True, slots=True)
class Forecast:
    """Media hours per hour, seconds before the first claim, and how many assets told so (0: assumed).

    `stage_s` are seconds of each stage per media hour, where assets told them.
    """

    hours_per_hour: float
    start_up_s: float | None
    assets: int
    stage_s: Mapping[str, float] = field(default_factory=dict)
    bottleneck: str = ""

    def describe(self, media_s: float) -> str:
        """The time this much media takes, and where the figure comes from."""
        work_s = media_s / max(self.hours_per_hour, 1e-9)
        told = f"measured on {self.assets} asset(s)" if self.assets else "assumed: nothing like it ran here yet"
        if self.start_up_s is None:
            return f"predicted: {duration(work_s)} after start-up ({told})"
        parts = f"{duration(self.start_up_s)} of start-up + {duration(work_s)} of work"
        return f"predicted: {duration(self.start_up_s + work_s)} = {parts} ({told})"


def foretell(
    conn: Any,
    settings: Settings,
    prints: Mapping[str, str],
    lanes: Sequence[str],
    plan: Plan,
    costs: Sequence[rates.Cost] | None = None,
    machine: str | None = None,
) -> Forecast:
    """What the plan's own runner made of these stages before; the plan's rates when it did not run them yet.

    `costs` is what that took, if it was read already; only what ran on such a `machine` counts, None: on any.
    """
    stages = {stage.name: stage.lanes for stage in stages_for(whole_chain(settings), lanes)}
    wanted = {lane: prints[lane] for lane in lanes}
    start_up_s = rates.usual_start_up_s(conn, plan.runner)
    costs = rates.recent_costs(conn, wanted, plan.runner, machine) if costs is None else costs
    costs = [cost for cost in costs if None in (machine, cost.machine) or cost.machine == machine]
    measured = rates.stage_rates(costs, stages, start_up_s)
    found = rates.hours_per_hour(measured, [(group.stages, group.actors) for group in plan.groups])
    if found is None:
        return Forecast(plan.hours_per_hour, start_up_s, 0)
    return Forecast(found[0], start_up_s, measured.assets, dict(measured.s_per_media_hour), found[1])


def informed(plan: Plan, forecast: Forecast) -> Plan:
    """The plan with the rate, the start-up and the stages' seconds that were measured."""
    load_s = plan.load_s if forecast.start_up_s is None else forecast.start_up_s
    if not forecast.assets:
        return replace(plan, load_s=load_s)
    stages = tuple(name for group in plan.groups for name in group.stages)
    return replace(
        plan,
        hours_per_hour=forecast.hours_per_hour,
        load_s=load_s,
        measured=stages,
        bottleneck=forecast.bottleneck,
        stage_s=forecast.stage_s,
    )


def forecast_for(job: Job, plan: Plan, lanes: Sequence[str], machine: str | None = None) -> Forecast:
    """What is to be expected of the plan for these lanes in this job, on such a machine."""
    costs = job.measured.get(plan.runner)
    return job.session.run(lambda conn: foretell(conn, job.settings, job.prints, lanes, plan, costs, machine))


def lane_counts(rows: Sequence[PendingRow]) -> dict[str, int]:
    """Lane -> how many of the rows have work in it."""
    counts = Counter(lane for row in rows for lane in row.lanes)
    return {lane: counts[lane] for lane in LANES if counts[lane]}


def in_words(counts: Mapping[str, int]) -> str:
    """`assets by lane: speech 3, voices 3, texts 5`."""
    return f"assets by lane: {', '.join(f'{lane} {count}' for lane, count in counts.items())}"
