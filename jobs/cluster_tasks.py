"""One task on every node of a cluster, beside whatever runs there: who answers, and who does not."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import RushesError, last_line


@dataclass(frozen=True, slots=True)
class LiveNode:
    """A node that answers to Ray: its id, what people call it, what it offers."""

    id: str
    name: str
    cpus: float
    gpus: float
    labels: dict[str, str]


def live_nodes() -> list[LiveNode]:
    """The live nodes that take work (a head without CPUs does not), with names that differ."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    hosts = Counter(node["NodeManagerHostname"] for node in alive)
    return [
        LiveNode(node["NodeID"], _name(node, hosts), have.get("CPU", 0.0), have.get("GPU", 0.0), node["Labels"])
        for node in alive
        if (have := node["Resources"]).get("CPU") or have.get("GPU")
    ]


def is_alive(node: LiveNode) -> bool:
    """Whether the node still answers to Ray."""
    import ray

    return any(one["NodeID"] == node.id and one["Alive"] for one in ray.nodes())


def on_each(
    task: Callable[..., Any], argument: Any, nodes: Sequence[LiveNode], deadline_s: float
) -> Iterator[tuple[LiveNode, Any]]:
    """What `task(argument)` answers on each node, as it comes; a `RushesError` for one that fails or stays silent.

    `deadline_s` is that of all together. The task takes no CPU, so that it runs beside actors that fill the node.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(num_cpus=0, max_retries=0)(task)
    waiting = {
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(argument): node
        for node in nodes
    }
    ends = time.monotonic() + deadline_s
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=max(0.0, ends - time.monotonic()))
        if not ready:
            for ref, node in waiting.items():
                ray.cancel(ref, force=True)
                yield (
                    node,
                    RushesError(f"no answer in {deadline_s:.0f} s: look at the node, or take it out of the cluster"),
                )
            return
        node = waiting.pop(ready[0])
        yield node, _answer(ready[0])


def _answer(ref: Any) -> Any:
    import ray

    try:
        return ray.get(ref)
    except Exception as error:  # noqa: BLE001 - whatever ends a task on a node is told of that node
        cause = getattr(error, "cause", None)
        return cause if isinstance(cause, RushesError) else RushesError(last_line(error))


def _name(node: dict[str, Any], hosts: Counter[str]) -> str:
    host = node["NodeManagerHostname"]
    return host if hosts[host] == 1 else f"{host}/{node['NodeID'][:8]}"
