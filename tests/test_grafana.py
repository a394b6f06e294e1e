"""The dashboard and the alerts ask for nothing that is not exported."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.db.metrics import corpus_figures
from cluster.db.pool import Corpus
from jobs.metrics import METRICS as OF_ACTORS
from serve.figures import CorpusFigures
from serve.meter import METRICS as OF_SERVICE
from tests.fake_models import FakeModels
from tests.test_meter import ingest

FOLDER = Path(__file__).parents[1] / "deploy/grafana"
DASHBOARD = json.loads((FOLDER / "rushes.json").read_text("utf-8"))
ALERTS = yaml.safe_load((FOLDER / "alerts.yaml").read_text("utf-8"))
SCRAPES = yaml.safe_load((FOLDER / "prometheus.yaml").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
METRICS = (*OF_SERVICE, *OF_ACTORS)
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
ASKED = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]] + [
    (rule["alert"], rule["expr"]) for rule in RULES
]
# What Prometheus itself adds.
EVERYWHERE = {"instance"}


def told_by_the_process() -> dict[str, set[str]]:
    told = {}
    for metric in METRICS:
        endings = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        told |= {metric.name + end: {*metric.labels, *(["le"] if end == "_bucket" else [])} for end in endings}
    return told


def told_at_a_scrape(db: Any) -> dict[str, set[str]]:
    """What the corpus tells while a run goes on, through the collector that the service uses."""
    ingest(db)
    figures, corpus = CorpusFigures(), Corpus(db.info.dsn)
    asyncio.run(figures.refresh(corpus, FakeModels()))
    corpus.close()
    told = {family.name: set(family.samples[0].labels) for family in figures.collect()}
    assert told.keys() >= {figure.name for figure in corpus_figures(db)}
    return told


def test_every_metric_and_label_that_is_asked_for_is_exported(db: Any) -> None:
    told = told_by_the_process() | told_at_a_scrape(db)
    used = set()
    for where, query in ASKED:
        names = re.findall(r"\b(?:ray_)?rushes_\w+", query)
        assert names, where
        assert not set(names) - told.keys(), where
        used |= set(names)
        for name, selector in re.findall(r"(rushes_\w+)\{([^}]*)\}", query):
            assert set(re.findall(r"(\w+)\s*[=!]", selector)) <= told[name], where
        grouped = {label.strip() for by in re.findall(r"\bby \(([^)]*)\)", query) for label in by.split(",")}
        assert grouped <= EVERYWHERE.union(*(told[name] for name in names)), where
    # And the other way round: what is exported for no one is not exported.
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    unused = {name for name in told if re.sub(r"_(bucket|sum|count)$", "", name) not in bare}
    assert unused <= {"rushes_corpus_assets"}


def test_the_dashboard_shows_what_its_readers_come_for() -> None:
    titles = {panel["title"] for panel in PANELS}
    assert titles >= {
        "Hours per hour", "Speed of each stage", "Failures by cause", "Unknown voices", "Voice cache hits",
        "COPY rows per second", "Busy actors per stage", "Nodes at work", "Seconds per commit",
        "p50 per route", "p95 per route", "Queue", "Batch fill", "Errors by cause",
    }  # fmt: skip


def test_every_panel_has_its_own_id_place_and_queries() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        mine = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & mine, panel["title"]
        cells |= mine
    for panel in PANELS:
        assert panel["targets"], panel["title"]
        assert all(target["expr"] and target["legendFormat"] for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert panel["datasource"]["uid"] == "${source}"
    assert DASHBOARD["templating"]["list"][0]["name"] == "source"


@pytest.mark.parametrize("where_and_query", ASKED, ids=[where for where, _ in ASKED])
def test_the_brackets_of_every_query_match(where_and_query: tuple[str, str]) -> None:
    _, query = where_and_query
    opened = []
    for char in re.sub(r'"[^"]*"', '""', query):
        if char in "([{":
            opened.append(char)
        elif char in ")]}":
            assert opened
            assert {"(": ")", "[": "]", "{": "}"}[opened.pop()] == char
    assert not opened


def test_every_alert_says_how_long_how_bad_and_what() -> None:
    assert {rule["alert"] for rule in RULES} >= {
        "RushesNotReady", "RushesErrors", "RushesSlow", "RushesFull", "RushesBacklogStands",
        "RushesNothingCommitted", "RushesFailing", "RushesNodeSilent", "RushesCacheFull",
    }  # fmt: skip
    for rule in RULES:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smh]", rule["for"])
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]


def test_prometheus_keeps_each_metric_from_one_place_and_under_its_own_name(db: Any) -> None:
    jobs = {job["job_name"]: job["metric_relabel_configs"] for job in SCRAPES["scrape_configs"]}
    from_service, of_ray = (re.compile(jobs[name][0]["regex"]) for name in ("rushes", "ray"))
    for name in told_at_a_scrape(db):
        assert from_service.fullmatch(name), name
    for name in told_by_the_process():
        assert not from_service.fullmatch(name), name
        assert of_ray.fullmatch(f"ray_{name}").group(1) == name
    assert jobs["ray"][1]["target_label"] == "__name__"
    assert SCRAPES["rule_files"] == ["alerts.yaml"]


def test_the_page_on_monitoring_names_every_metric(db: Any) -> None:
    page = (FOLDER.parents[1] / "docs/monitoring.md").read_text("utf-8")
    named = set(re.findall(r"`(rushes_\w+)", page))
    assert named == {metric.name for metric in METRICS} | set(told_at_a_scrape(db))


def test_figures_of_the_archive_are_not_added_up_over_processes_that_tell_the_same() -> None:
    for where, query in ASKED:
        assert not re.search(r"sum by \(\w+\) \((?:rate\()?rushes_(?:run|corpus)_", query), where
