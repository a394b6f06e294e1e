"""Three runners, one chain: in this process, in a worker beside it, or on Ray Data. All give the same rows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from actors.inline import run_inline
from cluster.db.ledger import PendingRow
from cluster.deadline import deadline_s
from cluster.plan import Node, Plan
from cluster.settings import Settings
from cluster.types import rows_table
from jobs.spec import JobSpec, build_chain
from jobs.worker import Worker


def this_node(settings: Settings) -> Node:
    """The CPUs and memory this process may use."""
    cpus = settings.cpus or len(os.sched_getaffinity(0))
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Node(cpus, min(memory_bytes, _cgroup_limit_bytes()) / 2**30)


def _cgroup_limit_bytes() -> int:
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        return 2**62
    return int(text) if text.isdigit() else 2**62


def _as_dict(row: PendingRow) -> dict[str, Any]:
    return {
        "asset_id": row.asset_id,
        "sha256": row.sha256,
        "uri": row.uri,
        "byte_size": row.byte_size,
        "mtime_ns": row.mtime_ns,
        "audio_stream": row.audio_stream,
        "duration_ms": row.duration_ms,
        "lanes": list(row.lanes),
    }


def run_inline_rows(spec: JobSpec, plan: Plan, rows: Sequence[PendingRow]) -> Iterator[dict[str, Any]]:
    """Finished rows, one after the other, in this process."""
    os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")
    # A death here is the driver's own: nobody is left to be charged, so nothing stands guard.
    chain, _ = build_chain(spec, plan.groups[0].threads)
    for table in run_inline(chain, (rows_table([_as_dict(row)]) for row in rows)):
        yield from table.to_pylist()


def run_worker_rows(worker: Worker, rows: Sequence[PendingRow]) -> Iterator[dict[str, Any]]:
    """Finished rows, one after the other, from a process that may die; it stays for later rows."""
    for row in rows:
        yield worker.run(_as_dict(row))


def run_ray_rows(spec: JobSpec, plan: Plan, rows: Sequence[PendingRow], settings: Settings) -> Iterator[dict[str, Any]]:
    """Finished rows, as Ray Data brings them."""
    from jobs.dataset import build_dataset, stream
    from jobs.ray_context import set_data_context
    from jobs.ray_errors import check_room, ray_errors

    set_data_context(max((longest_row_s(settings, row.duration_ms) for row in rows), default=0.0))
    with ray_errors(plan.groups):
        check_room(plan.groups)
        for table in stream(build_dataset(spec, plan.groups, [_as_dict(row) for row in rows])):
            yield from table.to_pylist()


def longest_row_s(settings: Settings, duration_ms: int | None) -> float:
    """How long a row of this length may take: a healthy one spends less in all its stages than one stage may."""
    return deadline_s(settings.stage_base_s, settings.stage_s_per_hour, [duration_ms])
