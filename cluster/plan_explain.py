"""A plan in lines that a person can check: groups, node types, bounds, finish and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cluster.plan_types import RESERVED_CONNECTIONS, NodeType, Plan, Work

PER_HOURS = 1_000


def explain(plan: Plan, work: Work) -> list[str]:
    """The plan in lines a person can check."""
    lines = [f"runner {plan.runner}: {plan.why}"]
    for group in plan.groups:
        gpu = f", {group.gpus_each:g} GPU each" if group.gpus_each else ""
        card = f" and {group.device_gib_each:g} on the card" if group.gpus_each else ""
        where = f" on {'/'.join(filter(None, group.kinds))} nodes" if group.kinds else ""
        lines.append(
            f"  {group.name}: {group.actors} actor(s){where}, {group.cpus_each:g} CPU and {group.threads} thread(s) "
            f"each{gpu}, {group.gib_each:g} GiB each{card}: {' > '.join(group.stages)}"
        )
    lines += [_node_line(found) for found in plan.node_types]
    if len(plan.bounds) > 1:
        parts = ", ".join(f"{name} {bound:.0f}" for name, bound in sorted(plan.bounds.items(), key=lambda i: i[1]))
        lines.append(f"  bounds in h/h: {parts}; {plan.cores_busy:.1f} of {plan.cores} cores busy at the least of them")
    limit = "not known" if plan.max_connections is None else plan.max_connections
    lines.append(
        f"work: {work.assets} assets, {work.media_s / 3600:.2f} h; predicted {plan.hours_per_hour:.0f} h/h after "
        f"start-up ({told(plan)}); bottleneck {plan.bottleneck}; {plan.connections} connections + "
        f"{RESERVED_CONNECTIONS} reserved of max_connections {limit}"
    )
    return lines


def told(plan: Plan) -> str:
    """Where the rate comes from: `measured`, or `estimate` with the stages that nobody measured on this hardware."""
    if not plan.estimated:
        return "measured"
    if not plan.measured:
        return "estimate"
    return f"estimate: {', '.join(plan.estimated)} not measured here"


def _node_line(found: NodeType) -> str:
    name = found.kind or ("cards of unknown type" if found.cards else "nodes")
    actors = ", ".join(f"{count} {group}" for group, count in found.actors.items()) or "nothing"
    cards = ""
    if found.cards:
        of = f" of {found.card_gib:g}" if found.card_gib else ", of a size that nobody knows"
        cards = f", {found.cards} card(s) with {found.peak_gib:g}{of} GiB at the peak"
    return f"  {found.nodes} x {name}, {found.cpus} CPUs{cards}: {actors}"


def finish(plan: Plan, hours: float) -> float:
    """Seconds that so many media hours take, start-up included."""
    return plan.load_s + hours / max(plan.hours_per_hour, 1e-9) * 3600


def costs(plan: Plan, node_kinds: Sequence[str], prices: Mapping[str, float]) -> dict[str, float]:
    """`per_hour` of the nodes and `per_1000_media_hours`, in the currency of the prices per node and hour.

    Empty where the price of a node type is not known.
    """
    if not prices or any(kind not in prices for kind in node_kinds):
        return {}
    per_hour = sum(prices[kind] for kind in node_kinds)
    return {
        "per_hour": round(per_hour, 4),
        "per_1000_media_hours": round(per_hour * PER_HOURS / max(plan.hours_per_hour, 1e-9), 2),
    }


def cost_lines(plan: Plan, node_kinds: Sequence[str], prices: Mapping[str, float]) -> list[str]:
    """The costs in words; which price is missing where one is; nothing without prices."""
    if not prices:
        return []
    found = costs(plan, node_kinds, prices)
    if not found:
        lacking = sorted({kind or "an unknown node type" for kind in node_kinds if kind not in prices})
        return [f"cost: no price for {', '.join(lacking)} (--price {lacking[0].replace(' ', '-')}=...)"]
    return [
        f"cost: {found['per_hour']:.2f} an hour, {found['per_1000_media_hours']:.2f} for {PER_HOURS:,} media hours, in "
        "the currency of the prices"
    ]
