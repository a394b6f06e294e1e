"""What the stages of these settings cost on these nodes: measured by `rushes calibrate`, else estimated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from actors.device import cpu_name
from actors.lanes import whole_chain
from cluster.db.rates import Measured
from cluster.hardware import CPU, kind_of, local_card
from cluster.lanes import LANES, digest
from cluster.plan import Node, Plan, Work, make_plan
from cluster.plan_rates import StageCost, estimate, with_measured
from cluster.profiles import ModelChoice
from cluster.settings import Settings
from jobs.spec import chain_names

# Stage -> the role whose model it holds; an optional one may be off.
ROLE_OF_STAGE: Mapping[str, str] = {
    "transcribe": "transcriber",
    "diarize": "diarizer",
    "voices": "voice",
    "texts": "text",
    "pictures": "shots",
    "images": "image",
}


def choice_of(settings: Settings, stage: str) -> ModelChoice | None:
    """The model that a stage holds; None for one without."""
    role = ROLE_OF_STAGE.get(stage)
    return None if role is None else settings.optional_choice(role)


def stage_identities(settings: Settings) -> dict[str, str]:
    """Stage -> hash of everything that decides how long it takes on one and the same hardware."""
    return {stage.name: _identity(stage, choice_of(settings, stage.name)) for stage in whole_chain(settings)}


def _identity(stage: Any, choice: ModelChoice | None) -> str:
    run = [] if choice is None else [choice.precision, choice.batch_size, choice.beam_size, choice.max_tokens]
    return digest([stage.name, stage.version, stage.identity(), run])


def estimates_for(settings: Settings, stages: Iterable[str]) -> dict[str, StageCost]:
    """The shipped estimates for the models of these settings."""
    found = {}
    for name in stages:
        choice = choice_of(settings, name)
        wants_card = choice is not None and choice.device != "cpu"
        found[name] = estimate(name, choice.weights if choice else None, on_card=wants_card)
    return found


def costs_for(
    settings: Settings, stages: Sequence[str], stored: Sequence[Measured], here: bool = True
) -> dict[str, StageCost]:
    """The cost of each stage; what was measured on such a card counts, and for `here` what this processor did.

    The processors of other nodes are not known: the slowest that was measured stands for them.
    """
    costs = estimates_for(settings, stages)
    for name, one in _on_cpus(stored, cpu_name() if here else None).items():
        if name in costs:
            costs[name] = _with(costs[name], CPU, one)
    for one in stored:
        if one.device_gib and one.stage in costs and costs[one.stage].on_card:
            costs[one.stage] = _with(costs[one.stage], kind_of(one.hardware), one)
    return costs


def plan_by_costs(
    settings: Settings,
    work: Work,
    nodes: Sequence[Node],
    lanes: Sequence[str],
    stored: Sequence[Measured],
    max_connections: int | None,
    here: bool,
) -> Plan:
    """The plan of this work in these lanes, for the costs that are known; `here` is this machine, else a cluster."""
    stages = chain_names(settings, lanes)
    return make_plan(
        work,
        nodes,
        stages,
        runner=settings.runner if here else "ray",
        rates=costs_for(settings, stages, stored, here),
        max_connections=max_connections,
        wishes=settings.plan.groups,
        chain=chain_names(settings, LANES),
    )


def _on_cpus(stored: Sequence[Measured], processor: str | None) -> dict[str, Measured]:
    found: dict[str, Measured] = {}
    for one in stored:
        if one.device_gib or (processor is not None and one.hardware != processor):
            continue
        if one.stage not in found or one.s_per_media_hour > found[one.stage].s_per_media_hour:
            found[one.stage] = one
    return found


def _with(cost: StageCost, kind: str, one: Measured) -> StageCost:
    return with_measured(cost, kind, one.s_per_media_hour, one.load_s, one.host_gib, one.device_gib)


def machine_of(nodes: Sequence[Node], here: bool) -> str:
    """The kind of machine, in a word that tells whether what a run took says anything of another one."""
    if here:
        return " + ".join(filter(None, [cpu_name(), (local_card() or "a card") if nodes and nodes[0].gpu_gib else ""]))
    return " + ".join(sorted({node.kind or ("cards" if node.gpu_gib else CPU) for node in nodes}))
