"""What a person sees while a run goes on."""

from __future__ import annotations

import time

from cluster.plan import Work
from jobs.cli.progress import LineReporter
from jobs.summary import Summary


def test_the_time_left_is_that_of_the_present_pass():
    reporter = LineReporter(quiet=True, verbose=False)
    row = {"duration_ms": 60_000, "outcome": "retry", "uri": "/a.wav"}
    reporter.planned(None, Work(600.0, 10))
    for _ in range(10):
        reporter.finished(row, Summary(planned=10))
    reporter.planned(None, Work(120.0, 2))
    reporter.finished(row, Summary(planned=10))
    reporter._begun = time.monotonic() - 60
    assert reporter.line(Summary(planned=10)).endswith("1.0 h/h · 1:00 left")
