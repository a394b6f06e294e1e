"""Who may do what: keys and their scopes, loopback, other addresses, names that are not this machine's."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from fastapi.routing import APIRoute

from cluster.db.api_keys import create_key
from cluster.db.connect import open_connection
from serve import access
from serve.access import is_loopback, writer
from serve.service import Service
from tests.api_client import Api, api_over
from tests.trial_app import trial_app, trial_client

# POST, but nothing is written: a body is what they are asked with.
READS = {
    "/v1/embeddings", "/v1/rerank", "/rerank", "/v1/search", "/v1/audio/transcriptions", "/v1/audio/diarization",
    "/v1/audio/embeddings", "/v1/knn/voices", "/v1/knn/frames", "/v1/knn/texts",
}  # fmt: skip


def test_without_a_key_only_health_answers_on_another_address(db_url: str) -> None:
    with api_over(db_url, serve={"host": "0.0.0.0"}) as api:
        paths = [path for path in api.client.app.openapi()["paths"] if "{" not in path]
        open_paths = [path for path in paths if api.client.get(path).status_code != 401]
        assert sorted(open_paths) == ["/health/live", "/health/ready"]
        assert api.client.get("/openapi.json").status_code == 401
        assert api.client.get("/openapi.json", headers=api.headers("read")).status_code == 200
        assert api.client.get("/openapi.json", headers={"authorization": "Bearer rushes-no"}).status_code == 401


def test_a_revoked_key_opens_nothing(db_url: str) -> None:
    with api_over(db_url, serve={"host": "0.0.0.0"}) as api:
        headers = api.headers("read", "reader")
        assert api.client.get("/openapi.json", headers=headers).status_code == 200
        with open_connection(db_url) as conn:
            conn.execute("UPDATE api_keys SET revoked_at = now()")
        assert api.client.get("/openapi.json", headers=headers).status_code == 401


@pytest.mark.anyio
async def test_writing_takes_a_key_that_may_write_even_here(db_url: str) -> None:
    with open_connection(db_url) as conn:
        keys = {scope: create_key(conn, scope, scope) for scope in ("read", "write")}
    async with trial_client(trial_app(db_url, [])) as client:
        assert (await client.post("/trial/write")).status_code == 401
        refused = await client.post("/trial/write", headers={"x-api-key": keys["read"]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_scope")
        done = await client.post("/trial/write", headers={"authorization": f"Bearer {keys['write']}"})
        assert done.json() == {"author": "write"}


def test_keys_are_kept_as_hashes_only(api: Api) -> None:
    key = api.headers("write")["authorization"].removeprefix("Bearer ")
    with open_connection(api.url) as conn:
        row = conn.execute("SELECT k::text FROM api_keys k").fetchone()
    assert row is not None
    assert key not in row[0]
    assert key.removeprefix("rushes-") not in row[0]


def test_every_route_that_is_no_read_takes_a_key(api: Api) -> None:
    routes = [route for route in _routes(api.client.app) if route.methods - {"GET", "HEAD"}]
    assert len(routes) > len(READS)
    unguarded = {
        route.path for route in routes
        if route.path not in READS and writer not in {one.call for one in route.dependant.dependencies}
    }  # fmt: skip
    assert unguarded == set()


def _routes(app: Any) -> list[APIRoute]:
    return [route for module in _modules() for route in module.router.routes if isinstance(route, APIRoute)]


def _modules() -> tuple[Any, ...]:
    from serve.api import ROUTERS

    return ROUTERS


def test_a_page_from_elsewhere_cannot_read_through_a_browser_here(api: Api) -> None:
    answer = api.client.get("/openapi.json", headers={"host": "evil.example:8000"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")
    for host in ("localhost:8000", "LOCALHOST", "127.0.0.2:8000", "[::1]:8000", "[::1]"):
        assert api.client.get("/openapi.json", headers={"host": host}).status_code == 200, host
    for host in ("", "127.0.0.1.evil.example", "[::1", "evil@localhost", "10.0.0.1:8000"):
        assert api.client.get("/openapi.json", headers={"host": host}).status_code == 403, host


def test_a_client_that_must_send_some_key_reads_here_with_any(api: Api) -> None:
    any_key = {"authorization": "Bearer none"}
    assert api.client.get("/openapi.json", headers=any_key).status_code == 200
    assert api.client.get("/openapi.json", headers={**any_key, "host": "evil.example"}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.0.1"])
def test_loopback_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_every_other_address_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.anyio
async def test_known_keys_open_while_the_pool_is_full_or_slow(db_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "READ_S", 0.2)
    app = trial_app(db_url, [], serve={"host": "0.0.0.0"})
    service: Service = app.state.service
    service.access.keys._refresh_s = 0.0
    with open_connection(db_url) as conn:
        headers = {"authorization": f"Bearer {create_key(conn, 'reader', 'read')}"}
    async with trial_client(app, headers=headers) as client:
        assert (await client.get("/v1/models")).status_code == 200
        busy = [asyncio.ensure_future(service.corpus.run(lambda conn: time.sleep(3))) for _ in range(4)]
        await asyncio.sleep(0.1)
        began_s = time.monotonic()
        assert (await client.get("/v1/models")).status_code == 200
        service.corpus.waiting = 0
        assert (await client.get("/v1/models")).status_code == 200
        assert time.monotonic() - began_s < 2
        await asyncio.gather(*busy)
