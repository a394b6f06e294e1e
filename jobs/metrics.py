"""What the stages of one process do, as metrics: read off the rows that come out of them.

Inside Ray every figure also goes to Ray's exporter, which puts `ray_` before its name and the node and the worker
beside it; elsewhere it stays in `sums`. Labels are few, and never a file: each actor multiplies them.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from cluster.media.node_cache import NodeCache
from cluster.metric import Metric
from cluster.stage import Stage
from cluster.tally import TALLY
from cluster.types import errors_of

_OF_STAGE = ("stage", "lane")
ROWS = Metric("counter", "rushes_stage_rows_total", "Rows that went through a stage.", _OF_STAGE)
MEDIA = Metric("counter", "rushes_stage_media_seconds_total", "Media that went through a stage.", _OF_STAGE)
BUSY = Metric("counter", "rushes_stage_busy_seconds_total", "Work of a stage.", _OF_STAGE)
HALVINGS = Metric("counter", "rushes_stage_halvings_total", "Batches that did not fit the device.", _OF_STAGE)
FAILURES = Metric(
    "counter", "rushes_stage_failures_total", "Attempts that a stage failed, by cause.", (*_OF_STAGE, "failure")
)
LOADS = Metric("counter", "rushes_actor_loads_total", "Actors that loaded their stages.", ("group",))
LOADING = Metric("counter", "rushes_actor_load_seconds_total", "How long that took.", ("group",))
WAITING = Metric("counter", "rushes_actor_wait_seconds_total", "Time of actors between rows.", ("group",))
WRITTEN = Metric("counter", "rushes_written_rows_total", "Rows written by COPY and committed.", ("lane",))
HITS = Metric("counter", "rushes_voice_cache_hits_total", "Voices that the cache had.")
FETCHED = Metric("counter", "rushes_fetched_bytes_total", "Bytes that came from object stores.")
CACHED = Metric("gauge", "rushes_cache_bytes", "What the node's copies of object-store content take.")
CACHE_LIMIT = Metric("gauge", "rushes_cache_limit_bytes", "What they may take.")
METRICS = (
    ROWS, MEDIA, BUSY, HALVINGS, FAILURES, LOADS, LOADING, WAITING, WRITTEN, HITS, FETCHED, CACHED, CACHE_LIMIT,
)  # fmt: skip
_TALLIED = {metric.name: metric for metric in (WRITTEN, HITS, FETCHED)}
# Measuring the cache looks at each of its files.
CACHE_EVERY_S = 60.0

Put = Callable[[Metric, float, Mapping[str, str]], None]
# The name of a metric and the values of its labels, in their order.
Series = tuple[str, tuple[str, ...]]


class StageMeter:
    """Counts what these stages do in this process; `put` takes every figure a second time."""

    def __init__(self, stages: Sequence[Stage], put: Put | None = None) -> None:
        self._names = frozenset(stage.name for stage in stages)
        self._group = {"group": "+".join(stage.name for stage in stages)}
        found = (getattr(stage, "cache", None) for stage in stages)
        self._cache = next((cache for cache in found if isinstance(cache, NodeCache)), None)
        self._put = put
        self.sums: defaultdict[Series, float] = defaultdict(float)
        self._free_since_s = self._cache_told_s = 0.0
        # What other actors of this process did before is told by them.
        self._told = _tallied()

    def load(self, load: Callable[[], None]) -> None:
        """Load the stages by `load()`, timed."""
        began_s = time.monotonic()
        load()
        self._free_since_s = time.monotonic()
        self._add(LOADS, 1, self._group)
        self._add(LOADING, self._free_since_s - began_s, self._group)

    def run(self, work: Callable[[], pa.Table]) -> pa.Table:
        """The rows of `work()`, counted."""
        self._add(WAITING, time.monotonic() - self._free_since_s, self._group)
        table = work()
        for row in table.select(["root", "duration_ms", "timings", "error"]).to_pylist():
            self._count(row)
        self._count_tally()
        self._free_since_s = time.monotonic()
        return table

    def _count(self, row: Mapping[str, Any]) -> None:
        lane, failed = row["root"] or "", set()
        for error in errors_of(row["error"]):
            if error["stage"] in self._names:
                failed.add(error["stage"])
                self._add(FAILURES, 1, {"stage": error["stage"], "lane": lane, "failure": error["failure"]})
        for timing in row["timings"] or ():
            if timing["stage"] not in self._names:
                continue
            labels = {"stage": timing["stage"], "lane": lane}
            self._add(BUSY, timing["seconds"], labels)
            self._add(HALVINGS, timing["halvings"] or 0, labels)
            if timing["stage"] not in failed:
                self._add(ROWS, 1, labels)
                self._add(MEDIA, (row["duration_ms"] or 0) / 1000, labels)

    def _count_tally(self) -> None:
        now = _tallied()
        for (name, labels), value in (now - self._told).items():
            metric = _TALLIED[name]
            self._add(metric, value, dict(zip(metric.labels, labels, strict=True)))
        self._told = now
        if self._cache is not None and time.monotonic() - self._cache_told_s > CACHE_EVERY_S:
            self._cache_told_s = time.monotonic()
            self._set(CACHED, self._cache.size_bytes())
            self._set(CACHE_LIMIT, self._cache.most_bytes)

    def _add(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        if value > 0:
            self.sums[metric.name, tuple(labels.values())] += value
            if self._put is not None:
                self._put(metric, value, labels)

    def _set(self, metric: Metric, value: float) -> None:
        self.sums[metric.name, ()] = value
        if self._put is not None:
            self._put(metric, value, {})


def _tallied() -> Counter[Series]:
    found = Counter[Series]({(WRITTEN.name, (lane,)): rows for lane, rows in TALLY.written.items()})
    found[HITS.name, ()], found[FETCHED.name, ()] = TALLY.voice_cache_hits, TALLY.fetched_bytes
    return found


def ray_put() -> Put:
    """Hands figures to Ray's exporter; only inside an actor of Ray."""
    from ray.util import metrics

    kinds = {"counter": metrics.Counter, "gauge": metrics.Gauge}
    known: dict[str, Any] = {m.name: kinds[m.kind](m.name, m.help, m.labels) for m in METRICS}

    def put(metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        one = known[metric.name]
        (one.inc if metric.kind == "counter" else one.set)(float(value), dict(labels))

    return put
