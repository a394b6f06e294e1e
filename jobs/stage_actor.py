"""The process that holds models, as both runners with processes of their own see it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import pyarrow as pa

from cluster.faults import FaultPoint, reach
from cluster.stage import load_stages, run_stages
from jobs.commit import Commit
from jobs.metrics import StageMeter, ray_put
from jobs.node_check import require_weights
from jobs.spec import JobSpec, build_chain


def _slot() -> int | None:
    """The place in Ray's pool that this process fills, as its predecessors did; None outside Ray."""
    ray = sys.modules.get("ray")
    actor_id = ray.get_runtime_context().get_actor_id() if ray is not None and ray.is_initialized() else None
    # bigint; no asset has a negative id
    return None if actor_id is None else -int(actor_id[:15], 16)


def _node() -> str | None:
    """The cluster node this process runs on; None outside Ray."""
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().get_node_id() if ray is not None and ray.is_initialized() else None


def _gone(nodes: Sequence[str]) -> list[str]:
    """Those of the nodes that the cluster has lost."""
    alive = {node["NodeID"] for node in sys.modules["ray"].nodes() if node["Alive"]} if nodes else set()
    return [node for node in nodes if node not in alive]


class StageActor:
    """A group of consecutive stages in one process.

    `group` names the stages between claim and commit; the first group also claims, the last also
    commits. Thread counts are set here because Ray sets OMP_NUM_THREADS from fractional CPUs.
    """

    def __init__(self, spec_json: str, group: Sequence[str], threads: int, first: bool, last: bool) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        spec = JobSpec.from_json(spec_json)
        if not spec.downloads:
            require_weights(spec, group)
        chain, self.guard = build_chain(spec, threads)
        for part in (self.guard, *(stage for stage in chain if isinstance(stage, Commit))):
            part.node, part.gone = _node(), _gone
        names = {*group, *(["claim"] if first else []), *(["commit"] if last else [])}
        self.stages = [stage for stage in chain if stage.name in names]
        self.meter = StageMeter(self.stages, ray_put() if _slot() is not None else None)
        try:
            with self.guard.loading(_slot()):
                reach(FaultPoint.LOADING)
                self.meter.load(lambda: load_stages(self.stages))
        except SystemExit as error:
            # Ray keeps an actor that exits in its pool, dead, and waits for it for ever.
            raise RuntimeError(f"a stage left the process while it loaded: exit({error.code})") from error

    def __call__(self, table: pa.Table) -> pa.Table:
        """Every row comes out, with its id; failures are data on the row."""
        return self.meter.run(lambda: run_stages(self.stages, table, self.guard))

    def close(self) -> None:
        """Let go of models, child processes and connections."""
        for stage in self.stages:
            stage.close()
