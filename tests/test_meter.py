"""What `/metrics` tells: of requests, of batchers, of the corpus; and what it keeps to itself."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.db import ledger, results, runs
from cluster.db.metrics import corpus_figures
from cluster.db.register import add_failure
from serve.batcher import Batcher
from serve.meter import METRICS, Meter, Metric
from tests.api_client import Api, api_over
from tests.corpus_rows import PRINTS, claimed, computed_row, make_spaces, new_asset, new_run

Sample = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture
def api(db_url: str) -> Iterator[Api]:
    with api_over(db_url) as found:
        found.service.meter.corpus._keep_s = 0.0
        yield found


def scraped(text: str) -> dict[Sample, float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(api: Api) -> dict[Sample, float]:
    answer = api.client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return scraped(answer.text)


def key(name: str, **labels: str) -> Sample:
    return name, frozenset(labels.items())


def test_requests_are_counted_by_the_template_of_their_route(api: Api) -> None:
    for name in ("text", "nothing"):
        api.client.get(f"/v1/models/{name}")
    for number in range(3):
        api.client.get(f"/no/such/place/{number}")
    api.client.request("BREW", "/v1/models")
    found = scrape(api)
    count = "rushes_http_request_seconds_count"
    one = "/v1/models/{model_id:path}"
    assert found[key(count, route=one, method="GET", status="200")] == 1
    assert found[key(count, route=one, method="GET", status="404")] == 1
    assert found[key(count, route="unknown", method="GET", status="404")] == 3
    assert found[key("rushes_http_errors_total", route=one, cause="model_not_found")] == 1
    assert found[key("rushes_http_errors_total", route="unknown", cause="not_found")] == 3
    labels = {name: {dict(at).get(name) for _, at in found} for name in ("route", "method")}
    assert labels["method"] <= {None, "GET", "POST", "other"}
    assert not {route for route in labels["route"] if route and "/no/such" in route}
    assert found[key("rushes_http_requests_in_flight")] == 1


def test_the_time_models_took_is_told_by_route(api: Api) -> None:
    api.client.post("/v1/embeddings", json={"model": "text", "input": "x"})
    found = scrape(api)
    for part in ("queue", "model"):
        assert found[key("rushes_http_spent_seconds_count", route="/v1/embeddings", part=part)] == 1


def test_a_batcher_is_told_of_by_what_it_did_since_the_last_time() -> None:
    def model(items: list[str]) -> list[str]:
        if "BAD" in items:
            raise ValueError("cannot")
        return items

    batcher: Batcher[str, str] = Batcher(model, len, 100)
    meter = Meter()
    meter.watch("text", batcher)
    for _ in range(2):
        asyncio.run(batcher.run(["aaaa", "aa", "BAD"]))
        found = scraped(meter.render()[0].decode())
    batcher.close()
    assert found[key("rushes_model_items_total", role="text")] == 4 == batcher.counts.items
    assert found[key("rushes_model_failed_items_total", role="text")] == 2
    assert found[key("rushes_model_cost_total", role="text")] == 12
    assert found[key("rushes_model_padded_cost_total", role="text")] >= 12
    assert found[key("rushes_model_queue_items", role="text")] == 0
    assert found[key("rushes_model_busy_seconds_total", role="text")] == pytest.approx(batcher.counts.model_s)


class Twin:
    """A mirror that remembers sums."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, tuple[str, ...]], float] = {}

    def put(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        assert tuple(labels) == metric.labels
        place = metric.name, tuple(labels.values())
        self.sums[place] = value + (0 if metric.kind == "gauge" else self.sums.get(place, 0))


def test_a_mirror_is_given_every_figure() -> None:
    twin = Twin()
    meter = Meter(twin)
    meter.began()
    meter.request("/x", "GET", 0, 0.5, "hung_up", {"model": 0.25})
    assert twin.sums == {
        ("rushes_http_requests_in_flight", ()): 0,
        ("rushes_http_request_seconds", ("/x", "GET", "499")): 0.5,
        ("rushes_http_errors_total", ("/x", "hung_up")): 1,
        ("rushes_http_spent_seconds", ("/x", "model")): 0.25,
    }


def test_every_name_says_its_unit() -> None:
    units = re.compile(r"rushes_\w+_(seconds|total|ratio|items|requests_in_flight)")
    assert [metric.name for metric in METRICS if not units.fullmatch(metric.name)] == []
    assert all(metric.name.endswith("_total") for metric in METRICS if metric.kind == "counter")


def test_ray_takes_every_metric_as_it_is_declared() -> None:
    from serve.ray_metrics import RayMirror

    mirror = RayMirror()
    for metric in METRICS:
        mirror.put(metric, 1.0, dict.fromkeys(metric.labels, "x"))


def ingest(conn: Any) -> uuid.UUID:
    """Two assets done, one failed, one source without content."""
    spaces, run_id = make_spaces(conn), new_run(conn)
    for name in ("a", "b", "c"):
        asset_id = new_asset(conn, name)
        row = computed_row(asset_id, claimed(conn, run_id, asset_id))
        if name == "c":
            row["error"] = {"failure": "bad_media", "stage": "decode", "message": "no", "lanes": None, "attempts": 1}
        results.commit_row(conn, run_id, row, spaces)
    add_failure(
        conn, run_id=run_id, asset_id=None, uri="/gone", lane=None, fingerprint=None, failure="transient",
        stage="register", message="gone",
    )  # fmt: skip
    runs.set_planned(conn, run_id, 3, {"media_s": 180.0, "lanes": dict.fromkeys(PRINTS, 3), "prints": PRINTS})
    return run_id


def test_the_corpus_and_the_run_that_goes_on_are_told(api: Api, db: Any) -> None:
    run_id = ingest(db)
    db.execute("UPDATE local_speakers SET is_ghost = (local_speaker = 1) WHERE asset_id = 1")
    found = scrape(api)
    assert found[key("rushes_ready", part="database")] == 1
    assert found[key("rushes_ready", part="text")] == 1
    assert found[key("rushes_corpus_assets")] == 3
    assert found[key("rushes_corpus_media_seconds")] == 180
    assert found[key("rushes_corpus_units", lane="speech", state="done")] == 2
    assert found[key("rushes_corpus_failures", lane="speech", failure="bad_media")] == 1
    assert found[key("rushes_corpus_failures", lane="register", failure="transient")] == 1
    unknown, settled = (found[key("rushes_corpus_speech_seconds", voice=name)] for name in ("unknown", "settled"))
    assert unknown + settled == db.execute("SELECT sum(speech_ms)::float8 / 1000 FROM local_speakers").fetchone()[0]
    assert 0 < settled < unknown
    assert found[key("rushes_run_active")] == 1
    assert found[key("rushes_run_rows", lane="voices")] == 8
    assert found[key("rushes_run_voice_cache_hits")] == 0
    assert found[key("rushes_run_stage_seconds", stage="decode")] == pytest.approx(0.2)
    assert found[key("rushes_run_stage_media_seconds", stage="decode")] == 120
    assert found[key("rushes_run_media_seconds")] == 120
    assert found[key("rushes_run_hours_per_hour_now")] > 0
    assert 0 <= found[key("rushes_run_idle_seconds")] < 600
    runs.finish_run(db, run_id, "partial", {})
    found = scrape(api)
    assert found[key("rushes_run_active")] == 0
    assert key("rushes_run_idle_seconds") not in found


def test_a_retried_failure_is_counted_once_and_not_at_all_when_done(db: Any) -> None:
    run_id, asset_id = new_run(db), new_asset(db, "a")
    ledger.ensure_units(db, [asset_id], PRINTS, list(PRINTS))
    for failure in ("crash", "timeout"):
        add_failure(
            db, run_id=run_id, asset_id=asset_id, uri="/a", lane="speech", fingerprint=PRINTS["speech"],
            failure=failure, stage="x", message="x",
        )  # fmt: skip
    counted = []
    for state in ("failed", "pending"):
        db.execute("UPDATE units SET state = %s, reason = 'x' WHERE lane = 'speech'", (state,))
        found = [figure for figure in corpus_figures(db) if figure.name == "rushes_corpus_failures"]
        counted.append([(figure.labels["failure"], figure.value) for figure in found])
    assert counted == [[("timeout", 1.0)], []]


def test_a_database_that_is_away_takes_its_own_figures_away_and_not_the_scrape() -> None:
    with api_over("postgresql://nobody@127.0.0.1:1/none") as api:
        api.models.trouble = {"text": "it is being replaced"}
        found = scrape(api)
    assert found[key("rushes_ready", part="database")] == 0
    assert found[key("rushes_ready", part="text")] == 0
    assert found[key("rushes_ready", part="image")] == 1
    assert not {name for name, _ in found if name.startswith(("rushes_corpus", "rushes_run"))}


def test_a_service_that_is_full_does_not_call_its_database_away(api: Api) -> None:
    api.service.corpus._running = 10_000
    found = scrape(api)
    api.service.corpus._running = 0
    assert found[key("rushes_ready", part="database")] == 1
    assert key("rushes_corpus_assets") not in found


def test_scrapes_in_quick_succession_read_the_corpus_once(db_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("serve.figures.corpus_figures", lambda conn: calls.append(conn) or [])
    with api_over(db_url) as api:
        for _ in range(3):
            scrape(api)
    assert len(calls) == 1
