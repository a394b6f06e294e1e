"""Groups that a person wrote down (`[[plan.groups]]`): what they leave open is planned, what cannot be is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from cluster.plan_groups import LEAST_CPUS, Cut, spread_cpus
from cluster.plan_rates import Rates, actor_s, device_gib, process_gib
from cluster.plan_types import CPUS_TAKEN, EPSILON, LOOK, SHARE_UNITS, Group, Node, PlanError, Work


class Wish(Protocol):
    """One line of a plan as `cluster.settings.GroupSettings` holds it; None is left to the planner."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def stages(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def actors(self) -> int | None: ...  # noqa: D102
    @property
    def gpu_share(self) -> float | None: ...  # noqa: D102
    @property
    def cpus(self) -> float | None: ...  # noqa: D102
    @property
    def threads(self) -> int | None: ...  # noqa: D102


def check_wishes(wishes: Sequence[Wish], chain: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise `PlanError` unless every wanted stage of `chain` stands in one group, in order.

    Stages of the chain that this work does not need may stand there too.
    """
    named = [name for wish in wishes for name in wish.stages]
    if unknown := [name for name in named if name not in chain]:
        raise PlanError(f"plan: no stage {', '.join(unknown)}; the stages are {', '.join(chain)}")
    if doubled := [name for name, count in Counter(named).items() if count > 1]:
        raise PlanError(f"plan: {', '.join(doubled)} stands in more than one group: a stage runs once")
    if missing := [name for name in wanted if name not in named]:
        raise PlanError(f"plan: no group has {', '.join(missing)}: every stage needs one")
    if twice := [name for name, count in Counter(wish.name for wish in wishes).items() if count > 1]:
        raise PlanError(f"plan: two groups are named {', '.join(twice)}: give each its own name")
    for wish in wishes:
        if len({name in LOOK for name in wish.stages}) == 2:
            raise PlanError(
                f"plan: group {wish.name} mixes stages of sound and of pictures: their rows travel apart, make two"
            )
    for chosen in ([n for n in named if n in LOOK], [n for n in named if n not in LOOK]):
        if chosen != sorted(chosen, key=list(chain).index):
            raise PlanError(
                f"plan: {' > '.join(chosen)} is out of order: rows pass {' > '.join(n for n in chain if n in chosen)}"
            )


def from_wishes(wishes: Sequence[Wish], work: Work, nodes: Sequence[Node], stages: Sequence[str], rates: Rates) -> Cut:
    """The groups as they were asked for, without stages that are not wanted."""
    kept = [(wish, tuple(name for name in wish.stages if name in stages)) for wish in wishes]
    kept = [(wish, found) for wish, found in kept if found]
    rooms = [room for node in nodes for room in node.rooms]
    drafts = [_draft(wish, found, bool(rooms), rates) for wish, found in kept]
    shared = _with_shares([wish for wish, _ in kept], drafts, rooms)
    counted = _with_actors([wish for wish, _ in kept], shared, len(rooms), work, nodes, rates)
    return Cut(tuple(_with_cpus([wish for wish, _ in kept], counted, nodes)), "groups as the settings give them")


def _draft(wish: Wish, stages: tuple[str, ...], cards: bool, rates: Rates) -> Group:
    share, gib = wish.gpu_share, device_gib(stages, rates)
    if share is not None and share < 1 / SHARE_UNITS and (share or (gib and cards)):
        models = ", ".join(name for name in stages if rates[name].on_card) or "its stages"
        raise PlanError(
            f"group {wish.name}: a GPU share of {share:g} is none (Ray counts in {1 / SHARE_UNITS:g}), and {models} "
            "would run on the card uncounted: give it a share, or keep its models off with RUSHES_<ROLE>_DEVICE=cpu"
        )
    on_card = gib if cards or share else 0.0
    return Group(wish.name, stages, 1, 0.0, wish.threads or 0, share or 0.0, process_gib(stages, rates), {}, on_card)


def _with_shares(wishes: Sequence[Wish], drafts: Sequence[Group], rooms: Sequence[float]) -> list[Group]:
    """Equal parts of what the given shares leave of each card for those that give none."""
    given = sum(wish.gpu_share * (wish.actors or len(rooms)) / max(len(rooms), 1) for wish in wishes if wish.gpu_share)
    open_ = [
        draft.name
        for wish, draft in zip(wishes, drafts, strict=True)
        if wish.gpu_share is None and draft.device_gib_each and rooms
    ]
    left = min(rooms, default=0.0) - given
    if open_ and left / len(open_) < 1 / SHARE_UNITS:
        raise PlanError(
            f"GPU shares {given:.2f} are given, and {', '.join(open_)} need(s) one: {max(left, 0):g} of a card is left"
        )
    each = int(left / max(len(open_), 1) * SHARE_UNITS + EPSILON) / SHARE_UNITS
    return [replace(draft, gpus_each=each) if draft.name in open_ else draft for draft in drafts]


def _with_actors(
    wishes: Sequence[Wish], groups: Sequence[Group], cards: int, work: Work, nodes: Sequence[Node], rates: Rates
) -> list[Group]:
    """One per card where a card is shared; else the cores left, by the work of each group."""
    counts = {
        wish.name: wish.actors or (max(1, cards) if group.gpus_each else 0)
        for wish, group in zip(wishes, groups, strict=True)
    }
    left = [group for group in groups if not counts[group.name]]
    cores = int(sum(node.cpus for node in nodes) / (2 if cards else 1)) - sum(counts.values()) * (not cards)
    needs = {group.name: actor_s(group.stages, rates, None) for group in left}
    for group in left:
        part = needs[group.name] / (sum(needs.values()) or 1.0)
        counts[group.name] = max(1, min(int(cores * part), work.assets or 1))
    return [replace(group, actors=counts[group.name]) for group in groups]


def _with_cpus(wishes: Sequence[Wish], groups: Sequence[Group], nodes: Sequence[Node]) -> list[Group]:
    given = {wish.name: wish.cpus for wish in wishes if wish.cpus is not None}
    taken = sum(given.get(group.name, 0.0) * group.actors for group in groups)
    there = CPUS_TAKEN * sum(node.cpus for node in nodes)
    left = [group for group in groups if group.name not in given]
    if taken > there + EPSILON:
        parts = " + ".join(f"{g.actors} x {given[g.name]:g} {g.name}" for g in groups if g.name in given)
        raise PlanError(
            f"CPUs {parts} = {taken:g} exceed {there:g}, nine tenths of the CPUs there are (a tenth stays for Ray's "
            "own tasks): lower the actors or the CPUs of a group"
        )
    each = _each(left, groups, nodes, (there - taken)) if left else 0.0
    return [
        replace(
            group,
            cpus_each=given.get(group.name, each),
            threads=group.threads or max(1, int(given.get(group.name, each))),
        )
        for group in groups
    ]


def _each(left: Sequence[Group], groups: Sequence[Group], nodes: Sequence[Node], spare: float) -> float:
    """What is left for each actor without a number of its own; those of a card are held to the CPUs beside it."""
    actors = sum(group.actors for group in left)
    each = spread_cpus(actors, nodes) if len(left) == len(groups) else spare / actors
    carded = [node for node in nodes if node.cards]
    on_card = [group for group in left if group.gpus_each]
    if carded and on_card:
        per_card = sum(group.actors for group in on_card) / sum(node.cards for node in carded)
        beside = 2 if len(on_card) < len(groups) else 1
        each = min(each, min(node.cpus / node.cards for node in carded) * CPUS_TAKEN / beside / per_card)
    return max(LEAST_CPUS, int(each * 1000 + 1e-9) / 1000)
