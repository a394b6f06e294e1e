"""Three runners, one chain: in this process, in a worker beside it, or on Ray Data. All give the same rows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from actors.inline import run_inline
from cluster.db.ledger import PendingRow
from cluster.deadline import deadline_s
from cluster.hardware import CPU, kind_of, kinds, local_card
from cluster.lanes import MEDIA_LANES
from cluster.plan import Node, Plan
from cluster.profiles import ALL_ROLES
from cluster.settings import Settings
from cluster.types import rows_table
from jobs.spec import JobSpec, build_chain
from jobs.worker import Worker

DEVICES = Path("/dev")
BLOCK_ROWS = 32
BLOCK_S = 4 * 3600.0


def this_node(settings: Settings) -> Node:
    """The CPUs, memory and cards this process may use; a card that nobody knows has 0 GiB."""
    cpus = settings.cpus or len(os.sched_getaffinity(0))
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cards, kind = _cards(settings), kind_of(local_card())
    gpu_gib = (kinds()[kind].card_gib if kind else 0.0,) * cards
    memory_gib = min(memory_bytes, _cgroup_limit_bytes()) / 2**30
    return Node(cpus, memory_gib, gpu_gib, kind=kind if cards else CPU, name=os.uname().nodename)


def _cards(settings: Settings) -> int:
    """How many GPUs the models may use here; torch would know, but takes seconds to import."""
    choices = [settings.optional_choice(role) for role in ALL_ROLES if role != "reranker"]
    if all(choice is None or choice.device == "cpu" for choice in choices):
        return 0
    there = len([path for path in DEVICES.glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return there
    return min(there, len([name for name in visible.split(",") if name.strip() not in ("", "-1")]))


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
        "media_kind": row.media_kind,
        "audio_stream": row.audio_stream,
        "duration_ms": row.duration_ms,
        "root": row.root,
        "lanes": list(row.lanes),
    }


def run_inline_rows(spec: JobSpec, plan: Plan, rows: Sequence[PendingRow]) -> Iterator[dict[str, Any]]:
    """Finished rows, one after the other, in this process."""
    os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")
    # A death here is the driver's own: nobody is left to be charged, so nothing stands guard.
    chain, _ = build_chain(spec, plan.groups[0].threads)
    for table in run_inline(chain, (rows_table(block) for block in blocks_of(rows))):
        yield from table.to_pylist()


def run_worker_rows(worker: Worker, rows: Sequence[PendingRow]) -> Iterator[dict[str, Any]]:
    """Finished rows, one block after the other, from a process that may die; it stays for later rows."""
    for block in blocks_of(rows):
        yield from worker.run(block)


def blocks_of(rows: Sequence[PendingRow]) -> Iterator[list[dict[str, Any]]]:
    """The rows as they travel: alone where sound or a film is decoded, else together, so that model batches are full.

    A block has rows of one root lane, `BLOCK_ROWS` at most and, unless one row alone is longer, `BLOCK_S` seconds
    of media: what was said in it is in memory at once.
    """
    open_blocks: dict[str, list[dict[str, Any]]] = {}
    lengths_s: dict[str, float] = {}
    for row in rows:
        if row.media_kind != "image" and MEDIA_LANES.intersection(row.lanes):
            if block := open_blocks.pop(row.root, []):
                yield block
            lengths_s[row.root] = 0.0
            yield [_as_dict(row)]
            continue
        block, row_s = open_blocks.get(row.root, []), (row.duration_ms or 0) / 1000
        if block and (len(block) == BLOCK_ROWS or lengths_s[row.root] + row_s > BLOCK_S):
            yield block
            block, lengths_s[row.root] = [], 0.0
        open_blocks[row.root] = [*block, _as_dict(row)]
        lengths_s[row.root] = lengths_s.get(row.root, 0.0) + row_s
    yield from open_blocks.values()


def run_ray_rows(spec: JobSpec, plan: Plan, rows: Sequence[PendingRow], settings: Settings) -> Iterator[dict[str, Any]]:
    """Finished rows, as Ray Data brings them."""
    from jobs.dataset import build_dataset, stream
    from jobs.ray_context import set_data_context
    from jobs.ray_errors import check_room, ray_errors

    blocks = list(blocks_of(rows))
    set_data_context(max((longest_block_s(settings, block) for block in blocks), default=0.0))
    with ray_errors(plan.groups):
        check_room(plan.groups)
        for table in stream(build_dataset(spec, plan.groups, blocks)):
            yield from table.to_pylist()


def longest_block_s(settings: Settings, block: Sequence[dict[str, Any]]) -> float:
    """How long a block of rows may take: a healthy one spends less in all its stages than one stage may."""
    return deadline_s(settings.stage_base_s, settings.stage_s_per_hour, [row["duration_ms"] for row in block])
