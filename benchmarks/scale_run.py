"""One run of the whole engine on logical GPUs, in a process of its own, for `benchmarks.scale`.

`python -m benchmarks.scale_run ANSWER REQUEST`. The product does everything but hear and see: `benchmarks.replay`
stands in for its stages.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jobs.ingest
from benchmarks import replay
from cluster.plan import Plan, Work
from cluster.settings import load_settings
from jobs.cli.progress import LineReporter
from jobs.job import IngestOptions
from jobs.ray_context import KEEP_ACTORS, QUIET
from jobs.summary import summary_dict

CPUS_PER_GPU = 6
# As much as the models would take, which stages that replay do not load.
MEMORY_PER_GPU_BYTES = 16 * 2**30
STORE_BYTES = 512 * 2**20
# Nothing is read from elsewhere, but each node has room for its copies checked.
CACHE_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Request:
    """What to run, as JSON on the command line; the assets are in the database."""

    url: str
    data_dir: str
    gpus: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class PlanKeeper(LineReporter):
    """Says nothing, keeps the first plan."""

    def __init__(self) -> None:
        super().__init__(quiet=True, verbose=False)
        self.plan: Plan | None = None

    def planned(self, plan: Plan, work: Work) -> None:
        """Before each pass."""
        self.plan = self.plan or plan


@contextmanager
def logical_gpus(gpus: int) -> Iterator[None]:
    """A Ray of this process alone, with as many GPUs as nobody has."""
    # Ray starts a worker for each CPU before anybody asks for one.
    os.environ.update({**KEEP_ACTORS, **QUIET, "RAY_worker_niceness": "0", "RAY_prestart_worker_first_driver": "0"})
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(
            "local",
            num_cpus=gpus * CPUS_PER_GPU,
            num_gpus=gpus,
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            _memory=gpus * MEMORY_PER_GPU_BYTES,
            log_to_driver=False,
            _temp_dir=folder,
        )
        try:
            yield
        finally:
            ray.shutdown()


def run(request: Request) -> dict[str, Any]:
    """Everything that is registered, to the end, and what the plan was."""
    settings = load_settings(
        None,
        data_dir=Path(request.data_dir),
        database_url=request.url,
        store=str(Path(request.data_dir) / "store"),
        cache_bytes=CACHE_BYTES,
    )
    # The index over the vectors is built once, afterwards, by PostgreSQL alone: it is measured elsewhere.
    jobs.ingest.spaces.ensure_index = lambda conn, space: False  # type: ignore[assignment]
    options, reporter = IngestOptions(kind="backfill", address="auto", chain=replay.CHAIN), PlanKeeper()
    with logical_gpus(request.gpus):
        summary = jobs.ingest.ingest(settings, options, reporter)
    groups = reporter.plan.groups if reporter.plan is not None else ()
    return {"summary": summary_dict(summary), "plan": [asdict(group) for group in groups]}


def main() -> None:
    answer, words = sys.argv[1:3]
    Path(answer).write_text(json.dumps(run(Request(**json.loads(words)))), "utf-8")


if __name__ == "__main__":
    main()
