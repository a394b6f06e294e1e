"""Weights brought to a node ahead of the work: fetched at their pinned revisions, every byte checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cluster.errors import RushesError
from cluster.settings import Settings
from cluster.weights import fetch, hub_name, on_hub
from cluster.weights_check import held, verify

DEADLINE_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Warmed:
    """One model's weights on a node: `whole`, `unlisted` (nothing to compare with), `damaged` or `absent`.

    Where nothing was done, `here` or `to fetch` instead of the first two.
    """

    node: str
    weights: str
    state: str
    size_bytes: int | None = None
    problem: str = ""

    @property
    def ready(self) -> bool:
        """Whether the node can work with it."""
        return self.state in ("whole", "unlisted", "here", "to fetch")


def warm_here(wanted: Sequence[str], node: str = "this node", *, dry_run: bool = False) -> list[Warmed]:
    """Fetch what is missing of these weights and check what is here; one that fails does not hold back the others."""
    return [_warm(weights, node, dry_run) for weights in wanted]


def warm_cluster(settings: Settings, wanted: Sequence[str], address: str, *, dry_run: bool) -> Iterator[list[Warmed]]:
    """The same on every live node of a cluster that takes work, node by node as they finish."""
    from jobs.cluster_tasks import live_nodes, on_each
    from jobs.ray_context import ray_session

    with ray_session(address=address, cpus=1, niceness=settings.worker_niceness, object_store_bytes=0):
        for node, answer in on_each(_task, (list(wanted), dry_run), live_nodes(), DEADLINE_S):
            if isinstance(answer, RushesError):
                yield [Warmed(node.name, "every model", "no answer", problem=str(answer))]
            else:
                yield [replace(Warmed(**row), node=node.name) for row in answer]


def _task(argument: tuple[list[str], bool]) -> list[dict[str, Any]]:
    wanted, dry_run = argument
    return [asdict(warmed) for warmed in warm_here(wanted, dry_run=dry_run)]


def _warm(weights: str, node: str, dry_run: bool) -> Warmed:
    before = held(weights)
    if dry_run:
        state = "here" if before.place else "to fetch" if on_hub(weights) else "absent"
        return Warmed(node, weights, state, before.size_bytes, before.problem if state == "absent" else "")
    try:
        if on_hub(weights):
            # also one that is here: an interrupted download may have left it incomplete
            fetch(hub_name(weights))
    except RushesError as error:
        if held(weights).place is None:
            return Warmed(node, weights, "absent", problem=str(error))
    verdict = verify(weights)
    bad = verdict.state in ("damaged", "absent")
    problem = f"{'; '.join(verdict.found)}: {verdict.fix}".rstrip(": ") if bad else ""
    return Warmed(node, weights, verdict.state, held(weights).size_bytes, problem)
