"""Lanes to ray.data: rows stream through pools of resident actors, one row per asset and root lane."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import pyarrow as pa

from cluster.plan import Group, blocks_at_hand
from cluster.types import rows_table
from jobs.spec import JobSpec
from jobs.stage_actor import StageActor


def build_dataset(spec: JobSpec, groups: Sequence[Group], blocks: Sequence[Sequence[dict[str, Any]]]) -> Any:
    """One chain of groups for each root lane, side by side in one execution: pictures do not wait behind long films.

    Blocks of rows stay as they are; each group is one pool of actors that starts at full size and stays.
    """
    chains = []
    for root in dict.fromkeys(group.root for group in groups):
        mine = [block for block in blocks if block[0]["root"] == root]
        if mine:
            chains.append(_chain(spec, [group for group in groups if group.root == root], mine))
    return reduce(lambda one, other: one.union(other), chains)


def _chain(spec: JobSpec, groups: Sequence[Group], blocks: Sequence[Sequence[dict[str, Any]]]) -> Any:
    import ray

    dataset = ray.data.from_arrow([rows_table(block) for block in blocks])
    lengths_s = [sum(row["duration_ms"] or 0 for row in block) / 1000 for block in blocks]
    at_hand = blocks_at_hand(lengths_s, max(group.actors for group in groups))
    single = all(len(block) == 1 for block in blocks)
    for number, group in enumerate(groups):
        dataset = dataset.map_batches(
            StageActor,
            fn_constructor_kwargs={
                "spec_json": spec.to_json(),
                "group": list(group.stages),
                "threads": group.threads,
                "first": number == 0,
                "last": number == len(groups) - 1,
            },
            batch_size=1 if single else None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=group.cpus_each,
            num_gpus=group.gpus_each or None,
            label_selector=dict(group.labels) or None,
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                initial_size=group.actors,
                max_size=group.actors,
                max_tasks_in_flight_per_actor=at_hand,
            ),
        )
    return dataset


def stream(dataset: Any) -> Iterator[pa.Table]:
    """Finished rows, as they come."""
    yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
