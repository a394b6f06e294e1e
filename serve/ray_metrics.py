"""Every figure of the meter as a metric of Ray, whose exporter tells of all replicas on a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util import metrics

from cluster.metric import Metric
from serve.engines.base import Engine
from serve.meter import METRICS, Meter


class RayMirror:
    """The mirror of a `Meter` inside a Ray worker; Ray puts `ray_` before each name."""

    def __init__(self) -> None:
        self._known = {metric.name: _made(metric) for metric in METRICS}

    def put(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        """One figure."""
        known, tags = self._known[metric.name], dict(labels)
        if metric.kind == "counter":
            known.inc(value, tags)
        elif metric.kind == "gauge":
            known.set(value, tags)
        else:
            known.observe(value, tags)


def meter_of(engine: Engine) -> Meter:
    """The meter of a replica with this engine; each `pull` hands on what its batcher did since the last one."""
    meter = Meter(RayMirror())
    batcher = getattr(engine, "batcher", None)
    if batcher is not None:
        meter.watch(engine.role, batcher)
    return meter


def _made(metric: Metric) -> Any:
    if metric.kind == "histogram":
        return metrics.Histogram(metric.name, metric.help, list(metric.buckets), metric.labels)
    make = metrics.Counter if metric.kind == "counter" else metrics.Gauge
    return make(metric.name, metric.help, metric.labels)
