"""The plan: which stages share an actor, how many actors, which share of which GPU.

A pure function of the work, the nodes and the rates. Measured on CPUs: one fully fused replica per
core with one thread each beats every finer cut; two pools (speech recognition without torch | the
rest) save memory; below half an hour of media starting Ray costs more than it gains. On GPUs the
same two pools share each card, beside what the service holds of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cluster.errors import RushesError

HEAR = ("decode", "speech_activity", "transcribe")
TEXTS = {"texts"}
LOOK = ("pictures", "thumbnails", "images")
ALONE_BELOW_S = 1_800.0
# An hour of media is a second or two of text vectors.
TEXTS_ALONE_BELOW_S = 100 * 3_600.0
ALONE = ("inline", "worker")
# So many actors for pictures per card at the most.
MOST_LOOKERS = 4
RESERVED_GIB = 2.0
RESERVED_CONNECTIONS = 10
# Each actor has one connection; the driver works on one and holds the run with another.
DRIVER_CONNECTIONS = 2
LEAST_STORE_BYTES = 512 * 2**20
# 16 kHz mono int16
AUDIO_BYTES_PER_S = 32_000
# Beside more than this, the rest of a card is no place for every model of a backfill.
LEAST_FREE_SHARE = 0.25
# Ray counts GPUs in these.
SHARE_UNITS = 10_000


class PlanError(RushesError):
    """The plan does not fit; the message shows the arithmetic."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What one actor of a group needs and does.

    The CPU figures are measured with the bundled models on two cores; the GPU shares and the GPU
    rate are assumptions, and a prediction from them is one too.
    """

    fused_gib: float = 2.2
    hear_gib: float = 0.7
    speak_gib: float = 1.8
    fused_x_realtime: float = 13.0
    texts_x_realtime: float = 1_500.0
    hear_share_of_work: float = 0.8
    look_gib: float = 1.2
    look_x_realtime: float = 12.0
    # What an hour of sound and an image take is alike in tenths of a second.
    image_media_s: float = 3.0
    hear_gpu_share: float = 0.45
    speak_gpu_share: float = 0.45
    look_gpu_share: float = 0.1
    gpu_x_realtime: float = 60.0


@dataclass(frozen=True, slots=True)
class Node:
    """What one node offers; `gpus_held` of its cards, and `held_gib` on them, are taken by the service or others.

    `kind` is its node type (`h200`, `cpu`), empty where nobody knows; `name` is its host.
    """

    cpus: int
    memory_gib: float
    gpu_gib: tuple[float, ...] = ()
    gpus_held: float = 0.0
    held_gib: float = 0.0
    kind: str = ""
    name: str = ""

    @property
    def cards(self) -> int:
        """Cards with a share that is free; Ray fills a card before it begins the next."""
        return max(0, len(self.gpu_gib) - int(self.gpus_held + 1e-6))

    @property
    def free_share(self) -> float:
        """What is free of the card that others began, 1 where they began none."""
        return round(1.0 - max(0.0, self.gpus_held - int(self.gpus_held + 1e-6)), 4)


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done."""

    media_s: float
    assets: int
    images: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Stages that share one actor, and how many such actors there are; `labels` are those of the nodes they need."""

    name: str
    stages: tuple[str, ...]
    actors: int
    cpus_each: float
    threads: int
    gpus_each: float = 0.0
    gib_each: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def root(self) -> str:
        """The root lane whose chain the group belongs to."""
        return "frames" if self.stages[0] in LOOK else "speech"


@dataclass(frozen=True, slots=True)
class Plan:
    """The groups in order, the runner, and what is expected of them."""

    runner: str
    groups: tuple[Group, ...]
    why: str
    hours_per_hour: float
    bottleneck: str
    connections: int


def make_plan(
    work: Work,
    nodes: Sequence[Node],
    stages: Sequence[str],
    *,
    runner: str = "auto",
    rates: Rates | None = None,
    max_connections: int = 100,
) -> Plan:
    """Choose the grouping for `stages` (names in chain order); `PlanError` when it cannot fit."""
    rates = rates or Rates()
    media_s = work.media_s + work.images * rates.image_media_s
    if runner in ALONE or (runner == "auto" and media_s < _alone_below_s(stages)):
        plan = _alone(work, sum(node.cpus for node in nodes), stages, rates, runner)
    else:
        heard = tuple(name for name in stages if name not in LOOK)
        looked = tuple(name for name in stages if name in LOOK)
        on = _on_gpus if any(node.gpu_gib for node in nodes) else _on_cpus
        plan = on(work, nodes, heard, looked, rates)
    return check(plan, nodes, max_connections)


def _alone_below_s(stages: Sequence[str]) -> float:
    return TEXTS_ALONE_BELOW_S if set(stages) == TEXTS else ALONE_BELOW_S


def _fused_x_realtime(stages: Sequence[str], rates: Rates) -> float:
    return rates.texts_x_realtime if set(stages) == TEXTS else rates.fused_x_realtime


def _alone(work: Work, cpus: int, stages: Sequence[str], rates: Rates, runner: str) -> Plan:
    why = "asked for"
    if runner == "auto":
        runner = "worker"
        from_min = _alone_below_s(stages) / 60
        what = f"{work.media_s / 60:.1f} min of media" + (f" and {work.images} image(s)" if work.images else "")
        why = f"{what}: starting Ray pays off from {from_min:.0f} min"
    group = Group(runner, tuple(stages), 1, float(cpus), cpus, gib_each=rates.fused_gib)
    needed = sum(1 / rate for rate in _chain_rates(stages, rates))
    return Plan(runner, (group,), why, min(cpus, 1.25) / needed, runner, 1 + DRIVER_CONNECTIONS)


def _chain_rates(stages: Sequence[str], rates: Rates) -> list[float]:
    """Media hours per hour of one core, for the chain of each root lane that has stages."""
    heard = [name for name in stages if name not in LOOK]
    found = [_fused_x_realtime(heard, rates)] if heard else []
    return [*found, rates.look_x_realtime] if len(heard) < len(stages) else found


def _on_cpus(work: Work, nodes: Sequence[Node], heard: tuple[str, ...], looked: tuple[str, ...], rates: Rates) -> Plan:
    cpus = sum(node.cpus for node in nodes)
    look = _look_on_cpus(work, nodes, heard, looked, rates)
    taken_gib = sum(group.actors * group.gib_each for group in look) / len(nodes)
    speed = sum(group.actors for group in look) * rates.look_x_realtime
    if not heard:
        why = f"{look[0].actors} actors for pictures, one per core"
        return _on_ray(look, cpus, why, speed, LOOK[0])
    rooms_gib = [max(node.memory_gib - RESERVED_GIB - taken_gib, 0.0) for node in nodes]
    fits = sum(int(room // rates.fused_gib) for room in rooms_gib)
    actors = max(1, min(cpus, work.assets or 1))
    if fits >= actors or (fits >= 1 and set(heard).isdisjoint(HEAR)):
        actors = min(actors, fits)
        groups = (Group("fused", heard, actors, 0.0, 1, gib_each=rates.fused_gib), *look)
        why = f"{actors} fused replicas x {rates.fused_gib} GiB fit; one per core is the fastest cut on CPUs"
        heard_speed, limit = _fused_x_realtime(heard, rates) * actors, "texts" if set(heard) == TEXTS else "transcribe"
    else:
        hear = max(1, min(actors - 1, int((sum(rooms_gib) - rates.speak_gib) // rates.hear_gib)))
        groups = (*_two_pools(heard, hear, 1, rates, 0.0, 0.0), *look)
        why = f"only {fits} fused replicas x {rates.fused_gib} GiB fit in memory: recognition apart from torch"
        share = rates.hear_share_of_work
        heard_speed, limit = rates.fused_x_realtime * min(hear / share, 1 / (1 - share)), "transcribe"
    if look and speed < heard_speed:
        heard_speed, limit = speed, LOOK[0]
    return _on_ray(groups, cpus, why, heard_speed, limit)


def _look_on_cpus(
    work: Work, nodes: Sequence[Node], heard: Sequence[str], looked: tuple[str, ...], rates: Rates
) -> tuple[Group, ...]:
    """Actors for pictures: one per core that fits in memory; at most half of both beside those for sound."""
    parts = 2 if heard else 1
    fits = sum(int((node.memory_gib - RESERVED_GIB) / parts // rates.look_gib) for node in nodes)
    actors = max(1, min(sum(node.cpus for node in nodes) // parts, fits, work.assets or 1))
    return (Group("look", looked, actors, 0.0, 1, gib_each=rates.look_gib),) if looked else ()


def _on_gpus(work: Work, nodes: Sequence[Node], heard: tuple[str, ...], looked: tuple[str, ...], rates: Rates) -> Plan:
    cards = sum(node.cards for node in nodes)
    free = _free_share(nodes, rates)
    hear_share, speak_share = (_share(rate * free) for rate in (rates.hear_gpu_share, rates.speak_gpu_share))
    # An actor takes its CPUs beside its card: those of other nodes are out of its reach.
    each = min(node.cpus / node.cards for node in nodes if node.cards)
    # Decoding pictures keeps a core busy: several actors share what a card has for them.
    lookers = max(1, min(MOST_LOOKERS, int(each) // 3))
    look_share = _share(rates.look_gpu_share * free / lookers)
    look = Group("look", looked, cards * lookers, 0.0, 0, look_share, rates.look_gib)
    pools = _two_pools(heard, cards, cards, rates, hear_share, speak_share) if heard else ()
    why = f"{cards} GPU(s), each shared {hear_share} + {speak_share} by recognition and torch"
    if looked:
        why = f"{why} + {lookers} x {look_share} by pictures" if heard else f"{cards} GPU(s) for pictures"
    if free < 1:
        why += f", beside {1 - free:g} that the service or others hold"
    speeds = [(rates.gpu_x_realtime * cards, "transcribe")] if heard else []
    speeds += [(rates.look_x_realtime * look.actors, LOOK[0])] if looked else []
    return _on_ray((*pools, look) if looked else pools, int(cards * each), why, *min(speeds))


def _free_share(nodes: Sequence[Node], rates: Rates) -> float:
    """The share that every card has free; `PlanError` with the sum when it is too small for a backfill."""
    cards = sum(node.cards for node in nodes)
    free = min((node.free_share for node in nodes if node.cards), default=0.0)
    if cards and free >= LEAST_FREE_SHARE:
        return free
    shares = (rates.hear_gpu_share, rates.speak_gpu_share, rates.look_gpu_share)
    held, gpus = sum(node.gpus_held for node in nodes), sum(len(node.gpu_gib) for node in nodes)
    raise PlanError(
        f"{' + '.join(f'{share:g}' for share in shares)} = {sum(shares):.2f} of backfill beside the {held:g} of {gpus} "
        f"GPU(s) that the service or others hold: {free:g} of a card is free, and a backfill is not squeezed into less "
        f"than {LEAST_FREE_SHARE:g}: stop what holds the rest, or lower RUSHES_SERVE_GPU_SHARE"
    )


def _share(share: float) -> float:
    return max(1, int(share * SHARE_UNITS + 1e-6)) / SHARE_UNITS


def _two_pools(
    stages: Sequence[str], hear: int, speak: int, rates: Rates, hear_gpu: float, speak_gpu: float
) -> tuple[Group, ...]:
    first = tuple(name for name in stages if name in HEAR)
    second = tuple(name for name in stages if name not in HEAR)
    groups = [
        Group("hear", first, hear, 0.0, 0, hear_gpu, rates.hear_gib),
        Group("speak", second, speak, 0.0, 0, speak_gpu, rates.speak_gib),
    ]
    return tuple(group for group in groups if group.stages)


def _on_ray(groups: Sequence[Group], cpus: int, why: str, speed: float, limit: str) -> Plan:
    """The groups with equal parts of the CPUs; one that has no thread count yet gets as many as CPUs."""
    actors = sum(group.actors for group in groups)
    each = _cpus_each(cpus, actors)
    shared = tuple(replace(group, cpus_each=each, threads=group.threads or max(1, int(each))) for group in groups)
    return Plan("ray", shared, why, speed, limit, actors + DRIVER_CONNECTIONS)


def _cpus_each(cpus: int, actors: int) -> float:
    """A tenth of the CPUs stays free for Ray's own tasks; never rounds to 0."""
    return max(0.001, round(0.9 * cpus / max(actors, 1), 3))


def check(plan: Plan, nodes: Sequence[Node], max_connections: int) -> Plan:
    """The plan itself, or `PlanError` with the sum that does not fit."""
    gpus = sum(len(node.gpu_gib) for node in nodes)
    shares = sum(group.gpus_each * group.actors for group in plan.groups)
    held = sum(node.gpus_held for node in nodes)
    if shares + held > gpus + 1e-6 and shares:
        parts = " + ".join(f"{g.actors} x {g.gpus_each}" for g in plan.groups) + (f" + {held:g} held" if held else "")
        raise PlanError(
            f"GPU shares {parts} = {shares + held:.2f} exceed {gpus} GPU(s): lower the shares or the actors"
        )
    _check_cards(plan, nodes)
    largest = max((node.memory_gib for node in nodes), default=0.0)
    for group in plan.groups:
        if group.gib_each > largest:
            raise PlanError(f"group {group.name} needs {group.gib_each} GiB, the largest node has {largest:.1f} GiB")
    if plan.connections + RESERVED_CONNECTIONS > max_connections:
        raise PlanError(
            f"{plan.connections} connections + {RESERVED_CONNECTIONS} reserved exceed the server's max_connections "
            f"{max_connections}: raise it, or use fewer CPUs (RUSHES_CPUS)"
        )
    return plan


def _check_cards(plan: Plan, nodes: Sequence[Node]) -> None:
    """What the actors of one card take at their peak, beside what is held; a card of unknown size takes anything."""
    cards = sum(node.cards for node in nodes)
    on_card = [(group, group.actors / cards) for group in plan.groups if group.gpus_each and cards]
    for node in nodes:
        needed = sum(group.gib_each * count for group, count in on_card) + node.held_gib
        smallest = min((gib for gib in node.gpu_gib if gib), default=0.0)
        if on_card and smallest and needed > smallest:
            parts = " + ".join(f"{count:g} x {group.gib_each:g} {group.name}" for group, count in on_card)
            held = f" + {node.held_gib:g} held" if node.held_gib else ""
            way = "serve fewer models" if held else "use a smaller profile, or set RUSHES_<ROLE>_DEVICE=cpu"
            raise PlanError(f"{parts}{held} = {needed:.1f} GiB exceed a card of {smallest:g} GiB: {way}")


def object_store_bytes(plan: Plan, longest_s: float) -> int:
    """What Ray's object store must hold: rows without sound, and each sound that hops between pools.

    A producer may run one row ahead, so every first-pool actor counts twice with the longest audio.
    """
    hops = max(0, len([group for group in plan.groups if group.root == "speech"]) - 1)
    audio_bytes = int(longest_s * AUDIO_BYTES_PER_S)
    return LEAST_STORE_BYTES + hops * 2 * plan.groups[0].actors * audio_bytes


def explain(plan: Plan, work: Work) -> list[str]:
    """The plan in lines a person can check."""
    hours = work.media_s / 3600
    lines = [f"runner {plan.runner}: {plan.why}"]
    for group in plan.groups:
        gpu = f", {group.gpus_each} GPU each" if group.gpus_each else ""
        lines.append(
            f"  {group.name}: {group.actors} actor(s), {group.cpus_each} CPU and {group.threads} thread(s) each{gpu}, "
            f"{group.gib_each} GiB each: {' > '.join(group.stages)}"
        )
    lines.append(
        f"work: {work.assets} assets, {hours:.2f} h; predicted {plan.hours_per_hour:.0f} h/h after start-up; "
        f"bottleneck {plan.bottleneck}; {plan.connections} connections"
    )
    return lines
