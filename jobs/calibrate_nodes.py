"""`rushes calibrate --address`: one node of each type measures its own stages, in a Ray task that has it for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cluster.db.rates import Measured
from cluster.errors import RushesError, last_line
from cluster.settings import Settings, settings_to_dict
from jobs.calibrate import bundled_files, calibrate, merged
from jobs.nodes import node_kind, runs_work
from jobs.ray_context import ray_session

WAIT_S = 900.0


def calibrate_nodes(settings: Settings, address: str, files: Sequence[str], wait_s: float = WAIT_S) -> list[Measured]:
    """What one node of each type measures; files, if given, have to lie on every node under the same name.

    Raises `RushesError` when a node has no card or core free within `wait_s`, or its measurement fails.
    """
    with ray_session(address=address, cpus=1, niceness=0, object_store_bytes=0):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        tasks: dict[Any, str] = {}
        for kind, node in _one_of_each(ray.nodes()).items():
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            measure: Any = ray.remote(measure_here).options(
                num_cpus=1,
                num_gpus=1 if node["Resources"].get("GPU") else 0,
                scheduling_strategy=there,
                max_retries=0,
            )
            tasks[measure.remote(settings_to_dict(settings), list(files))] = kind or "an unknown card"
        done, late = ray.wait(list(tasks), num_returns=len(tasks), timeout=wait_s)
        for task in late:
            ray.cancel(task)
        if late:
            raise RushesError(
                f"{', '.join(tasks[task] for task in late)}: not measured within {wait_s:.0f} s; a node needs a core "
                "and a whole card free: stop what holds them"
            )
        try:
            return merged([Measured(**one) for found in ray.get(done) for one in found])
        except ray.exceptions.RayError as error:
            raise RushesError(f"a node could not measure: {last_line(error)}") from error


def measure_here(settings: dict[str, Any], files: list[str]) -> list[dict[str, Any]]:
    """On the node: its measurements as plain values."""
    return [asdict(one) for one in calibrate(Settings.model_validate(settings), files or bundled_files())]


def _one_of_each(nodes: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Node type -> its first node that runs work."""
    found: dict[str, dict[str, Any]] = {}
    for node in nodes:
        if runs_work(node):
            found.setdefault(node_kind(node), node)
    return found
