"""What actors tell of their stages, and that what they tell is what the rows went through."""

from __future__ import annotations

import re

import pytest

from cluster.db.connect import open_connection
from cluster.errors import FailureClass
from cluster.media.node_cache import NodeCache
from cluster.stage import run_stages
from cluster.tally import TALLY
from cluster.types import error_record, rows_table, with_column
from jobs import metrics
from jobs.claim import node_name
from jobs.metrics import METRICS, StageMeter
from tests.archive import run


class Pass:
    """A stage that does nothing, or refuses one row."""

    version, lanes, needs, adds, drops = 1, frozenset({"speech"}), (), (), ()

    def __init__(self, name, refuses=None, cache=None):
        self.name, self.refuses, self.halvings, self.cache = name, refuses, 0, cache

    def identity(self):
        return {}

    def load(self):
        pass

    def process(self, table):
        self.halvings += 1
        if self.refuses in table["asset_id"].to_pylist():
            raise ValueError("no")
        return table

    def close(self):
        pass


def rows(*ids):
    return rows_table(
        [{"asset_id": i, "root": "speech", "lanes": ["speech"], "duration_ms": 60_000 * i, "uri": f"/{i}"} for i in ids]
    )


def sums_of(meter, metric):
    return {labels: value for (name, labels), value in meter.sums.items() if name == metric.name}


def test_each_stage_is_told_by_what_went_through_it():
    stages = [Pass("one"), Pass("two", refuses=2)]
    told = []
    meter = StageMeter(stages, lambda metric, value, labels: told.append((metric.name, tuple(labels.values()), value)))
    meter.load(lambda: None)
    for ids in ((1,), (2,), (3,)):
        meter.run(lambda ids=ids: run_stages(stages, rows(*ids)))
    assert sums_of(meter, metrics.ROWS) == {("one", "speech"): 3, ("two", "speech"): 2}
    assert sums_of(meter, metrics.MEDIA) == {("one", "speech"): 360.0, ("two", "speech"): 240.0}
    assert sums_of(meter, metrics.FAILURES) == {("two", "speech", "bug"): 1}
    assert sums_of(meter, metrics.HALVINGS) == {("one", "speech"): 3, ("two", "speech"): 3}
    assert sums_of(meter, metrics.LOADS) == {("one+two",): 1}
    assert set(sums_of(meter, metrics.BUSY)) == {("one", "speech"), ("two", "speech")}
    added: dict = {}
    for name, labels, value in told:
        added[name, labels] = added.get((name, labels), 0) + value
    assert added == pytest.approx(dict(meter.sums))


def test_what_an_earlier_group_did_is_not_told_again_by_a_later_one():
    first, second = Pass("one", refuses=2), Pass("two")
    table = run_stages([first], rows(1, 2))
    meter = StageMeter([second])
    meter.run(lambda: run_stages([second], table))
    assert sums_of(meter, metrics.ROWS) == {("two", "speech"): 1}
    assert sums_of(meter, metrics.FAILURES) == {}


def test_later_errors_of_a_row_are_told_too():
    error = {
        **error_record(FailureClass.CRASH, "one", "x", ["speech"]),
        "later": [error_record(FailureClass.BUG, "two", "y", ["frames"])],
    }
    meter = StageMeter([Pass("one"), Pass("two")])
    meter.run(lambda: with_column(rows(1), "error", [error]))
    assert sums_of(meter, metrics.FAILURES) == {("one", "speech", "crash"): 1, ("two", "speech", "bug"): 1}


def test_rows_written_and_bytes_fetched_are_told_once(tmp_path):
    meter = StageMeter([])
    TALLY.written["voices"] += 7
    TALLY.fetched_bytes += 100
    for _ in range(2):
        meter.run(lambda: rows(1))
    assert sums_of(meter, metrics.WRITTEN) == {("voices",): 7}
    assert sums_of(meter, metrics.FETCHED) == {(): 100}
    assert sums_of(StageMeter([]), metrics.WRITTEN) == {}


def test_the_cache_of_the_node_is_told_with_its_limit(tmp_path):
    (tmp_path / "aa").mkdir()
    (tmp_path / "aa" / ("aa" * 32)).write_bytes(b"x" * 10)
    meter = StageMeter([Pass("one", cache=NodeCache(tmp_path, 1000))])
    meter.run(lambda: rows(1))
    assert sums_of(meter, metrics.CACHED) == {(): 10}
    assert sums_of(meter, metrics.CACHE_LIMIT) == {(): 1000}


def test_a_run_counts_the_rows_it_wrote_and_names_its_node(corpus_url, media):
    before = TALLY.written.copy()
    summary = run(corpus_url, [str(media / "call.wav")], force=True)
    written = TALLY.written - before
    assert written == {name: summary.outputs[name] for name in ("speech", "voices", "texts")}
    assert all(written.values())
    with open_connection(corpus_url) as conn:
        assert conn.execute("SELECT DISTINCT node FROM units WHERE run_id = %s", (summary.run_id,)).fetchall() == [
            (node_name(),)
        ]


def test_every_name_says_its_unit_and_no_label_grows_with_the_archive():
    units = re.compile(r"rushes_\w+_(total|bytes)")
    assert [metric.name for metric in METRICS if not units.fullmatch(metric.name)] == []
    assert all(metric.name.endswith("_total") for metric in METRICS if metric.kind == "counter")
    assert {label for metric in METRICS for label in metric.labels} == {"stage", "lane", "failure", "group"}


def test_ray_takes_every_metric_as_it_is_declared():
    put = metrics.ray_put()
    for metric in METRICS:
        put(metric, 1.0, dict.fromkeys(metric.labels, "x"))
