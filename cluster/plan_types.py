"""What a plan is made of: nodes, work, groups, and what may be said of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.errors import RushesError

HEAR = ("decode", "speech_activity", "transcribe")
TEXTS = {"texts"}
LOOK = ("pictures", "thumbnails", "images")
ALONE = ("inline", "worker")
RESERVED_GIB = 2.0
RESERVED_CONNECTIONS = 10
# Each actor has one connection; the driver works on one and holds the run with another.
DRIVER_CONNECTIONS = 2
# Ray counts GPUs in these.
SHARE_UNITS = 10_000
# A tenth of the CPUs stays free for Ray's own tasks.
CPUS_TAKEN = 0.9
# Ray sets it on each node that has a card.
ACCELERATOR_LABEL = "ray.io/accelerator-type"
EPSILON = 1e-6


class PlanError(RushesError):
    """The plan does not fit; the message shows the arithmetic."""


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
        return max(0, len(self.gpu_gib) - int(self.gpus_held + EPSILON))

    @property
    def free_share(self) -> float:
        """What is free of the card that others began, 1 where they began none."""
        return round(1.0 - max(0.0, self.gpus_held - int(self.gpus_held + EPSILON)), 4)

    @property
    def rooms(self) -> list[float]:
        """The free share of each card that has one."""
        return [self.free_share, *([1.0] * (self.cards - 1))] if self.cards else []


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done."""

    media_s: float
    assets: int
    images: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Stages that share one actor, and how many such actors there are.

    `gib_each` is the memory of one actor's process, `device_gib_each` what it takes on a card. `kinds` are the node
    types it runs on, empty for all; `labels` say so to Ray.
    """

    name: str
    stages: tuple[str, ...]
    actors: int
    cpus_each: float
    threads: int
    gpus_each: float = 0.0
    gib_each: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    device_gib_each: float = 0.0
    kinds: tuple[str, ...] = ()

    @property
    def root(self) -> str:
        """The root lane whose chain the group belongs to."""
        return "frames" if self.stages[0] in LOOK else "speech"

    def may_use(self, node: Node) -> bool:
        """Whether its labels let it run there."""
        return not self.kinds or node.kind in self.kinds


@dataclass(frozen=True, slots=True)
class NodeType:
    """What a plan makes of the nodes of one type.

    `actors` go by group, on all of these nodes together. `peak_gib` is the most that one of their cards may hold,
    `card_gib` its size, 0 where nobody knows it.
    """

    kind: str
    nodes: int
    cards: int
    card_gib: float
    peak_gib: float
    cpus: int
    actors: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Plan:
    """The groups in order, the runner, and what is expected of them.

    `bounds` are media hours per hour: what the actors of each group, the cards and the cores allow; the least is the
    rate. `stage_s` are the seconds of each stage per media hour, `measured` the stages for which they are
    no estimate, `load_s` those before work begins. `cores_busy` of `cores` feed that rate.
    """

    runner: str
    groups: tuple[Group, ...]
    why: str
    hours_per_hour: float
    bottleneck: str
    connections: int
    bounds: Mapping[str, float] = field(default_factory=dict)
    measured: tuple[str, ...] = ()
    stage_s: Mapping[str, float] = field(default_factory=dict)
    load_s: float = 0.0
    cores_busy: float = 0.0
    cores: int = 0
    node_types: tuple[NodeType, ...] = ()
    max_connections: int | None = None

    @property
    def estimated(self) -> tuple[str, ...]:
        """The stages whose rate is an estimate, in order."""
        return tuple(name for group in self.groups for name in group.stages if name not in self.measured)
