"""What stages cost: estimates from the table of hardware until somebody measured them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.hardware import CPU, kinds, table

# What an interpreter takes with Arrow and a database connection, torch in it, and any process on a card.
PROCESS_GIB = 0.3
TORCH_GIB = 0.5
CONTEXT_GIB = 0.5
# A card that nobody knows counts as a middling one.
UNKNOWN_SPEED = 0.26
# What an hour of sound and an image take is alike in tenths of a second.
IMAGE_MEDIA_S = 3.0
_NO_TORCH = {"decode", "speech_activity", "transcribe", "segments", "thumbnails"}


@dataclass(frozen=True, slots=True)
class StageCost:
    """What a stage takes for an hour of media.

    `cpu_s` seconds of one core; with a card, `card_s` seconds of a whole one (by node type, "" for any other) and
    `feed_s` of a core. A stage without `card_s` runs on the CPU wherever it is. Memory in GiB, `measured` the node
    types for which the seconds are no estimate.
    """

    cpu_s: float = 1.0
    feed_s: float = 0.0
    card_s: Mapping[str, float] = field(default_factory=dict)
    host_gib: float = 0.0
    device_gib: float = 0.0
    load_s: float = 0.0
    measured: frozenset[str] = frozenset()
    torch: bool = False

    @property
    def on_card(self) -> bool:
        """Whether its model goes to a card where there is one."""
        return bool(self.card_s)

    def on(self, kind: str) -> float:
        """Seconds of a whole card of this type."""
        return self.card_s.get(kind, self.card_s.get("", 0.0))


Rates = Mapping[str, StageCost]
_UNKNOWN = StageCost()


def estimate(stage: str, weights: str | None = None, *, on_card: bool = True) -> StageCost:
    """The shipped estimate of a stage; `weights` names its model, `on_card` whether that may use one."""
    entries: Sequence[Mapping[str, Any]] = table()["stages"].get(stage, ())
    for entry in entries:
        if entry.get("match", "") in (weights or ""):
            numbers: dict[str, Any] = {name: float(value) for name, value in entry.items() if name != "match"}
            card_s = numbers.pop("card_s", 0.0) * on_card
            cards = {"": card_s / UNKNOWN_SPEED} | {
                kind.name: card_s / kind.speed for kind in kinds().values() if kind.speed
            }
            uses_torch = stage not in _NO_TORCH and (stage != "pictures" or weights is not None)
            return StageCost(**numbers, card_s=cards if card_s else {}, torch=uses_torch)
    return _UNKNOWN


def estimates(stages: Iterable[str]) -> dict[str, StageCost]:
    """The estimates of these stages with the bundled models."""
    return {name: estimate(name) for name in stages}


def with_measured(
    cost: StageCost, kind: str, s_per_media_hour: float, load_s: float, host_gib: float, device_gib: float
) -> StageCost:
    """The cost with what was measured on this node type; memory is the most of what is known.

    A few short files do not show what a long recording takes.
    """
    seconds = max(s_per_media_hour, 1e-6)
    changes: dict[str, Any] = {
        "measured": cost.measured | {kind},
        "load_s": max(load_s, cost.load_s) if cost.measured else load_s,
        "host_gib": max(host_gib, cost.host_gib),
    }
    if kind == CPU:
        return replace(cost, cpu_s=seconds, **changes)
    # One call after the other: what the card waited for is in it.
    card_s = {**cost.card_s, kind: max(seconds - cost.feed_s, seconds / 2)}
    return replace(cost, card_s=card_s, device_gib=max(device_gib, cost.device_gib), **changes)


def process_gib(stages: Sequence[str], rates: Rates) -> float:
    """The memory of a process that holds these stages."""
    costs = [rates[name] for name in stages]
    torch = TORCH_GIB if any(cost.torch for cost in costs) else 0.0
    return round(PROCESS_GIB + torch + sum(cost.host_gib for cost in costs), 3)


def device_gib(stages: Sequence[str], rates: Rates) -> float:
    """What a process that holds these stages takes of a card at its peak; 0 where none of them uses it."""
    costs = [rates[name] for name in stages if rates[name].on_card]
    return round(CONTEXT_GIB + sum(cost.device_gib for cost in costs), 3) if costs else 0.0


def actor_s(stages: Sequence[str], rates: Rates, kind: str | None) -> float:
    """Seconds of one actor for an hour of media, with a whole card of type `kind`, or on one core (None)."""
    return sum(
        rates[name].cpu_s if kind is None or not rates[name].on_card else rates[name].on(kind) + rates[name].feed_s
        for name in stages
    )


def core_s(stages: Sequence[str], rates: Rates, *, with_card: bool) -> float:
    """Seconds of a core for an hour of media."""
    return sum(
        rates[name].feed_s if with_card and rates[name].on_card else rates[name].cpu_s
        for name in stages
    )  # fmt: skip


def complete(rates: Rates | None, stages: Sequence[str]) -> dict[str, StageCost]:
    """A cost for every stage; those of the bundled models for the ones that `rates` does not know."""
    return {**estimates(stages), **{name: cost for name, cost in (rates or {}).items() if name in stages}}
