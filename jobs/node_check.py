"""Before a run on a cluster takes work: every node that the plan uses says whether it can do it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain

from cluster import node_check
from cluster.doctor import Check, Finding, Found, failed
from cluster.errors import RushesError
from cluster.hardware import selects
from cluster.node_check import Ask
from cluster.plan import Group
from cluster.profiles import ALL_ROLES
from cluster.settings import Settings
from jobs.cluster_tasks import LiveNode, is_alive, live_nodes, on_each
from jobs.spec import CHAIN, JobSpec
from jobs.stage_costs import ROLE_OF_STAGE

# A worker process starts on each node, and the database may take its time.
DEADLINE_S = 120.0
logger = logging.getLogger(__name__)


class NotReadyError(RushesError):
    """A node that the plan uses cannot do its part."""


def require_ready(spec: JobSpec, groups: Sequence[Group], uris: Iterable[str]) -> None:
    """Raise `NotReadyError` that names every node that is not ready, and the way out; warnings are logged."""
    found = _troubles_by_node(spec, groups, uris)
    if any(found.values()):
        raise _not_ready(found, "not every node is ready, nothing was started")


def no_longer_ready(spec: JobSpec, groups: Sequence[Group], uris: Iterable[str]) -> list[str]:
    """The ids of the nodes that cannot do their part any more, such as one whose disk is full by now.

    Raises `NotReadyError` when no other is left.
    """
    found = _troubles_by_node(spec, groups, uris)
    bad = {node_id: troubles for node_id, troubles in found.items() if troubles}
    if bad and len(bad) == len(found):
        raise _not_ready(found, "no node is ready any more, what was committed is safe")
    for trouble in chain.from_iterable(bad.values()):
        logger.warning("%s; the others go on without it", trouble)
    return list(bad)


def _not_ready(found: Mapping[str, list[str]], said: str) -> NotReadyError:
    lines = "\n  ".join(chain.from_iterable(found.values()))
    return NotReadyError(f"{said}:\n  {lines}\nmend them, or drain them from the cluster")


def _troubles_by_node(spec: JobSpec, groups: Sequence[Group], uris: Iterable[str]) -> dict[str, list[str]]:
    from cluster.media.store import is_remote

    ask = Ask(
        settings=spec.settings,
        url=spec.url,
        weights=weights_of(spec, [stage for group in groups for stage in group.stages]),
        versions=node_check.versions_here(),
        code=node_check.code_here(),
        caches=any(is_remote(uri) for uri in uris),
    )
    troubles = {}
    for cards, nodes in _used(groups, live_nodes()).items():
        # Stages that replay a recording ask nothing of a card.
        for node, answer in on_each(_look, (ask, cards and spec.chain == CHAIN), nodes, DEADLINE_S):
            if isinstance(answer, RushesError) and not is_alive(node):
                logger.warning("%s left the cluster while it was asked", node.name)
                continue
            troubles[node.id] = _troubles(node, answer)
    return troubles


def look(ask: Ask, cards: bool) -> list[Finding]:
    """The findings of the node that this runs on; with `cards` CUDA's libraries too."""
    settings = Settings.model_validate(dict(ask.settings))
    return node_check.check_here(ask, [Check("cuda libraries", partial(_cuda, settings))] if cards else [])


def _look(argument: tuple[Ask, bool]) -> list[Finding]:
    return look(*argument)


def weights_of(spec: JobSpec, stages: Iterable[str]) -> dict[str, str]:
    """Role -> weights of the stages; none for a chain that is not the models' own."""
    if spec.chain != CHAIN:
        return {}
    settings, wanted = Settings.model_validate(spec.settings), {ROLE_OF_STAGE.get(name) for name in stages}
    found = {role: settings.optional_choice(role) for role in ALL_ROLES if role in wanted}
    return {role: choice.weights for role, choice in found.items() if choice is not None}


def require_weights(spec: JobSpec, stages: Iterable[str]) -> None:
    """Raise `NotReadyError` in an actor whose node lacks the weights of its stages: one that joined later."""
    found = node_check.weights(weights_of(spec, stages))
    if found.state == "FAIL":
        raise NotReadyError(f"this node is not ready: {found.text}: {found.fix}")


def _used(groups: Sequence[Group], nodes: Sequence[LiveNode]) -> Mapping[bool, list[LiveNode]]:
    """The nodes on which any group finds place, apart by whether one of those groups needs a card."""
    found: dict[bool, list[LiveNode]] = {}
    for node in nodes:
        here = [group for group in groups if _fits(group, node)]
        if here:
            found.setdefault(any(group.gpus_each for group in here), []).append(node)
    return found


def _fits(group: Group, node: LiveNode) -> bool:
    here = selects(group.labels, node.labels)
    return here and group.cpus_each <= node.cpus and group.gpus_each <= node.gpus


def _troubles(node: LiveNode, answer: list[Finding] | RushesError) -> list[str]:
    if isinstance(answer, RushesError):
        return [f"{node.name}: {answer}"]
    for finding in answer:
        if finding.state == "warn":
            logger.warning("%s: %s: %s; %s", node.name, finding.name, finding.found, finding.fix)
    bad = [finding for finding in answer if failed([finding])]
    return [f"{node.name}: {finding.name}: {finding.found}; {finding.fix}" for finding in bad]


def _cuda(settings: Settings) -> Found:
    """Whether the driver's library and the one ctranslate2 needs beside torch load; no model, no torch."""
    import ctypes

    from actors.transcribe import preload_cublas

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        # With `auto` the models run where they can: logical GPUs try a layout out on machines without cards.
        wanted = [role for role in ALL_ROLES if _device(settings, role) == "cuda"]
        said = f"{', '.join(wanted)} cannot run" if wanted else "models run on its CPU"
        return Found(
            "FAIL" if wanted else "warn",
            f"there is no CUDA driver (libcuda.so.1): {said}",
            "install it, or offer Ray no GPU on this node",
        )
    if settings.model_choice("transcriber").device != "cpu":
        preload_cublas()
    return Found("ok", "CUDA's libraries load")


def _device(settings: Settings, role: str) -> str | None:
    choice = settings.optional_choice(role)
    return choice.device if choice is not None else None
