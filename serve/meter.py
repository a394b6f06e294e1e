"""What the service counts and times: requests, queues, batches, errors.

One registry per process. With several replicas `/metrics` reaches any one of them; there a mirror hands every
figure to Ray, whose own exporter tells of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from cluster.metric import Metric
from serve.figures import CorpusFigures

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# What nginx writes for a client that left; no answer was sent.
HUNG_UP = 499


# When each series began would double them, and nobody asks.
disable_created_metrics()

_FAST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LONG_S = (*_FAST_S, 60.0, 300.0, 1800.0)

REQUESTS = Metric(
    "histogram", "rushes_http_request_seconds", "Requests by the time they took.", ("route", "method", "status"),
    _LONG_S,
)  # fmt: skip
ERRORS = Metric("counter", "rushes_http_errors_total", "Requests that failed, by cause.", ("route", "cause"))
IN_FLIGHT = Metric("gauge", "rushes_http_requests_in_flight", "Requests that have no whole answer yet.")
SPENT = Metric(
    "histogram",
    "rushes_http_spent_seconds",
    "What requests spent in the queue of a model, in a model, and in the corpus.",
    ("route", "part"),
    _LONG_S,
)
QUEUED = Metric("gauge", "rushes_model_queue_items", "Items that wait for the device.", ("role",))
# Field of a batcher's counts -> what it is told as. Its fill is cost in padded cost.
COUNTED = {
    field: Metric("counter", f"rushes_model_{name}_total", about, ("role",))
    for field, name, about in (
        ("batches", "batches", "Batches that were computed."),
        ("items", "items", "Items in them."),
        ("failed", "failed_items", "Items that the model failed on."),
        ("dropped", "dropped_items", "Items whose caller went away before their batch began."),
        ("halvings", "halvings", "How often a batch did not fit the device and the budget was halved."),
        ("cost", "cost", "Tokens, pixels or seconds in the batches."),
        ("padded_cost", "padded_cost", "The same with what the batches were padded with."),
        ("wait_s", "wait_seconds", "How long items waited for the device, summed."),
        ("model_s", "busy_seconds", "How long the device computed."),
    )
}
METRICS = (REQUESTS, ERRORS, IN_FLIGHT, SPENT, QUEUED, *COUNTED.values())


class Counted(Protocol):
    """A batcher, as far as it is counted."""

    @property
    def counts(self) -> Any:
        """What it has done since it began, by the fields of `COUNTED`."""
        ...

    @property
    def waiting(self) -> int:
        """Items that wait for the device."""
        ...


class Mirror(Protocol):
    """Takes every figure a second time: adds to a counter, sets a gauge, observes in a histogram."""

    def put(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        """One figure."""
        ...


class Meter:
    """Counts and times, from any thread; `render` is what `/metrics` answers."""

    def __init__(self, mirror: Mirror | None = None) -> None:
        self._registry = CollectorRegistry()
        self._known = {metric.name: _made(metric, self._registry) for metric in METRICS}
        self._mirror = mirror
        self._watched: dict[str, Counted] = {}
        self._told: dict[str, dict[str, float]] = {}
        self._in_flight = 0
        self.corpus = CorpusFigures()
        self._registry.register(self.corpus)
        ProcessCollector(registry=self._registry)

    def began(self) -> None:
        """A request has come; `request` ends it."""
        self._in_flight += 1
        self._put(IN_FLIGHT, self._in_flight)

    def request(
        self, route: str, method: str, status: int, seconds: float, cause: str | None, spent_s: Mapping[str, float]
    ) -> None:
        """One request is over; `route` is its template, `cause` the error's code; no status: nothing was answered.

        `spent_s` says what parts of it took: queue, model, corpus.
        """
        self._in_flight -= 1
        self._put(IN_FLIGHT, self._in_flight)
        shown = method if method in METHODS else "other"
        self._put(REQUESTS, seconds, (route, shown, str(status or HUNG_UP)))
        if cause is not None or status >= 500:
            self._put(ERRORS, 1, (route, cause or "internal"))
        for part, part_s in spent_s.items():
            self._put(SPENT, part_s, (route, part))

    def watch(self, role: str, batcher: Counted) -> None:
        """Tell of this batcher too, from now on."""
        self._watched[role] = batcher
        self._told[role] = {}

    def pull(self) -> None:
        """Take over what the batchers have counted since the last time."""
        for role, batcher in self._watched.items():
            self._put(QUEUED, batcher.waiting, (role,))
            told = self._told[role]
            for field, metric in COUNTED.items():
                count = getattr(batcher.counts, field)
                if count > told.get(field, 0):
                    self._put(metric, count - told.get(field, 0), (role,))
                    told[field] = count

    def render(self) -> tuple[bytes, str]:
        """The metrics of this process, and their content type."""
        self.pull()
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def _put(self, metric: Metric, value: float, labels: Sequence[str] = ()) -> None:
        known = self._known[metric.name].labels(*labels) if labels else self._known[metric.name]
        getattr(known, _VERB[metric.kind])(value)
        if self._mirror is not None:
            self._mirror.put(metric, value, dict(zip(metric.labels, labels, strict=True)))


_VERB = {"counter": "inc", "gauge": "set", "histogram": "observe"}


def _made(metric: Metric, registry: CollectorRegistry) -> Any:
    if metric.kind == "histogram":
        return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)
    make = Counter if metric.kind == "counter" else Gauge
    return make(metric.name, metric.help, metric.labels, registry=registry)
