"""The nodes of a cluster, as the plan sees them; and those that an autoscaling one is asked for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

from cluster.errors import RushesError
from cluster.hardware import CPU, kind_of, kinds
from cluster.plan import Node, Plan, PlanError
from cluster.plan_types import ACCELERATOR_LABEL

ROOM_WAIT_S = 5.0
POLL_S = 0.5
# Clouds take minutes to start a node with a card, and its image has to come.
NODES_WAIT_S = 1_200.0
_ACCELERATOR = "accelerator_type:"


def in_room(
    plan: Callable[[list[Node]], Plan],
    nodes: list[Node],
    wait_s: float = ROOM_WAIT_S,
    without: Collection[str] = (),
) -> Plan:
    """The plan for these nodes; where it does not fit, for what they have free a little later.

    Actors take seconds to go. `without` are ids of nodes to leave out then. Raises the plan's own `PlanError` when
    nothing is freed.
    """
    import ray

    deadline = time.monotonic() + wait_s
    while True:
        try:
            return plan(nodes)
        except PlanError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(POLL_S)
        nodes = cluster_nodes(ray, without)


def cluster_nodes(ray: Any, without: Collection[str] = ()) -> list[Node]:
    """The live nodes that run work as the plan sees them, with what others hold of their cards; none of `without`.

    A card's memory follows from its type, which Ray tells; one of an unknown type has 0 GiB.
    """
    # Ray has no public name for what is free on each node.
    free = ray._private.state.available_resources_per_node()
    nodes = []
    for node in ray.nodes():
        if not runs_work(node) or node["NodeID"] in without:
            continue
        have = node["Resources"]
        cards, kind = int(have.get("GPU", 0)), node_kind(node)
        card_gib = kinds()[kind].card_gib if kind and cards else 0.0
        held = have.get("GPU", 0.0) - free.get(node["NodeID"], have).get("GPU", 0.0)
        nodes.append(
            Node(
                int(have["CPU"]),
                have.get("memory", 0) / 2**30,
                (card_gib,) * cards,
                round(held, 4),
                kind=kind,
                name=node.get("NodeManagerAddress", ""),
            )
        )
    return nodes


def runs_work(node: dict[str, Any]) -> bool:
    """Whether a line of Ray's node table is a live node with a core for work; a head may have none."""
    return node["Alive"] and node["Resources"].get("CPU", 0) >= 1


def node_kind(node: dict[str, Any]) -> str:
    """The node type of a line of Ray's node table; empty for a card that nobody knows."""
    have = node["Resources"]
    if not have.get("GPU"):
        return CPU
    told = [node.get("Labels", {}).get(ACCELERATOR_LABEL, "")]
    told += [name.removeprefix(_ACCELERATOR) for name in have if name.startswith(_ACCELERATOR)]
    return next(filter(None, map(kind_of, filter(None, told))), "")


def wait_for_nodes(
    wanted: Sequence[Node],
    wait_s: float = NODES_WAIT_S,
    tell: Callable[[str], None] = lambda line: None,
    poll_s: float = 5.0,
) -> list[Node]:
    """Ask an autoscaling cluster for these nodes, and wait until they are there; the nodes of the cluster then.

    Ray has to be joined. `tell` hears what came and what is waited for. Nodes that do not come in time are done
    without, unless none of a wanted type came: `RushesError` then, because the groups planned for it have no place.
    """
    import ray
    from ray.autoscaler.sdk import request_resources

    bundles, labels = bundles_of(wanted)
    request_resources(bundles=bundles, bundle_label_selectors=labels)
    deadline, said = time.monotonic() + wait_s, ""
    while True:
        nodes = cluster_nodes(ray)
        lacking = missing(wanted, nodes)
        line = described(wanted, nodes)
        if line != said:
            tell(line)
            said = line
        if not lacking or time.monotonic() >= deadline:
            break
        time.sleep(poll_s)
    there = Counter(node.kind for node in nodes)
    if none := [kind for kind in lacking if not there[kind]]:
        release_nodes()
        raise RushesError(
            f"no node of type {', '.join(none)} came within {wait_s:.0f} s ({line}): raise max_workers of the cluster, "
            "look at what the autoscaler says (`ray status`), or plan with other nodes"
        )
    return nodes


def release_nodes() -> None:
    """Let the autoscaler take idle nodes away again."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[])


def bundles_of(wanted: Sequence[Node]) -> tuple[list[dict[str, float]], list[dict[str, str]]]:
    """What Ray's autoscaler is asked for: a whole node each, with the type of its card in the label."""
    bundles, labels = [], []
    for node in wanted:
        cards = len(node.gpu_gib)
        # Nodes of a cloud may have fewer CPUs than the table says: any node with these cards will do.
        bundles.append({"GPU": float(cards)} if cards else {"CPU": float(node.cpus)})
        types = kinds()[node.kind].accelerator_types if node.kind in kinds() else ()
        labels.append({ACCELERATOR_LABEL: f"in({','.join(types)})"} if types else {})
    return bundles, labels


def missing(wanted: Sequence[Node], there: Sequence[Node]) -> dict[str, int]:
    """Node type -> how many of the wanted nodes are not there; more cards or CPUs in one node stand for several."""
    need, have = _amounts(wanted), _amounts(there)
    sizes = Counter(node.kind for node in wanted)
    return {
        kind: max(1, round(sizes[kind] * (1 - have.get(kind, 0) / amount)))
        for kind, amount in need.items()
        if have.get(kind, 0) < amount
    }


def _amounts(nodes: Sequence[Node]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for node in nodes:
        found[node.kind] += len(node.gpu_gib) or node.cpus
    return dict(found)


def described(wanted: Sequence[Node], there: Sequence[Node]) -> str:
    """`nodes: 2 of 4 h200, 1 of 2 cpu`."""
    have, need = Counter(node.kind for node in there), Counter(node.kind for node in wanted)
    return f"nodes: {', '.join(f'{have[kind]} of {count} {kind}' for kind, count in need.items())}"
