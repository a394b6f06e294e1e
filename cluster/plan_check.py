"""What makes a plan impossible, each with its sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cluster.plan_place import Room, place
from cluster.plan_types import CPUS_TAKEN, EPSILON, RESERVED_CONNECTIONS, Group, Node, NodeType, Plan, PlanError


def check(plan: Plan, nodes: Sequence[Node], max_connections: int | None) -> Plan:
    """The plan with what each node type gets of it, or `PlanError` with the sum that does not fit.

    `max_connections` is the database server's; None: not known, and not checked.
    """
    _check_shares(plan.groups, nodes)
    for group in plan.groups:
        _check_memory(group, nodes)
    _check_connections(plan, max_connections)
    if plan.runner != "ray":
        return replace(plan, max_connections=max_connections)
    check_cards(plan.groups, nodes)
    _check_cpus(plan.groups, nodes)
    rooms = place(plan.groups, nodes)
    for room in rooms:
        _check_room(plan.groups, room)
    _check_deadlock(plan.groups, nodes)
    return replace(plan, max_connections=max_connections, node_types=_types(plan.groups, rooms))


def _check_shares(groups: Sequence[Group], nodes: Sequence[Node]) -> None:
    shares = sum(group.gpus_each * group.actors for group in groups)
    gpus, held = sum(len(node.gpu_gib) for node in nodes), sum(node.gpus_held for node in nodes)
    if shares and shares + held > gpus + EPSILON:
        parts = " + ".join(f"{g.actors} x {g.gpus_each:g} {g.name}" for g in groups if g.gpus_each)
        parts += f" + {held:g} held" if held else ""
        raise PlanError(
            f"GPU shares {parts} = {shares + held:.2f} exceed {gpus} GPU(s): lower the shares or the actors"
        )


def _check_memory(group: Group, nodes: Sequence[Node]) -> None:
    there = [node.memory_gib for node in nodes if group.may_use(node) and (node.cards or not group.gpus_each)]
    # A kind that is named must hold it; where any will do, the largest decides.
    limit = (min if group.kinds else max)(there, default=0.0)
    if group.gib_each > limit:
        which = "smallest node that it names" if group.kinds else "largest node"
        raise PlanError(f"group {group.name} needs {group.gib_each:g} GiB, the {which} has {limit:.1f} GiB")


def _check_room(groups: Sequence[Group], room: Room) -> None:
    """The actors that were put on a node hold no more memory than it has."""
    there = [(group, room.actors[group.name]) for group in groups if room.actors[group.name]]
    needed = sum(count * group.gib_each for group, count in there)
    if needed > room.node.memory_gib + EPSILON:
        parts = " + ".join(f"{count} x {group.gib_each:g} {group.name}" for group, count in there)
        raise PlanError(
            f"{parts} = {needed:.1f} GiB exceed the {room.node.memory_gib:.1f} GiB of "
            f"{room.node.name or room.node.kind or 'a node'}: lower the actors, or use a smaller profile"
        )


def _check_connections(plan: Plan, max_connections: int | None) -> None:
    if max_connections is not None and plan.connections + RESERVED_CONNECTIONS > max_connections:
        raise PlanError(
            f"{plan.connections} connections + {RESERVED_CONNECTIONS} reserved exceed the server's max_connections "
            f"{max_connections}: raise it, or use fewer CPUs (RUSHES_CPUS)"
        )


def check_cards(groups: Sequence[Group], nodes: Sequence[Node]) -> None:
    """The heaviest mix of actors that Ray may put on a card, beside what is held; of unknown size: anything."""
    for node in nodes:
        smallest = min((gib for gib in node.gpu_gib if gib), default=0.0)
        if not smallest or not node.cards:
            continue
        there = [group for group in groups if group.gpus_each and group.may_use(node)]
        # Cards that nobody holds take more actors, the one that is held has less memory.
        for room, held_gib in (
            {(1.0, 0.0), (node.free_share, node.held_gib)} if node.cards > 1 else {(node.free_share, node.held_gib)}
        ):
            counts, needed = heaviest(there, room)
            if needed + held_gib > smallest + EPSILON:
                raise PlanError(_too_heavy(there, counts, needed + held_gib, held_gib, smallest))


def _too_heavy(groups: Sequence[Group], counts: Sequence[int], needed: float, held_gib: float, card_gib: float) -> str:
    parts = " + ".join(
        f"{count} x {group.device_gib_each:g} {group.name}"
        for group, count in zip(groups, counts, strict=True)
        if count
    )
    held = f" + {held_gib:g} held" if held_gib else ""
    way = "serve fewer models" if held else "use a smaller profile, or set RUSHES_<ROLE>_DEVICE=cpu"
    return f"{parts}{held} = {needed:.1f} GiB exceed a card of {card_gib:g} GiB: {way}"


def heaviest(groups: Sequence[Group], room: float) -> tuple[list[int], float]:
    """How many actors of each group on a card with so much share free take the most of its memory, and how much."""
    if not groups:
        return [], 0.0
    first, rest = groups[0], groups[1:]
    most = min(first.actors, int((room + EPSILON) / first.gpus_each))
    best: tuple[list[int], float] = ([0] * len(groups), -1.0)
    for count in range(most, -1, -1) if rest else (most,):
        counts, gib = heaviest(rest, room - count * first.gpus_each)
        if count * first.device_gib_each + gib > best[1]:
            best = [count, *counts], count * first.device_gib_each + gib
    return best


def _check_cpus(groups: Sequence[Group], nodes: Sequence[Node]) -> None:
    taken = sum(group.actors * group.cpus_each for group in groups)
    there = sum(node.cpus for node in nodes)
    if taken > CPUS_TAKEN * there + EPSILON * max(1, there):
        parts = " + ".join(f"{g.actors} x {g.cpus_each:g} {g.name}" for g in groups)
        raise PlanError(
            f"CPUs {parts} = {taken:g} leave less than a tenth of {there} for Ray's own tasks: lower the actors or the "
            "CPUs of a group"
        )


def _check_deadlock(groups: Sequence[Group], nodes: Sequence[Node]) -> None:
    """One actor of each pool fits on one node together, so that after the loss of the others all of them can go on."""
    for with_card in (True, False):
        together = [replace(group, actors=1) for group in groups if bool(group.gpus_each) == with_card]
        if not together or any(_fits(together, node) for node in nodes):
            continue
        cpus = " + ".join(f"{group.cpus_each:g} {group.name}" for group in together)
        shares = " + ".join(f"{group.gpus_each:g}" for group in together)
        gpus = f" and {shares} GPU" if with_card else ""
        raise PlanError(
            f"one actor of each group takes {cpus} CPU{gpus} together, and no node has that: after the loss of a node "
            "they would wait for each other; lower the CPUs or the shares of a group"
        )


def _fits(groups: Sequence[Group], node: Node) -> bool:
    try:
        place(groups, [node])
    except PlanError:
        return False
    return True


def _types(groups: Sequence[Group], rooms: Sequence[Room]) -> tuple[NodeType, ...]:
    found: dict[tuple[str, float], list[Room]] = {}
    for room in rooms:
        found.setdefault((room.node.kind, min(room.node.gpu_gib, default=-1.0)), []).append(room)
    return tuple(_type(kind, groups, alike) for (kind, _), alike in sorted(found.items()))


def _type(kind: str, groups: Sequence[Group], rooms: Sequence[Room]) -> NodeType:
    nodes = [room.node for room in rooms]
    there = [group for group in groups if group.gpus_each and group.may_use(nodes[0])]
    peak_gib = max(
        (heaviest(there, free)[1] + (node.held_gib if free < 1 else 0.0) for node in nodes for free in set(node.rooms)),
        default=0.0,
    )
    actors = {group.name: sum(room.actors[group.name] for room in rooms) for group in groups}
    return NodeType(
        kind=kind,
        nodes=len(nodes),
        cards=sum(len(node.gpu_gib) for node in nodes),
        card_gib=min((gib for node in nodes for gib in node.gpu_gib), default=0.0),
        peak_gib=round(peak_gib, 2),
        cpus=sum(node.cpus for node in nodes),
        actors={name: count for name, count in actors.items() if count},
    )
