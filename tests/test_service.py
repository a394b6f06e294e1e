"""The edge of the service: health, keys, limits, errors, time-outs, clients that go away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api_client import Api, api_over


@pytest.fixture
def api(db_url: str) -> Iterator[Api]:
    with api_over(db_url) as found:
        yield found


def test_health_answers_without_a_key(api: Api) -> None:
    assert api.client.get("/health/live").json() == {"status": "live"}
    ready = api.client.get("/health/ready")
    assert ready.status_code == 200, ready.text
    assert ready.json()["checks"]["database"] == "ok"


def test_an_unknown_address_is_told_in_the_envelope(api: Api) -> None:
    answer = api.client.get("/v1/nothing")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert answer.headers["x-request-id"]
    assert answer.headers["server-timing"].startswith("total;dur=")
