"""The one class Ray Data sees: it runs a group of stages and keeps their models resident."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pyarrow as pa

from cluster.stage import load_stages, run_stages
from jobs.spec import JobSpec, build_chain


class StageActor:
    """A group of consecutive stages in one process.

    `group` names the stages between claim and commit; the first group also claims, the last also
    commits. Thread counts are set here because Ray sets OMP_NUM_THREADS from fractional CPUs.
    """

    def __init__(self, spec_json: str, group: Sequence[str], threads: int, first: bool, last: bool) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        chain = build_chain(JobSpec.from_json(spec_json), threads)
        names = {*group, *(["claim"] if first else []), *(["commit"] if last else [])}
        self.stages = [stage for stage in chain if stage.name in names]
        load_stages(self.stages)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Every row comes out, with its id; failures are data on the row."""
        return run_stages(self.stages, table)

    def close(self) -> None:
        """Let go of models, child processes and connections."""
        for stage in self.stages:
            stage.close()
