"""Where the actors of a plan go, as Ray fills cards and spreads over nodes, and what one lacks that fits nowhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.plan_types import EPSILON, Group, Node, PlanError


@dataclass(slots=True)
class Room:
    """What is free of one node, and the actors that were put there by group."""

    node: Node
    cpus: float
    cards: list[float]
    actors: Counter[str] = field(default_factory=Counter)

    def takes(self, group: Group) -> bool:
        """Whether one more actor of the group fits."""
        return (
            group.may_use(self.node)
            and self.cpus + EPSILON >= group.cpus_each
            and (not group.gpus_each or self._card(group) is not None)
        )

    def put(self, group: Group) -> None:
        """Take what one actor takes; the fullest card that has room for it first."""
        self.cpus -= group.cpus_each
        self.actors[group.name] += 1
        card = self._card(group) if group.gpus_each else None
        if card is not None:
            self.cards[card] -= group.gpus_each

    def _card(self, group: Group) -> int | None:
        fits = [number for number, free in enumerate(self.cards) if free + EPSILON >= group.gpus_each]
        return min(fits, key=self.cards.__getitem__, default=None)


def place(groups: Sequence[Group], nodes: Sequence[Node]) -> list[Room]:
    """Every actor on a node, those with the largest share first; `PlanError` where one fits on none."""
    rooms = [Room(node, float(node.cpus), node.rooms) for node in nodes]
    for group in sorted(groups, key=lambda each: (-each.gpus_each, -each.cpus_each)):
        for number in range(group.actors):
            fits = [room for room in rooms if room.takes(group)]
            if not fits:
                raise PlanError(_no_room(group, number, rooms))
            # CPU work goes to the nodes without cards first, and nobody gets two before all have one.
            min(fits, key=lambda room: (bool(room.node.cards) and not group.gpus_each, room.actors[group.name])).put(
                group
            )
    return rooms


def _no_room(group: Group, placed: int, rooms: Sequence[Room]) -> str:
    named = f" of type {' or '.join(group.kinds)}" if group.kinds else ""
    there = [room for room in rooms if group.may_use(room.node)]
    free = "; ".join(
        f"{room.node.name or room.node.kind or 'a node'}: {room.cpus:.3g} of {room.node.cpus} CPU"
        + (f", {sum(room.cards):.3g} of {len(room.node.gpu_gib)} GPU" if room.node.gpu_gib else "")
        for room in there[:4]
    )
    needs = f"{group.cpus_each:g} CPU" + (f" and {group.gpus_each:g} GPU" if group.gpus_each else "")
    return (
        f"{group.name} actor {placed + 1} of {group.actors} needs {needs} on one node{named}; free there are "
        f"{free or 'none'}: lower the actors, the CPUs or the share of a group"
    )
