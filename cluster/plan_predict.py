"""How fast a plan is: what its actors, its cards and its cores allow; the least of them is the rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cluster.hardware import CPU
from cluster.plan_rates import Rates, actor_s, core_s
from cluster.plan_types import Group, Node, NodeType, Plan

S_PER_HOUR = 3600.0
# What one process gains from all cores over one of them.
GAIN_OF_THREADS = 1.25
CARDS, CORES = "cards", "cores"
# What Ray takes to start, before models load.
RAY_START_S = 8.0


def predicted(plan: Plan, nodes: Sequence[Node], rates: Rates) -> Plan:
    """The plan with its bounds, its rate, and the stage that limits it."""
    bounds = _alone(plan, nodes, rates) if plan.runner != "ray" else _on_ray(plan, nodes, rates)
    limit = min(bounds, key=bounds.__getitem__)
    rate = bounds[limit]
    busy = sum(core_s(group.stages, rates, with_card=bool(group.gpus_each)) for group in plan.groups) / S_PER_HOUR
    stages = [name for group in plan.groups for name in group.stages]
    return replace(
        plan,
        hours_per_hour=rate,
        bottleneck=_slowest(plan, limit, rates, nodes),
        bounds={name: round(bound, 3) for name, bound in bounds.items()},
        measured=tuple(name for name in stages if _is_measured(name, plan, nodes, rates)),
        stage_s={name: round(_stage_s(name, plan, nodes, rates), 3) for name in stages},
        load_s=_load_s(plan, rates),
        cores_busy=round(busy * rate, 2),
        cores=sum(node.cpus for node in nodes),
    )


def _alone(plan: Plan, nodes: Sequence[Node], rates: Rates) -> dict[str, float]:
    cpus = sum(node.cpus for node in nodes)
    kind = next((node.kind for node in nodes if node.cards), None)
    gain = 1.0 if kind is not None else min(float(cpus), GAIN_OF_THREADS)
    return {plan.runner: S_PER_HOUR * gain / max(actor_s(plan.groups[0].stages, rates, kind), 1e-9)}


def _on_ray(plan: Plan, nodes: Sequence[Node], rates: Rates) -> dict[str, float]:
    bounds = {group.name: _actors_allow(group, plan.node_types, rates) for group in plan.groups}
    on_card = [group for group in plan.groups if group.gpus_each]
    if on_card:
        bounds[CARDS] = sum(_card_allows(on_card, node, rates) for node in nodes)
    feeding = sum(core_s(group.stages, rates, with_card=bool(group.gpus_each)) for group in plan.groups)
    if on_card or len({group.root for group in plan.groups}) == 2:
        there = sum(node.cpus for node in nodes if any(group.may_use(node) for group in plan.groups))
        bounds[CORES] = S_PER_HOUR * there / max(feeding, 1e-9)
    return bounds


def _actors_allow(group: Group, types: Sequence[NodeType], rates: Rates) -> float:
    """Media hours per hour of its actors, each on a card of its own for as long as it works."""
    return sum(
        S_PER_HOUR * found.actors.get(group.name, 0)
        / max(actor_s(group.stages, rates, found.kind if group.gpus_each else None), 1e-9)
        for found in types
    )  # fmt: skip


def _card_allows(groups: Sequence[Group], node: Node, rates: Rates) -> float:
    there = [name for group in groups if group.may_use(node) for name in group.stages if rates[name].on_card]
    if not there:
        return 0.0
    return S_PER_HOUR * sum(node.rooms) / max(sum(rates[name].on(node.kind) for name in there), 1e-9)


def _slowest(plan: Plan, limit: str, rates: Rates, nodes: Sequence[Node]) -> str:
    kind = next((node.kind for node in nodes if node.cards), None)
    named = [group for group in plan.groups if group.name == limit] or plan.groups
    if limit == CARDS:
        named = [replace(group, stages=stages) for group in named if (stages := _on_card(group, rates))]
        return max((name for group in named for name in group.stages), key=lambda name: rates[name].on(kind or ""))
    return max(
        ((name, bool(group.gpus_each)) for group in named for name in group.stages),
        key=lambda item: (
            core_s([item[0]], rates, with_card=item[1])
            if limit == CORES
            else actor_s([item[0]], rates, kind if item[1] else None)
        ),
    )[0]


def _on_card(group: Group, rates: Rates) -> tuple[str, ...]:
    return tuple(name for name in group.stages if rates[name].on_card and group.gpus_each)


def _stage_s(name: str, plan: Plan, nodes: Sequence[Node], rates: Rates) -> float:
    """On the slowest node type that its group may use."""
    group, with_card = _group_of(name, plan, nodes)
    kinds = {node.kind for node in nodes if group.may_use(node) and node.cards} if with_card else set()
    return max((actor_s([name], rates, kind) for kind in kinds), default=actor_s([name], rates, None))


def _group_of(name: str, plan: Plan, nodes: Sequence[Node]) -> tuple[Group, bool]:
    group = next(group for group in plan.groups if name in group.stages)
    return group, bool(group.gpus_each) or (plan.runner != "ray" and any(node.cards for node in nodes))


def _is_measured(name: str, plan: Plan, nodes: Sequence[Node], rates: Rates) -> bool:
    group, with_card = _group_of(name, plan, nodes)
    kinds = {node.kind for node in nodes if group.may_use(node) and (node.cards or not with_card)}
    if not with_card or not rates[name].on_card:
        kinds = {CPU}
    return bool(kinds) and kinds <= rates[name].measured


def _load_s(plan: Plan, rates: Rates) -> float:
    loads = [sum(rates[name].load_s for name in group.stages) for group in plan.groups]
    return max(loads, default=0.0) + (RAY_START_S if plan.runner == "ray" else 0.0)
