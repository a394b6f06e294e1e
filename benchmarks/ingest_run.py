"""One ingest in a process of its own, for `benchmarks.ingest`: the product, seen through three windows.

`python -m benchmarks.ingest_run ANSWER REQUEST`. Besides the product's runners there is `plain`: the
plan of the Ray runner, with the product's own worker processes in place of Ray's actors, fed by
threads; it is what Ray is compared with. Inline, each stage is metered: CPU seconds of this process
with all its threads, and of the child that decodes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pyarrow as pa

import jobs.ingest
import jobs.runners
from actors.decode import Decode
from actors.inline import run_inline
from benchmarks.process_tree import cpu_s_of
from cluster.db.ledger import PendingRow
from cluster.plan import Work
from cluster.settings import load_settings
from cluster.stage import Stage
from jobs.cli.progress import LineReporter
from jobs.execution import Execution, plan_for
from jobs.job import IngestOptions
from jobs.run_files import run_log
from jobs.runners import run_worker_rows, this_node
from jobs.summary import summary_dict
from jobs.worker import Worker

PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Request:
    """What to run, as JSON on the command line."""

    runner: str
    url: str
    data_dir: str
    media: str
    lanes: tuple[str, ...] = ("speech", "voices", "texts")
    force: bool = False
    cpus: int | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class PlainExecution(Execution):
    """The fused replicas of the Ray plan as plain processes, each with its thread in the driver."""

    def _stream(self, rows: Sequence[PendingRow], work: Work) -> None:
        job = self.job
        plan = plan_for(job, work, [this_node(job.settings)], self.lanes)
        if len(plan.groups) != 1:
            raise RuntimeError(f"plain processes hold the whole chain each, the plan has {len(plan.groups)} groups")
        group = plan.groups[0]
        log_path = run_log(job.settings.data_dir, self.spec.run_id, "worker.log")
        workers = [Worker(self.spec.to_json(), group.stages, group.threads, log_path) for _ in range(group.actors)]
        self._consume(work, plan, lambda: side_by_side(workers, rows))


def side_by_side(workers: Sequence[Worker], rows: Sequence[PendingRow]) -> Iterator[dict[str, Any]]:
    """Finished rows as they come; whichever worker is free takes the next one. Ends the workers."""
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def run(row: PendingRow) -> list[dict[str, Any]]:
        worker = free.get()
        try:
            return list(run_worker_rows(worker, [row]))
        finally:
            free.put(worker)

    with ThreadPoolExecutor(len(workers)) as threads:
        try:
            for done in as_completed([threads.submit(run, row) for row in rows]):
                yield from done.result()
        finally:
            # Before their threads: a worker dies with the thread that started it.
            threads.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.close()


class Metered:
    """A stage, and the CPU seconds of its calls."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.cpu_s = stage, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stage, name)

    def process(self, table: pa.Table) -> pa.Table:
        """What the stage gives."""
        began = self._cpu_s()
        try:
            return self.stage.process(table)
        finally:
            self.cpu_s += self._cpu_s() - began

    def _cpu_s(self) -> float:
        child = cpu_s_of(self.stage.child.pid) if isinstance(self.stage, Decode) else 0.0
        return time.process_time() + child


def run(request: Request) -> dict[str, Any]:
    """Run it; the summary, what was metered, and which of the heavy libraries this process imported."""
    metered: dict[str, dict[str, Any]] = {}

    def run_metered(stages: Sequence[Stage], tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        watched: list[Any] = [Metered(stage) for stage in stages]
        for table in run_inline(watched, tables):
            metered.update({each.name: _meters(each) for each in watched})
            yield table

    jobs.runners.run_inline = run_metered
    if request.runner == PLAIN:
        jobs.ingest.Execution = PlainExecution  # type: ignore[misc]
    settings = load_settings(
        None,
        data_dir=Path(request.data_dir),
        database_url=request.url,
        runner="ray" if request.runner == PLAIN else request.runner,
        cpus=request.cpus,
    )
    options = IngestOptions(inputs=[request.media], lanes=tuple(request.lanes), force=request.force)
    summary = jobs.ingest.ingest(settings, options, LineReporter(quiet=True, verbose=False))
    return {
        "summary": summary_dict(summary),
        "stages": metered,
        "imported": [name for name in ("ray", "torch", "ctranslate2") if name in sys.modules],
    }


def _meters(each: Metered) -> dict[str, Any]:
    calls = {"model_calls": each.calls} if each.name == "voices" else {}
    return {"cpu_s": round(each.cpu_s, 2), **calls}


def main() -> None:
    answer, words = sys.argv[1:3]
    Path(answer).write_text(json.dumps(run(Request(**json.loads(words)))), "utf-8")


if __name__ == "__main__":
    main()
