"""The plan: which stages share an actor, how many actors, which share of which GPU.

A pure function of the work, the nodes and the rates. Measured on CPUs: one fully fused replica per
core with one thread each beats every finer cut; two pools (speech recognition without torch | the
rest) save memory; below half an hour of media starting Ray costs more than it gains. On GPUs the
same two pools share each card, beside what the service holds of it; a group none of whose models
uses a card takes no share of one, and runs on any node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cluster.hardware import CPU, kinds, labels_for
from cluster.plan_check import check as check
from cluster.plan_explain import explain as explain
from cluster.plan_groups import Cut, is_texts_only, on_cards, on_cpus
from cluster.plan_own import Wish, check_wishes, from_wishes
from cluster.plan_predict import predicted
from cluster.plan_rates import IMAGE_MEDIA_S, Rates, complete, process_gib
from cluster.plan_types import ALONE as ALONE
from cluster.plan_types import DRIVER_CONNECTIONS, Group, Node, Plan, PlanError, Work
from cluster.plan_types import RESERVED_CONNECTIONS as RESERVED_CONNECTIONS
from cluster.plan_types import SHARE_UNITS as SHARE_UNITS

ALONE_BELOW_S = 1_800.0
# An hour of media is a second or two of text vectors.
TEXTS_ALONE_BELOW_S = 100 * 3_600.0
LEAST_STORE_BYTES = 512 * 2**20
# 16 kHz mono int16
AUDIO_BYTES_PER_S = 32_000


def make_plan(
    work: Work,
    nodes: Sequence[Node],
    stages: Sequence[str],
    *,
    runner: str = "auto",
    rates: Rates | None = None,
    max_connections: int | None = 100,
    wishes: Sequence[Wish] = (),
    chain: Sequence[str] | None = None,
) -> Plan:
    """Choose the grouping for `stages` (names in chain order); `PlanError` when it cannot fit.

    `wishes` are groups that a person wrote down for `chain`, all the stages there are; they stand in for the planned
    ones. Without `rates` every cost is an estimate. `max_connections` None: the database is not known.
    """
    costs = complete(rates, stages)
    nodes = [node for node in nodes if node.cpus > 0]
    if not nodes:
        raise PlanError("no node offers a CPU: add nodes that run work (a head with 0 CPUs takes none)")
    if wishes:
        check_wishes(wishes, chain or stages, stages)
    media_s = work.media_s + work.images * IMAGE_MEDIA_S
    if runner in ALONE or (runner == "auto" and media_s < _alone_below_s(stages)):
        plan = check(_alone(work, sum(node.cpus for node in nodes), stages, costs, runner), nodes, max_connections)
        return predicted(plan, nodes, costs)
    if wishes:
        return _made(from_wishes(wishes, work, nodes, stages, costs), nodes, nodes, costs, max_connections)
    return _best(work, nodes, stages, costs, max_connections)


def _best(work: Work, nodes: Sequence[Node], stages: Sequence[str], costs: Rates, max_connections: int | None) -> Plan:
    """The fastest plan over all nodes, or over the node types that are worth it; the first refusal if none fits."""
    found: list[Plan] = []
    refusals: list[PlanError] = []
    wants_card = any(costs[name].on_card for name in stages)
    for some, names in _variants(nodes, wants_card):
        carded = [node for node in some if node.cards or node.gpu_gib]
        try:
            cut = (on_cards if carded and wants_card else on_cpus)(work, some, stages, costs)
            found.append(_made(_named(cut, names, nodes), some, nodes, costs, max_connections))
        except PlanError as error:
            refusals.append(error)
    # Cores stand in for cards where they are faster, never where cards are refused.
    if refusals and all(CPU in group.kinds for plan in found for group in plan.groups):
        raise refusals[0]
    return max(found, key=lambda plan: plan.hours_per_hour)


def _made(cut: Cut, some: Sequence[Node], nodes: Sequence[Node], costs: Rates, max_connections: int | None) -> Plan:
    actors = sum(group.actors for group in cut.groups)
    plan = Plan("ray", cut.groups, cut.why, 0.0, "", actors + DRIVER_CONNECTIONS)
    return predicted(check(plan, some if len(some) < len(nodes) else nodes, max_connections), some, costs)


def _variants(nodes: Sequence[Node], wants_card: bool) -> Iterator[tuple[Sequence[Node], tuple[str, ...]]]:
    """All nodes; then, where every card's type is known, without the smaller cards, and without any card.

    Small cards hold large models back, and a lone card may be slower than the cores of many nodes.
    """
    yield nodes, ()
    carded = [node for node in nodes if node.gpu_gib]
    bare = [node for node in nodes if not node.gpu_gib]
    if not wants_card or not carded or any(node.kind not in kinds() for node in carded):
        return
    sizes = sorted({(kinds()[node.kind].card_gib, kinds()[node.kind].speed) for node in carded})
    for size in sizes[1:]:
        some = [node for node in carded if (kinds()[node.kind].card_gib, kinds()[node.kind].speed) >= size]
        yield [*some, *bare], tuple(sorted({node.kind for node in some}))
    if bare:
        yield bare, (CPU,)


def _named(cut: Cut, names: tuple[str, ...], nodes: Sequence[Node]) -> Cut:
    """The groups held to these node types; those that need no card may go anywhere, unless cards are left out."""
    if not names:
        return cut
    there = {node.kind for node in nodes if node.gpu_gib}
    labels = labels_for(names, there)
    held = [
        replace(group, kinds=names if names != (CPU,) else ("", CPU), labels=labels)
        if group.gpus_each or names == (CPU,)
        else group
        for group in cut.groups
    ]
    out = sorted(there - set(names)) if names != (CPU,) else sorted(there)
    return Cut(tuple(held), f"{cut.why}; the cards of {', '.join(out)} would slow it down or are too small")


def _alone_below_s(stages: Sequence[str]) -> float:
    return TEXTS_ALONE_BELOW_S if is_texts_only(stages) else ALONE_BELOW_S


def _alone(work: Work, cpus: int, stages: Sequence[str], costs: Rates, runner: str) -> Plan:
    why = "asked for"
    if runner == "auto":
        runner = "worker"
        from_min = _alone_below_s(stages) / 60
        what = f"{work.media_s / 60:.1f} min of media" + (f" and {work.images} image(s)" if work.images else "")
        why = f"{what}: starting Ray pays off from {from_min:.0f} min"
    group = Group(runner, tuple(stages), 1, float(cpus), cpus, gib_each=process_gib(stages, costs))
    return Plan(runner, (group,), why, 0.0, runner, 1 + DRIVER_CONNECTIONS)


def blocks_at_hand(lengths_s: Sequence[float], actors: int) -> int:
    """How many blocks an actor holds, the one in work included, in every pool of a chain whose largest has `actors`.

    `lengths_s`: media of every block in seconds.

    A second one at hand spares an actor the driver's way between two short ones. It waits for the one in work, and
    nobody else may take it: so only where the two longest, one after the other, are a quarter of an actor's part.
    """
    return 2 if 0 < 8 * max(lengths_s, default=0.0) * actors <= sum(lengths_s) else 1


def object_store_bytes(plan: Plan, lengths_s: Sequence[float]) -> int:
    """What Ray's object store must hold: rows without sound, and each sound that hops between pools.

    A producer may run one row ahead, and is handed no more than actors hold: so many times every first-pool actor
    counts with the longest audio.
    """
    heard = [group for group in plan.groups if group.root == "speech"]
    if len(heard) < 2:
        return LEAST_STORE_BYTES
    at_hand = blocks_at_hand(lengths_s, max(group.actors for group in heard))
    sounds = (len(heard) - 1) * (1 + at_hand) * heard[0].actors
    return LEAST_STORE_BYTES + sounds * int(max(lengths_s, default=0.0) * AUDIO_BYTES_PER_S)
