"""What Ray reports about a run, in words that say what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from cluster.errors import RushesError, first_line, last_line
from cluster.hardware import selects
from cluster.plan import Group

ROOM_WAIT_S = 20.0
POLL_S = 0.5


@contextmanager
def ray_errors(groups: Sequence[Group]) -> Iterator[None]:
    """Ray's own failures as `RushesError`: a pool that cannot start, a stall, a lost cluster."""
    import ray.exceptions
    from ray.data.exceptions import ExecutionTimeoutError

    try:
        yield
    except ray.exceptions.GetTimeoutError as error:
        raise RushesError(f"{_pools(groups)} were not ready in time: {last_line(error)}") from error
    except ExecutionTimeoutError as error:
        raise RushesError(
            f"nothing moved on Ray for longer than the longest recording may take: {first_line(error)}; "
            "what was committed is safe, run the same command again"
        ) from error
    except ray.exceptions.RayError as error:
        raise RushesError(_explain(error)) from error


def _explain(error: Exception) -> str:
    reason = last_line(error)
    if "__init__" in str(error):
        return f"the models do not load in a Ray actor: {reason}"
    return f"Ray gave up: {reason}; what was committed is safe, run the same command again"


def check_room(groups: Sequence[Group], wait_s: float = ROOM_WAIT_S) -> None:
    """Refuse when the plan's actors do not fit beside what the cluster already runs.

    Ray itself waits for such a share without a word. Raises `RushesError` with the arithmetic.
    """
    import ray

    live = [node for node in ray.nodes() if node["Alive"]]
    labels = {node["NodeID"]: node["Labels"] for node in live}
    _check_nodes(groups, [node["Resources"] for node in live])
    deadline = time.monotonic() + wait_s
    while True:
        missing = missing_room(groups, ray.available_resources())
        # Ray has no public name for what is free on each node.
        free = ray._private.state.available_resources_per_node()
        homeless = without_node(groups, list(free.values()), [labels.get(name, {}) for name in free])
        if not missing and not homeless:
            return
        if time.monotonic() >= deadline:
            if not missing:
                raise RushesError(_homeless(homeless, list(free.values())))
            total = ray.cluster_resources()
            parts = "; ".join(
                f"{name}: {need:g} needed, {free:g} free of {total.get(name, 0):g}" for name, need, free in missing
            )
            raise RushesError(
                f"{_pools(groups)} find no room after {wait_s:.0f} s ({parts}): "
                "stop what holds the rest, or run with fewer CPUs (RUSHES_CPUS)"
            )
        time.sleep(POLL_S)


def _check_nodes(groups: Sequence[Group], nodes: Sequence[Mapping[str, float]]) -> None:
    """An actor has to fit on one node, whatever the others offer."""
    for group in groups:
        if not any(
            group.cpus_each <= node.get("CPU", 0.0) and group.gpus_each <= node.get("GPU", 0.0) for node in nodes
        ):
            parts = ", ".join(f"{node.get('CPU', 0.0):g} CPU and {node.get('GPU', 0.0):g} GPU" for node in nodes)
            raise RushesError(
                f"one {group.name} actor of {group.cpus_each:g} CPU, {group.gpus_each:g} GPU fits on no node ({parts})"
            )


def missing_room(groups: Sequence[Group], free: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """(resource, needed, free) of what the actors of all groups lack together."""
    needs = {"CPU": sum(g.actors * g.cpus_each for g in groups), "GPU": sum(g.actors * g.gpus_each for g in groups)}
    return [
        (name, round(need, 3), round(free.get(name, 0.0), 3))
        for name, need in needs.items()
        if need > free.get(name, 0.0) + 1e-6
    ]


def without_node(
    groups: Sequence[Group], free: Sequence[Mapping[str, float]], labels: Sequence[Mapping[str, str]]
) -> list[tuple[Group, int]]:
    """How many actors of each group find no node, the largest ones placed first: an actor is never split.

    `labels` are those of the nodes whose resources are `free`.
    """
    left = [[node.get("CPU", 0.0) + 1e-6, node.get("GPU", 0.0) + 1e-6] for node in free]
    lacking = []
    for group in sorted(groups, key=lambda one: (-one.gpus_each, -one.cpus_each)):
        meant = [room for room, here in zip(left, labels, strict=True) if selects(group.labels, here)]
        for placed in range(group.actors):
            node = next((one for one in meant if group.cpus_each <= one[0] and group.gpus_each <= one[1]), None)
            if node is None:
                lacking.append((group, group.actors - placed))
                break
            node[0], node[1] = node[0] - group.cpus_each, node[1] - group.gpus_each
    return lacking


def _homeless(lacking: Sequence[tuple[Group, int]], free: Sequence[Mapping[str, float]]) -> str:
    wanted = ", ".join(
        f"{count} of {group.actors} {group.name} actor(s) of {group.cpus_each:g} CPU, {group.gpus_each:g} GPU"
        for group, count in lacking
    )
    there = ", ".join(f"{node.get('CPU', 0.0):g} CPU and {node.get('GPU', 0.0):g} GPU" for node in free)
    return f"{wanted} fit on no node beside the others (free: {there}): lower the actors, their CPUs or their shares"


def _pools(groups: Sequence[Group]) -> str:
    return " and ".join(f"{g.actors} {g.name} actor(s) of {g.cpus_each:g} CPU, {g.gpus_each:g} GPU" for g in groups)
