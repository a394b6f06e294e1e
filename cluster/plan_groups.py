"""How stages are cut into groups, on CPUs and on cards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from cluster.plan_check import check_cards
from cluster.plan_place import place
from cluster.plan_rates import Rates, actor_s, device_gib, process_gib
from cluster.plan_types import (
    CPUS_TAKEN,
    HEAR,
    LOOK,
    RESERVED_GIB,
    SHARE_UNITS,
    TEXTS,
    Group,
    Node,
    PlanError,
    Work,
)

# Parts of a card by pool; they count beside what each needs of its memory.
WEIGHTS = {"hear": 0.45, "speak": 0.45, "look": 0.1}
# So many actors for pictures per card at the most.
MOST_LOOKERS = 8
# Beside more than this, the rest of a card is no place for every model of a backfill.
LEAST_FREE_SHARE = 0.25
LEAST_CPUS = 0.001


@dataclass(frozen=True, slots=True)
class Cut:
    """Groups, and why they are cut so."""

    groups: tuple[Group, ...]
    why: str


def split(stages: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The stages for sound and words, and those for pictures."""
    return tuple(name for name in stages if name not in LOOK), tuple(name for name in stages if name in LOOK)


def on_cpus(work: Work, nodes: Sequence[Node], stages: Sequence[str], rates: Rates) -> Cut:
    """One fused replica per core where memory allows it, else recognition apart from torch; pictures beside."""
    heard, looked = split(stages)
    cpus = sum(node.cpus for node in nodes)
    look = _look_on_cpus(work, nodes, heard, looked, rates)
    if not heard:
        return Cut(_share_cpus(look, nodes), f"{look[0].actors} actors for pictures, one per core")
    taken_gib = sum(group.actors * group.gib_each for group in look) / len(nodes)
    rooms_gib = [max(node.memory_gib - RESERVED_GIB - taken_gib, 0.0) for node in nodes]
    fused = _group("fused", heard, rates)
    fits = sum(int(room // fused.gib_each) for room in rooms_gib)
    actors = max(1, min(cpus, work.assets or 1))
    pools = _balanced(heard, rooms_gib, actors, rates) if set(heard) & set(HEAR) else ()
    if fits >= actors or not pools or (fits and _speed((replace(fused, actors=fits),), rates) >= _speed(pools, rates)):
        actors = max(1, min(actors, fits))
        why = f"{actors} fused replicas x {fused.gib_each} GiB fit; one per core is the fastest cut on CPUs"
        return Cut(_share_cpus((replace(fused, actors=actors, threads=1), *look), nodes), why)
    why = f"only {fits} fused replicas x {fused.gib_each} GiB fit in memory: recognition apart from torch"
    return Cut(_share_cpus((*pools, *look), nodes), why)


def on_cards(work: Work, nodes: Sequence[Node], stages: Sequence[str], rates: Rates) -> Cut:
    """One actor of each pool per card and several for pictures; what needs no card takes the CPUs left over."""
    carded = [node for node in nodes if node.cards]
    cards, each = sum(node.cards for node in carded), _cpus_per_card(carded)
    heard, looked = split(stages)
    pools = [*_pools(heard, rates), *([_group("look", looked, rates)] if looked else [])]
    beside = [group for group in pools if not group.device_gib_each]
    on_card = [replace(group, actors=cards) for group in pools if group.device_gib_each]
    free = free_share(nodes, [WEIGHTS[group.name] for group in on_card])
    # Decoding pictures keeps a core busy: several actors share what a card has for them.
    lookers = max(1, min(MOST_LOOKERS, int(each) // 3, _lookers_needed(pools, carded, rates)))
    lookers, on_card = _shared(on_card, carded, free, cards, lookers)
    part = CPUS_TAKEN / 2 if beside else CPUS_TAKEN
    taken = max(LEAST_CPUS, _down(part * each * cards / sum(group.actors for group in on_card)))
    on_card = [_with_cpus(group, taken) for group in on_card]
    beside = _beside(work, beside, on_card, nodes, rates) if beside else []
    # Those with a card first: Ray starts pools in this order, and the others fill what is left.
    ordered = sorted([*on_card, *beside], key=lambda group: (not _with_card(group.root, on_card), _at(group, stages)))
    return Cut(tuple(ordered), _why(on_card, beside, cards, lookers, free))


def free_share(nodes: Sequence[Node], shares: Sequence[float]) -> float:
    """The share that every card has free; `PlanError` with the sum when it is too small for a backfill."""
    free = min((node.free_share for node in nodes if node.cards), default=0.0)
    if free >= LEAST_FREE_SHARE:
        return free
    held, gpus = sum(node.gpus_held for node in nodes), sum(len(node.gpu_gib) for node in nodes)
    raise PlanError(
        f"{' + '.join(f'{share:g}' for share in shares)} = {sum(shares):.2f} of backfill beside the {held:g} of {gpus} "
        f"GPU(s) that the service or others hold: {free:g} of a card is free, and a backfill is not squeezed into less "
        f"than {LEAST_FREE_SHARE:g}: stop what holds the rest, or lower RUSHES_SERVE_GPU_SHARE"
    )


def _shared(
    groups: Sequence[Group], carded: Sequence[Node], free: float, cards: int, lookers: int
) -> tuple[int, list[Group]]:
    """The groups with their shares, and with as many actors for pictures per card, `lookers` at most, as fit."""
    for count in range(lookers, 0, -1):
        counted = [replace(group, actors=cards * count) if group.name == "look" else group for group in groups]
        shared = share_cards(counted, carded, free)
        with suppress(PlanError):
            check_cards(shared, carded)
            place(shared, carded)
            return count, shared
    return 1, shared


def share_cards(groups: Sequence[Group], carded: Sequence[Node], free: float) -> list[Group]:
    """Shares by weight, and never less than the part of a card that an actor's memory is.

    So whatever mix of actors Ray puts on a card, their memory fits. Recognition and torch get alike shares: Ray may
    put two of either on one card, and every card has the same left. Where the sum does not fit, the weights stand
    and the check says so.
    """
    cards = sum(node.cards for node in carded)
    gib_a_share = _gib_a_share(carded)
    counts = {group.name: group.actors / cards for group in groups}
    weights = {name: WEIGHTS[name] / sum(WEIGHTS[each] for each in counts) for name in counts}
    usual = {name: weights[name] * free / counts[name] for name in counts}
    needed = {group.name: group.device_gib_each for group in groups}
    most = max((gib for name, gib in needed.items() if name != "look"), default=0.0)
    least = {
        name: ((gib if name == "look" else most) / gib_a_share if gib_a_share > 0 else 0.0) + 1 / SHARE_UNITS
        for name, gib in needed.items()
    }
    shares = {name: max(usual[name], least[name]) for name in usual}
    if sum(shares[name] * counts[name] for name in shares) > free:
        rest = free - sum(least[name] * counts[name] for name in least)
        shares = {name: least[name] + rest * weights[name] / counts[name] for name in usual}
        if rest < 0:
            shares = usual
    return [replace(group, gpus_each=share_of(shares[group.name])) for group in groups]


def _gib_a_share(carded: Sequence[Node]) -> float:
    """The least memory that a whole share of a card stands for, on cards that others began too; 0: nobody knows."""
    found = []
    for node in carded:
        card_gib = min((gib for gib in node.gpu_gib if gib), default=0.0)
        if card_gib and node.free_share < 1:
            found.append((card_gib - node.held_gib) / node.free_share)
        if card_gib and (node.free_share == 1 or node.cards > 1):
            found.append(card_gib)
    return min(found, default=0.0)


def share_of(share: float) -> float:
    """The share in the units that Ray counts, rounded down, never to nothing."""
    return max(1, int(share * SHARE_UNITS + 1e-6)) / SHARE_UNITS


def spread_cpus(actors: int, nodes: Sequence[Node]) -> float:
    """The most CPUs that each of so many alike actors may take, a tenth of every node left over."""
    sizes = sorted({CPUS_TAKEN * node.cpus for node in nodes}, reverse=True)
    best = 0.0
    for size in sizes:
        for count in range(1, actors + 1):
            each = _down(size / count)
            if each <= max(best, 0.0):
                break
            if sum(int(CPUS_TAKEN * node.cpus / each + 1e-9) for node in nodes) >= actors:
                best = each
                break
    return max(LEAST_CPUS, best)


def _share_cpus(groups: Sequence[Group], nodes: Sequence[Node]) -> tuple[Group, ...]:
    each = spread_cpus(sum(group.actors for group in groups), nodes)
    return tuple(_with_cpus(group, each) for group in groups)


def _with_cpus(group: Group, each: float) -> Group:
    return replace(group, cpus_each=each, threads=group.threads or max(1, int(each)))


def _group(name: str, stages: Sequence[str], rates: Rates) -> Group:
    gib, on_card = process_gib(stages, rates), device_gib(stages, rates)
    return Group(name, tuple(stages), 1, 0.0, 0, gib_each=gib, device_gib_each=on_card)


def _pools(heard: Sequence[str], rates: Rates) -> tuple[Group, ...]:
    first = [name for name in heard if name in HEAR]
    second = [name for name in heard if name not in HEAR]
    return tuple(_group(name, found, rates) for name, found in (("hear", first), ("speak", second)) if found)


def _balanced(heard: Sequence[str], rooms_gib: Sequence[float], actors: int, rates: Rates) -> tuple[Group, ...]:
    """Two pools with as many actors as cores and memory hold, in the proportion of their work."""
    pools = [replace(group, threads=1) for group in _pools(heard, rates)]
    if len(pools) < 2 or actors < 2:
        return tuple(pools)
    first, second = pools
    part = actor_s(second.stages, rates, None) / max(actor_s(heard, rates, None), 1e-9)
    # Whole actors do not fill every node to the brim.
    room_gib = sum(max(0.0, room - second.gib_each / 2) for room in rooms_gib) if len(rooms_gib) > 1 else sum(rooms_gib)
    count = min(actors, int(room_gib / (first.gib_each * (1 - part) + second.gib_each * part)))
    speak = max(1, round(count * part))
    hear = max(1, min(count - speak, int((room_gib - speak * second.gib_each) // first.gib_each)))
    return replace(first, actors=hear), replace(second, actors=speak)


def _speed(groups: Sequence[Group], rates: Rates) -> float:
    return min(group.actors / max(actor_s(group.stages, rates, None), 1e-9) for group in groups)


def _look_on_cpus(
    work: Work, nodes: Sequence[Node], heard: Sequence[str], looked: Sequence[str], rates: Rates
) -> tuple[Group, ...]:
    """Actors for pictures: one per core that fits in memory; at most half of both beside those for sound."""
    if not looked:
        return ()
    look, parts = _group("look", looked, rates), 2 if heard else 1
    fits = sum(int((node.memory_gib - RESERVED_GIB) / parts // look.gib_each) for node in nodes)
    actors = max(1, min(sum(node.cpus for node in nodes) // parts, fits, work.assets or 1))
    return (replace(look, actors=actors, threads=1),)


def _lookers_needed(pools: Sequence[Group], carded: Sequence[Node], rates: Rates) -> int:
    """How many actors for pictures keep pace with the slower pool for sound; no bound without one."""
    needed = 1 if len(pools) > 1 else MOST_LOOKERS
    for kind in {node.kind for node in carded}:
        times = {group.name: actor_s(group.stages, rates, kind) for group in pools}
        look_s = times.pop("look", 0.0)
        needed = max([needed, *(math.ceil(look_s / time_s) for time_s in [max(times.values(), default=0.0)] if time_s)])
    return needed


def _cpus_per_card(carded: Sequence[Node]) -> float:
    """An actor takes its CPUs beside its card: those of other nodes are out of its reach."""
    return min((node.cpus / node.cards for node in carded), default=1.0)


def _beside(
    work: Work, groups: Sequence[Group], on_card: Sequence[Group], nodes: Sequence[Node], rates: Rates
) -> list[Group]:
    """Groups without a card on the CPUs that those with one leave, a core each, as many as their work asks for."""
    cards = sum(node.cards for node in nodes)
    cpus = sum(group.actors * group.cpus_each for group in on_card) / cards
    host_gib = sum(group.actors * group.gib_each for group in on_card) / cards
    largest_gib = max(group.gib_each for group in groups)
    rooms = [max(0.0, CPUS_TAKEN * node.cpus - cpus * node.cards) for node in nodes]
    fits = [max(0, int((node.memory_gib - RESERVED_GIB - host_gib * node.cards) // largest_gib)) for node in nodes]
    slots = sum(min(int(room / CPUS_TAKEN + 1e-9), fit) for room, fit in zip(rooms, fits, strict=True))
    each = CPUS_TAKEN
    if slots < len(groups):
        slots, each = len(groups), max(LEAST_CPUS, _down(max(rooms) / len(groups)))
    counts = dict.fromkeys((group.name for group in groups), 1)
    needs = {group.name: actor_s(group.stages, rates, None) for group in groups}
    for _ in range(slots - len(groups)):
        name = max(
            (name for name in counts if counts[name] < (work.assets or 1)),
            key=lambda n: needs[n] / counts[n],
            default=None,
        )
        if name is None:
            break
        counts[name] += 1
    return [replace(group, actors=counts[group.name], cpus_each=each, threads=1) for group in groups]


def _with_card(root: str, on_card: Sequence[Group]) -> bool:
    return any(group.root == root for group in on_card)


def _at(group: Group, stages: Sequence[str]) -> int:
    return list(stages).index(group.stages[0])


def _why(on_card: Sequence[Group], beside: Sequence[Group], cards: int, lookers: int, free: float) -> str:
    shares = {group.name: group.gpus_each for group in on_card}
    parts = [
        f"{shares[name]:g} by {word}" for name, word in (("hear", "recognition"), ("speak", "torch")) if name in shares
    ]
    if "look" in shares:
        parts.append(f"{lookers} x {shares['look']:g} by pictures")
    why = f"{cards} GPU(s), each shared {' + '.join(parts)}"
    if beside:
        why += f"; {' and '.join(group.name for group in beside)} on the CPUs"
    return why + (f", beside {1 - free:g} that the service or others hold" if free < 1 else "")


def _down(value: float) -> float:
    return math.floor(value * 1000 + 1e-9) / 1000


def is_texts_only(stages: Sequence[str]) -> bool:
    """Whether nothing but text vectors is to be made: an hour of media is a second or two of those."""
    return set(stages) == TEXTS
