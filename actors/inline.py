"""Run stages in this process, without Ray: for small jobs, tests and services."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from cluster.stage import Stage, load_stages, run_stages


def run_inline(stages: Sequence[Stage], tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Load every stage once, run each table through all of them, close them at the end."""
    try:
        load_stages(stages)
        for table in tables:
            yield run_stages(stages, table)
    finally:
        for stage in stages:
            stage.close()
