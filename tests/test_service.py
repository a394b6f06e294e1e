"""The edge of the service: health, keys, limits, errors, time-outs, clients that go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from cluster.db.connect import open_connection
from serve import edge
from tests.api_client import Api, api_over
from tests.trial_app import trial_app, trial_client


def test_health_answers_without_a_key(api: Api) -> None:
    assert api.client.get("/health/live").json() == {"status": "live"}
    ready = api.client.get("/health/ready")
    assert ready.status_code == 200, ready.text
    assert ready.json()["checks"]["database"] == "ok"


def test_ready_names_what_does_not_work(api: Api) -> None:
    api.models.trouble = {"text": "the device is dead"}
    answer = api.client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["checks"]["text"] == "the device is dead"


def test_a_database_that_is_away_is_said_and_found_again(api: Api) -> None:
    name = conninfo_to_dict(api.url)["dbname"]
    away = f"ALTER DATABASE {name} RENAME TO {name}_away"
    back = f"ALTER DATABASE {name}_away RENAME TO {name}"
    with open_connection(api.url.replace(f"/{name}?", "/postgres?")) as conn:
        for sql, status in ((away, 503), (back, 200)):
            kick = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            conn.execute(kick, (name,))
            conn.execute(sql.encode())
            answer = api.client.get("/health/ready")
            assert answer.status_code == status, answer.text


def test_an_unknown_address_is_told_in_the_envelope(api: Api) -> None:
    answer = api.client.get("/v1/nothing")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert answer.headers["x-request-id"]
    assert answer.headers["server-timing"].startswith("total;dur=")


def test_a_request_keeps_the_id_it_came_with_unless_it_is_no_id(api: Api) -> None:
    kept = api.client.get("/health/live", headers={"x-request-id": "job-7"})
    assert kept.headers["x-request-id"] == "job-7"
    made = api.client.get("/health/live", headers={"x-request-id": "a b\tc" * 40})
    assert len(made.headers["x-request-id"]) == 32
    assert len(api.client.get("/health/live", headers={"x-request-id": b"\xe9"}).headers["x-request-id"]) == 32


@pytest.mark.parametrize("path", ["/docs", "/docs/static/start.js", "/v1/models", "/v1/nothing", "/metrics"])
def test_no_browser_takes_an_answer_for_what_it_is_not(api: Api, path: str) -> None:
    assert api.client.get(path).headers["x-content-type-options"] == "nosniff"


@pytest.mark.anyio
async def test_a_body_over_the_limit_is_refused_before_and_while_it_comes(db_url: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    async with trial_client(trial_app(db_url, [], serve={"max_body_bytes": 2048})) as client:
        told = await client.post("/trial/body", content=b" " * 4096)
        assert told.status_code == 413, told.text
        streamed = await client.post("/trial/body", content=pieces())
        assert (streamed.status_code, streamed.json()["error"]["code"]) == (413, "too_large")


@pytest.mark.anyio
async def test_a_client_that_stops_sending_is_let_go(db_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "IDLE_S", 0.2)

    async def stuck() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)

    async with trial_client(trial_app(db_url, [])) as client:
        answer = await client.post("/trial/body", content=stuck())
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "request_timeout")


@pytest.mark.anyio
async def test_a_time_out_ends_the_work_too(db_url: str) -> None:
    events: list[str] = []
    async with trial_client(trial_app(db_url, events, serve={"timeout_s": 0.3})) as client:
        answer = await client.post("/trial/slow")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert events == ["cancelled"]


@pytest.mark.anyio
async def test_a_time_out_ends_the_statement_on_the_server(db_url: str) -> None:
    async with trial_client(trial_app(db_url, [], serve={"timeout_s": 0.5})) as client:
        assert (await client.post("/trial/query")).status_code == 504
        with open_connection(db_url) as conn:
            for _ in range(50):
                row = conn.execute("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"
                                   " AND state = 'active'").fetchone()  # fmt: skip
                if row == (0,):
                    break
                await asyncio.sleep(0.1)
            assert row == (0,)


@pytest.mark.anyio
async def test_a_client_that_hangs_up_ends_the_work(db_url: str) -> None:
    events: list[str] = []
    app = trial_app(db_url, events)
    hang_up = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if not hang_up.is_set():
            hang_up.set()
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.sleep(0.2)
        return {"type": "http.disconnect"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await asyncio.wait_for(app(_scope("POST", "/trial/slow"), receive, send), 5)
    app.state.service.close()
    assert (events, sent) == (["cancelled"], [])


def _scope(method: str, path: str) -> dict[str, Any]:
    return {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"host", b"localhost")], "scheme": "http", "server": ("localhost", 80), "client": ("127.0.0.1", 1),
        "asgi": {"version": "3.0"}, "http_version": "1.1", "root_path": "",
    }  # fmt: skip


@pytest.mark.anyio
@pytest.mark.parametrize("is_flood", [False, True])
async def test_a_body_that_nobody_reads_holds_no_stream_open(
    db_url: str, monkeypatch: pytest.MonkeyPatch, is_flood: bool
) -> None:
    monkeypatch.setattr(edge, "IDLE_S", 0.2)
    events: list[str] = []
    app = trial_app(db_url, events)
    pieces = 20 if is_flood else 0

    async def receive() -> dict[str, Any]:
        nonlocal pieces
        await asyncio.sleep(0.02)
        if not pieces:
            await asyncio.sleep(60)
        pieces -= 1
        return {"type": "http.request", "body": b".", "more_body": True}

    async def send(message: Any) -> None:
        # as a server does once the client went: nothing tells of it
        return

    await asyncio.wait_for(app(_scope("GET", "/trial/endless"), receive, send), 5)
    app.state.service.close()
    assert events == ["cancelled"]


@pytest.mark.anyio
async def test_a_fault_of_ours_keeps_its_secrets(db_url: str) -> None:
    async with trial_client(trial_app(db_url, [])) as client:
        answer = await client.post("/trial/fault")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in answer.text


@pytest.mark.anyio
async def test_broken_json_is_told_as_such(db_url: str) -> None:
    async with trial_client(trial_app(db_url, [])) as client:
        answer = await client.post("/trial/body", content=b"{'a'", headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
        wrong = await client.post("/trial/body", json=[1])
        assert wrong.status_code == 422


@pytest.mark.anyio
async def test_recordings_over_the_limit_are_refused_before_they_are_read(
    db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "UPLOADS_PER_REPLICA", 1)
    let_go = asyncio.Event()
    form = {"headers": {"content-type": "multipart/form-data; boundary=xx"}}

    async def stuck() -> AsyncIterator[bytes]:
        yield b"--xx"
        await let_go.wait()

    async with trial_client(trial_app(db_url, [])) as client:
        first = asyncio.ensure_future(client.post("/v1/audio/diarization", content=stuck(), **form))
        await asyncio.sleep(0.2)
        refused = await client.post("/v1/audio/diarization", content=stuck(), **form)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "10"), refused.text
        let_go.set()
        assert (await first).status_code in (400, 422)
        assert (await client.post("/v1/audio/diarization", content=b"", **form)).status_code in (400, 422)


def test_a_database_that_lets_nobody_in_is_away_and_its_address_a_secret(db_url: str) -> None:
    name = conninfo_to_dict(db_url)["dbname"]
    with api_over(db_url.replace(f"/{name}?", "/hidden_name?"), serve={"host": "0.0.0.0"}) as api:
        answer = api.client.get("/v1/runs", headers={"authorization": "Bearer guessed"})
    assert answer.status_code == 503, answer.text
    assert "hidden_name" not in answer.text
    with api_over(db_url.replace(f"/{name}?", "/hidden_name?")) as api:
        answer = api.client.get("/v1/runs")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2"), answer.text
    assert "hidden_name" not in answer.text


@pytest.mark.anyio
@pytest.mark.parametrize("content", [b'{"a": "\xff"}', b"[" * 100_000, b'{"a": ' + b"9" * 5_000 + b"}"])
async def test_a_body_that_cannot_be_read_says_what_may_be_wrong(db_url: str, content: bytes) -> None:
    async with trial_client(trial_app(db_url, [])) as client:
        answer = await client.post("/trial/body", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")
    assert "UTF-8" in answer.json()["error"]["message"]


@pytest.mark.parametrize("headers", [{}, {"content-type": "text/plain"}])
def test_json_that_is_not_sent_as_json_is_told_how(api: Api, headers: dict[str, str]) -> None:
    answer = api.client.post("/v1/search", content=b'{"text": "a"}', headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_content_type")


@pytest.mark.parametrize("path", ["/v1/search", "/v1/embeddings"])
def test_an_answer_does_not_grow_with_a_field_that_nobody_knows(api: Api, path: str) -> None:
    answer = api.client.post(path, json={"text": "a", "input": "a", "model": "text", "x" * 100_000: 1})
    assert answer.status_code == 422
    assert len(answer.content) < 1_000
