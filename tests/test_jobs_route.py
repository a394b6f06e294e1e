"""Jobs that requests begin: the words they get, where they run, and a corpus that is clustered and named by HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from cluster.db.local_voices import has_local_voices
from cluster.settings import Settings, load_settings
from serve.api import build_api
from serve.errors import UnavailableError
from serve.ray_jobs import RayJobs
from tests.api_client import Api, api_over
from tests.archive import run
from tests.corpus_rows import new_asset
from tests.local_jobs import LocalJobs, NoJobs
from tests.people import everything, named


@pytest.fixture
def api(db_url: str) -> Iterator[Api]:
    with api_over(db_url) as found:
        found.client.headers |= found.headers("write")
        yield found


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / "data")


def test_no_value_of_a_client_becomes_an_option(api: Api, db: Any) -> None:
    new_asset(db, "a.wav")
    [(sha256,)] = db.execute("SELECT encode(sha256, 'hex') FROM assets").fetchall()
    body = {"assets": [sha256], "tags": ["--config=/x", "; rm"], "channels": ["-"], "collections": []}
    answer = api.client.post("/v1/clusters", json=body)
    assert (answer.status_code, answer.headers["location"]) == (202, "/v1/jobs/job-1")
    assert answer.json() == {"job_id": "job-1", "job_url": "/v1/jobs/job-1"}
    assert api.client.post("/v1/clusters").status_code == 202
    assert api.client.post("/v1/speakers/identify", json={"again": True}).status_code == 202
    assert api.jobs.submitted == [
        ["speakers", "cluster", "--channel=-", "--tag=--config=/x", "--tag=; rm", "--", sha256],
        ["speakers", "cluster", "--"],
        ["speakers", "identify", "--again", "--"],
    ]


@pytest.mark.parametrize(
    "body",
    [
        {"assets": ["--config=/x"]}, {"assets": "0" * 64}, {"assets": ["0" * 64] * 1001}, {"tags": [""]},
        {"tags": ["a\u0000b"]}, {"tags": ["\ud800"]}, {"tags": ["x" * 201]}, {"words": ["db", "drop"]},
        {"again": "yes"}, [], "x",
    ],
)  # fmt: skip
def test_a_job_over_nonsense_is_not_begun(api: Api, body: Any) -> None:
    import json

    for path in ("/v1/clusters", "/v1/speakers/identify"):
        answer = api.client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
        assert answer.status_code == 422, answer.text
    assert api.jobs.submitted == []


def test_a_service_without_jobs_says_how_to_do_it(api: Api, db: Any) -> None:
    service = replace(api.service, jobs=NoJobs())
    client = TestClient(build_api(service), base_url="http://127.0.0.1", headers=api.client.headers)
    answer = client.post("/v1/clusters", json={})
    assert answer.status_code == 503
    assert "`rushes speakers cluster --` does it" in answer.json()["error"]["message"]
    assert client.get("/v1/jobs/x").status_code == 404


class FakeClient:
    """What Ray's client is to us."""

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}

    def submit_job(self, **job: Any) -> str:
        self.jobs[job["submission_id"]] = job
        return job["submission_id"]

    def get_job_info(self, job_id: str) -> Any:
        from types import SimpleNamespace

        if job_id not in self.jobs:
            raise RuntimeError("Request failed with status code 404: Job does not exist.")
        return SimpleNamespace(status=SimpleNamespace(value="FAILED"), message="logs:\nerror: no space\n")


def test_a_ray_job_carries_quoted_words_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSHES_DATABASE_URL", "postgresql://u:secret@host/db")
    jobs = RayJobs("http://127.0.0.1:1", python="/opt/a b/python", working_dir="gcs://pkg.zip")
    jobs._client = FakeClient()
    job_id = asyncio.run(jobs.submit(["speakers", "cluster", "--tag=; rm -rf $HOME", "--"]))
    [job] = jobs._client.jobs.values()
    line = "'/opt/a b/python' -m jobs.cli.main speakers cluster '--tag=; rm -rf $HOME' --"
    assert job == {
        "entrypoint": line, "submission_id": job_id, "runtime_env": {"working_dir": "gcs://pkg.zip"},
        "entrypoint_num_cpus": 0,
    }  # fmt: skip
    assert asyncio.run(jobs.state(job_id)) == {"state": "failed", "message": "error: no space"}
    assert asyncio.run(jobs.state("rushes-unknown")) is None
    assert asyncio.run(jobs.state("somebody-elses")) is None


def test_a_cluster_that_is_away_is_told_without_its_address() -> None:
    jobs = RayJobs("http://127.0.0.1:1")
    with pytest.raises(UnavailableError, match="takes no jobs just now") as told:
        asyncio.run(jobs.submit(["speakers", "cluster"]))
    assert "127.0.0.1" not in str(told.value)
    assert told.value.status == 503


class Caller:
    """A client with a key over a service whose jobs are processes of this machine."""

    def __init__(self, api: Api) -> None:
        real = LocalJobs(
            {"RUSHES_DATABASE_URL": api.url, "RUSHES_DATA_DIR": str(api.service.settings.data_dir.absolute())}
        )
        app = build_api(replace(api.service, jobs=real))
        self.client = TestClient(app, base_url="http://127.0.0.1", headers=api.headers("write", "Kim"))

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.client.post(f"/v1/{path}", json=body or {})
        assert answer.is_success, answer.text
        return answer.json()

    def get(self, path: str) -> Any:
        return self.client.get(f"/v1/{path}").json()

    def finish(self, job: Any) -> None:
        over = self.get(job["job_url"][4:])
        assert over["state"] == "succeeded", over


def test_a_corpus_is_clustered_named_and_restored_by_http(corpus_url: str, corpus: Any, tmp_path: Path) -> None:
    with api_over(corpus_url, data_dir=tmp_path / "data") as api:
        by = Caller(api)
        by.finish(by.post("clusters"))
        [card, *_] = by.get("clusters")["clusters"]
        assert card["assets"] > 1
        before = everything(corpus)
        done = by.post(f"clusters/{card['cluster_id']}/label", {"name": "Anna", "version": card["version"]})
        heard = by.get(f"speakers/{done['speaker']['speaker_id']}")["assets"]
        voices = by.get(f"clusters/{card['cluster_id']}")["voices"]
        assert {voice["sha256"] for voice in voices if voice["speaker"] == "Anna"} == {one["sha256"] for one in heard}
        assert len(heard) == card["assets"] == done["reach"]["assets"]
        by.post("speakers/undo", {"event_id": done["event_id"]})
        assert everything(corpus) == before
        by.post("speakers/label", {"name": "Anna", "cluster_id": card["cluster_id"]})
        by.finish(by.post("speakers/identify"))
        assert [run["kind"] for run in by.get("runs")["runs"]][:2] == ["identify", "cluster"]
        assert api.models.calls == []


def test_the_voices_that_a_label_needs_are_extracted_after_it(
    db_url: str, db: Any, media: Path, tmp_path: Path
) -> None:
    run(db_url, [str(media / "call.wav")], lanes=("speech",))
    [(asset_id, sha256)] = db.execute("SELECT asset_id, encode(sha256, 'hex') FROM assets").fetchall()
    [(at_ms,)] = db.execute("SELECT start_ms FROM segments ORDER BY start_ms - end_ms LIMIT 1").fetchall()
    with api_over(db_url, data_dir=tmp_path / "data") as api:
        by = Caller(api)
        body = {"name": "Anna", "asset": sha256, "at_ms": at_ms}
        done = by.post("speakers/label", body)
        assert done["voices"]["missing"]
        assert "Anna" in named(db)["call.wav"]
        by.finish(done["voices"])
        assert has_local_voices(db, asset_id)
        assert "Anna" in named(db)["call.wav"]
        assert by.post("speakers/label", body)["voices"] == {
            "missing": False, "job_id": None, "job_url": None, "note": None,
        }  # fmt: skip
