"""Schemathesis over the service's own document: no fault, and nothing that the document does not say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cluster.db.connect import open_connection
from cluster.db.filter import AssetFilter
from cluster.settings import load_settings
from jobs.speakers.cluster import cluster_job
from tests.api_client import Api, api_over
from tests.conftest import clone_database

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 16
BOUNDED = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate], database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
# Of the operations, so many meet a body that makes sense; the others' good answers have tests of their own.
ANSWERED_WELL = 25


@pytest.fixture(scope="module")
def api(server_url: str, ingested: tuple[str, Any]) -> Iterator[Api]:
    for url in clone_database(server_url, "template_ingested"):
        cluster_job(load_settings(None, database_url=url), [], AssetFilter(), dry_run=False, address=None)
        with api_over(url) as found:
            yield found


def _real(api: Api, headers: dict[str, str]) -> dict[str, list[Any]]:
    """Values that the corpus knows, by the names of parameters and fields; somebody gets a name for it."""
    with open_connection(api.url) as conn:
        heard = "SELECT encode(sha256, 'hex') FROM assets JOIN segments USING (asset_id) GROUP BY 1 ORDER BY 1"
        shas = [row[0] for row in conn.execute(heard)]
        runs = [str(row[0]) for row in conn.execute("SELECT run_id FROM runs WHERE state <> 'running'")]
        clusters = [row[0] for row in conn.execute("SELECT cluster_id FROM voice_clusters")]
    body = {"name": "Ann Lee", "asset": shas[0], "at_ms": 2000}
    label = api.client.post("/v1/speakers/label", json=body, headers=headers)
    assert label.status_code == 200, label.text
    people = [one["speaker_id"] for one in api.client.get("/v1/speakers").json()["speakers"]]
    return {
        "sha256": shas, "asset": shas, "keep": shas, "run_id": runs, "cluster_id": clusters, "cluster": clusters,
        "speaker_id": people, "from_id": people, "model_id": ["fake-text", "image"], "form": ["json", "srt"],
        "t_ms": [0, 1500], "idx": [0], "start_ms": [0], "end_ms": [900, 1500], "at_ms": [2000],
        "model": ["text", "image", "reranker", "whisper-1", "voice", "diarizer"], "dimensions": [8],
        "vector": [[0.1] * 384, [0.1] * 256],
    }  # fmt: skip


def _fill(values: Any, real: dict[str, list[Any]], turn: int) -> None:
    """Put values that are known in place of invented ones; some stay as they are."""
    for number, name in enumerate(values if isinstance(values, dict) else ()):
        if name in real and (turn + number) % 4:
            values[name] = real[name][turn % len(real[name])]


def test_every_answer_is_one_that_the_document_tells(api: Api) -> None:
    local = {"host": "localhost"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", api.client.app, headers=local)
    headers = {**local, **api.headers("write")}
    real = _real(api, headers)
    wrong: dict[str, str] = {}
    well: Counter[str] = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()
        said = _ask(operation, headers, real, well)
        if said:
            wrong[operation.label] = said
    assert not wrong, "\n\n".join(f"{label}: {said}" for label, said in wrong.items())
    assert sum(count > 0 for count in well.values()) >= ANSWERED_WELL, "too few were asked with what they can answer"


def _ask(operation: Any, headers: dict[str, str], real: dict[str, list[Any]], well: Counter[str]) -> str | None:
    """What is wrong with an operation's answers; `well` counts those that are no refusals."""
    turns: list[Any] = []

    @BOUNDED
    @given(operation.as_strategy())
    def answers_as_told(case: Any) -> None:
        turns.append(case)
        for values in (case.path_parameters, case.query, case.body):
            _fill(values, real, len(turns))
        answer = case.call_and_validate(headers=headers, checks=CHECKS)
        well[operation.label] += answer.status_code < 400

    try:
        answers_as_told()
    except AssertionError as error:
        return str(error)
    except BaseExceptionGroup as group:
        return "\n".join(map(str, group.exceptions))
    return None
