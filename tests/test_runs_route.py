"""Runs over HTTP: what they did, how far they are, and the stream that tells it while it changes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from cluster.db import runs
from cluster.db.patience import DatabaseAwayError
from serve import events
from serve.api import build_api
from serve.errors import BusyError
from serve.events import EventStream, Look, Streams, tell
from tests.api_client import Api
from tests.corpus_rows import new_run

ABSENT = "00000000-0000-4000-8000-000000000000"


def told(text: str) -> list[tuple[str, Any]]:
    """(event, data) of a stream."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.partition(": ")[::2] for line in block.splitlines())
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def test_runs_are_listed_latest_first_and_read_one_by_one(api: Api, db: Any) -> None:
    made = [new_run(db) for _ in range(3)]
    for run_id in made:
        runs.finish_run(
            db, run_id, "done", {"ok": 1, "failures": [{"uri": "/srv/secret/place/a.wav", "lane": "speech"}]}
        )
    ids = [str(run_id) for run_id in made]
    first = api.client.get("/v1/runs?limit=2").json()
    rest = api.client.get(f"/v1/runs?limit=2&offset={first['next_offset']}").json()
    assert [run["run_id"] for run in first["runs"] + rest["runs"]] == ids[::-1]
    assert rest["next_offset"] is None
    assert first["runs"][0]["summary"]["failures"][0]["uri"] == "place/a.wav"
    one = api.client.get(f"/v1/runs/{ids[0]}").json()
    assert (one["state"], one["driver"], one["settled"]) == ("done", True, 0)


@pytest.mark.parametrize("name", ["x", "..%2f..", "1234", ABSENT[:8], "' OR 1=1"])
def test_what_is_no_run_id_is_refused(api: Api, name: str) -> None:
    for path in (f"/v1/runs/{name}", f"/v1/runs/{name}/events"):
        assert api.client.get(path).status_code in (404, 422)
    assert api.client.get(f"/v1/runs/{ABSENT}").status_code == 404
    assert api.client.get(f"/v1/runs/{ABSENT}/events").status_code == 404
    for page in ("limit=0", "limit=501", "offset=-1", "limit=x"):
        assert api.client.get(f"/v1/runs?{page}").status_code == 422


def test_the_stream_of_a_run_that_ended_says_so_and_ends(api: Api, db: Any) -> None:
    run_id = new_run(db)
    runs.finish_run(db, run_id, "failed", {})
    answer = api.client.get(f"/v1/runs/{run_id}/events", headers={"last-event-id": "../77; DROP"})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-request-id"]
    [(kind, data)] = told(answer.text)
    assert (kind, data["state"], data["run_id"]) == ("done", "failed", str(run_id))
    assert api.service.streams.watching.total() == 0


def test_a_stream_goes_on_until_the_run_ends_and_over_a_database_that_is_away() -> None:
    def say(data: str, over: bool = False) -> Look:
        return Look(json.dumps(data), over, True)

    looks: list[Any] = [say("a"), say("a"), DatabaseAwayError("x"), DatabaseAwayError("x"), say("a"), say("b", True)]

    async def look() -> Look:
        found = looks.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def all_of_it() -> str:
        streams = Streams(every_s=0.001, heartbeat_s=0.0)
        return "".join([part async for part in tell(streams, "run", look)])

    text = asyncio.run(all_of_it())
    assert text.startswith("retry: 3000\n\nid: 1\nevent: progress\n")
    assert [kind for kind, _ in told(text)] == ["progress", "away", "progress", "done"]
    assert text.count(": still here\n\n") == 2
    assert looks == []


def test_a_run_without_a_driver_is_given_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "GONE_AFTER_S", 0.05)

    async def look() -> Look:
        return Look("{}", False, False)

    async def all_of_it() -> str:
        return "".join([part async for part in tell(Streams(every_s=0.01), "run", look)])

    assert [kind for kind, _ in told(asyncio.run(all_of_it()))] == ["progress", "lost"]


def test_many_who_watch_one_run_share_each_look() -> None:
    count = 0

    async def look() -> Look:
        nonlocal count
        count += 1
        await asyncio.sleep(0.01)
        return Look("{}", False, True)

    async def at_once() -> None:
        streams = Streams(every_s=60)
        await asyncio.gather(*(streams.look("run", look) for _ in range(50)))

    asyncio.run(at_once())
    assert count == 1


def test_one_stream_too_many_is_refused_before_it_begins(api: Api, db: Any) -> None:
    run_id = new_run(db)
    runs.finish_run(db, run_id, "done", {})
    api.service.streams.most = 1
    api.service.streams.enter("another run")
    answer = api.client.get(f"/v1/runs/{run_id}/events")
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "overloaded")
    assert answer.headers["retry-after"] == "10"
    api.service.streams.leave("another run")
    assert api.client.get(f"/v1/runs/{run_id}/events").status_code == 200


def test_a_client_that_hangs_up_ends_the_looking(api: Api, db: Any) -> None:
    run_id = new_run(db)
    api.service.streams.every_s = 0.01
    sent, gone = [], asyncio.Event()

    async def watch() -> None:
        scope = {
            "type": "http", "method": "GET", "path": f"/v1/runs/{run_id}/events", "query_string": b"",
            "raw_path": b"", "scheme": "http", "headers": [(b"host", b"127.0.0.1")], "http_version": "1.1",
            "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "root_path": "",
        }  # fmt: skip
        asked = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> Any:
            found = next(asked, None)
            if found is None:
                await gone.wait()
                return {"type": "http.disconnect"}
            return found

        async def send(message: Any) -> None:
            sent.append(message)
            if b"event: progress" in message.get("body", b""):
                assert api.service.streams.watching.total() == 1
                gone.set()

        await asyncio.wait_for(build_api(api.service)(scope, receive, send), 20)

    asyncio.run(watch())
    assert sent[0]["status"] == 200
    assert api.service.streams.watching.total() == 0
    assert api.service.corpus.in_use == 0


def test_a_place_is_given_back_however_the_stream_ends() -> None:
    streams = Streams(most=1)

    async def look() -> Look:
        return Look("{}", True, True)

    async def broken(_: Any) -> None:
        raise OSError("the line is cut")

    async def over() -> None:
        for _ in range(2):
            with pytest.raises(OSError, match="cut"):
                await EventStream(streams, "run", look)({}, broken, broken)  # type: ignore[arg-type]

    asyncio.run(over())
    streams.enter("run")
    with pytest.raises(BusyError):
        streams.enter("run")


def test_a_job_is_read_by_its_id_and_nothing_else(api: Api) -> None:
    api.jobs.submitted.append(["speakers", "cluster"])
    assert api.client.get("/v1/jobs/job-1").json() == {"job_id": "job-1", "state": "running", "message": None}
    assert api.client.get("/v1/jobs/job-2").status_code == 404
    for name in ("..%2fjob-1", "a" * 101, "job 1", "%00"):
        assert api.client.get(f"/v1/jobs/{name}").status_code in (404, 422)
