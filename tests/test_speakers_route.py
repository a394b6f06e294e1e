"""People over HTTP: who is known, labels that spread and are taken back, clusters, and all that is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cluster.db.speakers.clusters import read_points, summed, write_clustering
from tests.api_client import Api, api_over
from tests.corpus_rows import claimed, computed_row, make_spaces, new_asset, new_run
from tests.people import archive, everything, named, put_in_cluster
from tests.pg_server import line_to

FILES = {"a.wav": ["anna", "bob"], "b.wav": ["anna"], "c.wav": ["anna"], "d.wav": ["carla"]}


@pytest.fixture
def api(db_url: str) -> Iterator[Api]:
    with api_over(db_url) as found:
        found.client.headers |= found.headers("write", "Kim")
        yield found


@pytest.fixture
def cluster_id(db: Any, api: Api) -> int:
    """Three voices of Anna, in three assets."""
    ids = archive(db, FILES)
    return put_in_cluster(db, [(ids[name], 0) for name in ("a.wav", "b.wav", "c.wav")])


def sha_of(db: Any, name: str) -> str:
    query = "SELECT encode(sha256, 'hex') FROM assets JOIN asset_names USING (asset_id) WHERE name LIKE %s"
    [(sha256,)] = db.execute(query, (f"%{name}",)).fetchall()
    return sha256


def post(api: Api, path: str, body: Any = None, status: int = 200) -> Any:
    answer = api.client.post(f"/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def get(api: Api, path: str, status: int = 200) -> Any:
    answer = api.client.get(f"/v1/{path}")
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a_label_spreads_and_undo_restores_every_value(api: Api, db: Any, cluster_id: int) -> None:
    before = everything(db)
    done = post(api, "speakers/label", {"name": " Anna\tLee ", "asset": sha_of(db, "b.wav")})
    assert (done["speaker"]["name"], done["is_new"], done["author"]) == ("Anna Lee", True, "Kim")
    assert done["reach"] == {"voices": {"human": 1, "cluster": 2}, "segments": 3, "assets": 3}
    assert done["held_back"] == [{"cluster_id": cluster_id, "reasons": {}}]
    assert (done["before"], done["voices"]["missing"]) == (None, False)
    assert done["place"]["clip_url"] == f"/v1/media/{sha_of(db, 'b.wav')}/clip?start_ms=0&end_ms=3000"
    assert named(db) == {"a.wav": ["Anna Lee", None], "b.wav": ["Anna Lee"], "c.wav": ["Anna Lee"], "d.wav": [None]}
    after = everything(db)
    undone = post(api, "speakers/undo", {"event_id": done["event_id"]})
    assert (undone["undoes"], undone["what"]) == (done["event_id"], "Anna Lee: media/b.wav at 0:00.0")
    assert everything(db) == before
    post(api, "speakers/undo", {"event_id": undone["event_id"]})
    assert everything(db) == after


@pytest.mark.parametrize("path", ["speakers/label", "speakers/merge", "speakers/undo"])
def test_a_decision_whose_answer_is_lost_is_made_once(
    db_url: str, api: Api, db: Any, cluster_id: int, path: str
) -> None:
    ids = [
        post(api, "speakers/label", {"name": name, "asset": sha_of(db, file)})["speaker"]["speaker_id"]
        for name, file in (("Anna", "b.wav"), ("Carla", "d.wav"))
    ]
    body = {
        "speakers/label": {"name": "Dora", "asset": sha_of(db, "d.wav")},
        "speakers/merge": {"from_id": ids[1], "into_id": ids[0]},
        "speakers/undo": None,
    }[path]
    before = len(get(api, "speakers/history")["events"])
    with line_to(db_url) as line, api_over(line.url) as other:
        other.client.headers |= api.client.headers
        get(other, "speakers")
        line.lose(b"COMMIT\x00")
        done = post(other, path, body)
        assert line.lost == 1
    events = get(api, "speakers/history")["events"]
    assert (len(events), events[0]["event_id"]) == (before + 1, done["event_id"])


def test_a_cluster_is_labelled_split_and_undone(api: Api, db: Any, cluster_id: int) -> None:
    before = everything(db)
    done = post(api, f"clusters/{cluster_id}/label", {"name": "Anna"})
    assert done["reach"]["assets"] == 3
    assert post(api, "speakers/undo")["undoes"] == done["event_id"]
    divided = post(api, f"clusters/{cluster_id}/split", {"parts": 2})
    assert sorted(part["voices"] for part in divided["parts"]) == [1, 2]
    assert {card["cluster_id"] for card in get(api, "clusters")["clusters"]} == {
        part["cluster_id"] for part in divided["parts"]
    }
    post(api, "speakers/undo", {"event_id": divided["event_id"]})
    assert everything(db) == before
    assert post(api, f"clusters/{cluster_id}/split", {"parts": 9}, 422)["error"]["param"] == "parts"
    post(api, f"clusters/{cluster_id}/split", {"parts": 1}, 422)
    post(api, "clusters/4711/split", {}, 404)


def test_a_cluster_that_changed_since_it_was_seen_is_not_decided_about(api: Api, db: Any, cluster_id: int) -> None:
    seen = get(api, f"clusters/{cluster_id}")["version"]
    assert seen == get(api, "clusters")["clusters"][0]["version"]
    post(api, f"clusters/{cluster_id}/label", {"name": "Anna", "version": seen})
    named_so, last = named(db), get(api, "speakers/history")["events"][0]["event_id"]
    for path, body in (
        (f"clusters/{cluster_id}/label", {"name": "Bob", "version": seen}),
        (f"clusters/{cluster_id}/split", {"version": seen}),
        ("speakers/label", {"name": "Bob", "cluster_id": cluster_id, "version": seen}),
    ):
        assert post(api, path, body, 409)["error"]["param"] == "version"
    label = {"name": "Bob", "asset": sha_of(db, "b.wav")}
    assert post(api, "speakers/label", label | {"seen_speaker_id": None}, 409)["error"]["param"] == "seen_speaker_id"
    assert (named(db), get(api, "speakers/history")["events"][0]["event_id"]) == (named_so, last)
    post(api, "speakers/label", label | {"name": "Anna", "seen_speaker_id": None})


def test_a_dry_run_tells_the_same_and_changes_nothing(api: Api, db: Any, cluster_id: int) -> None:
    before = everything(db)
    body = {"name": "Anna", "cluster_id": cluster_id}
    dry = post(api, "speakers/label", body | {"dry_run": True})
    assert (dry["event_id"], dry["dry_run"], everything(db)) == (None, True, before)
    assert post(api, "speakers/label", body)["reach"] == dry["reach"]
    for path, more in (("speakers/undo", {}), (f"clusters/{cluster_id}/split", {"parts": 3})):
        now = everything(db)
        post(api, path, {"dry_run": True} | more)
        assert everything(db) == now


def test_people_are_merged_renamed_split_and_read(api: Api, db: Any, cluster_id: int) -> None:
    anna = post(api, "speakers/label", {"name": "Anna", "asset": sha_of(db, "b.wav")})["speaker"]["speaker_id"]
    bob = post(api, "speakers/label", {"name": "Bob", "asset": sha_of(db, "a.wav"), "at_ms": 4100})["speaker"]
    carl = post(api, "speakers/label", {"name": "Carl", "asset": sha_of(db, "d.wav")})["speaker"]["speaker_id"]
    post(api, f"speakers/{anna}/rename", {"name": "Anne"})
    assert post(api, f"speakers/{anna}/rename", {"name": "bob"}, 409)["error"]["param"] == "name"
    post(api, "speakers/merge", {"from_id": carl, "into_id": anna})
    post(api, f"speakers/{anna}/split", {"into": "Dora", "voices": [
        {"asset": sha_of(db, "c.wav")}, {"asset": sha_of(db, "a.wav"), "at_ms": 0}
    ]})  # fmt: skip
    assert named(db) == {"a.wav": ["Dora", "Bob"], "b.wav": ["Anne"], "c.wav": ["Dora"], "d.wav": ["Anne"]}
    told = get(api, f"speakers/{carl}", 404)["error"]["message"]
    assert told == f"there is no speaker {carl}: merged into Anne, speaker {anna}"
    people = get(api, "speakers?limit=1")
    assert (people["speakers"][0]["name"], people["next_offset"]) == ("Anne", 1)
    assert people["speakers"][0]["segments_by_method"] == {"human": 2}
    assert people["total"]["known_ms"] == people["total"]["speech_ms"] == 15_000
    one = get(api, f"speakers/{anna}?limit=1")
    assert [asset["source"] for asset in one["assets"]] == ["media/b.wav"]
    assert (one["segments"], one["next_offset"]) == (2, 1)
    assert [event["kind"] for event in one["events"]][-1] == "merge"
    first = get(api, f"speakers/{anna}/segments?limit=1")
    rest = get(api, f"speakers/{anna}/segments?limit=1&offset={first['next_offset']}")
    assert [row["source"] for row in first["segments"] + rest["segments"]] == ["media/b.wav", "media/d.wav"]
    assert rest["next_offset"] is None
    log = get(api, "speakers/history?limit=3")
    older = get(api, f"speakers/history?limit=500&before={log['next_before']}")
    assert [one["kind"] for one in log["events"]] == ["split", "merge", "rename"]
    assert [one["kind"] for one in older["events"]] == ["label"] * 3
    about = get(api, f"speakers/history?speaker_id={bob['speaker_id']}")["events"]
    assert [one["what"] for one in about] == ["Bob: media/a.wav at 0:04.0"]
    assert about[0]["places"][0]["sha256"] == sha_of(db, "a.wav")


def test_clusters_come_by_what_there_is_to_win(api: Api, db: Any, cluster_id: int) -> None:
    page = get(api, "clusters")
    [card] = page["clusters"]
    assert (page["unknown_in_clusters"], page["unknown_apart"], page["next_offset"]) == (3, 2, None)
    assert (card["members"], card["unnamed"], card["unnamed_ms"], card["names"]) == (3, 3, 9_000, [])
    assert [one["place"] for one in card["snippets"]] == ["medoid", "nearest", "nearest"]
    assert card["snippets"][0]["clip_url"].startswith("/v1/media/")
    post(api, "speakers/label", {"name": "Anna", "asset": sha_of(db, "b.wav"), "at_ms": 0})
    one = get(api, f"clusters/{cluster_id}")
    assert [(voice["source"], voice["method"]) for voice in one["voices"]][1] == ("media/b.wav", "human")
    assert (one["suggestions"][0]["name"], one["suggestions"][0]["voices"]) == ("Anna", 3)
    assert get(api, "clusters?unnamed=true")["clusters"] == []
    unknown = get(api, "speakers/unknown")
    assert [voice["source"] for voice in unknown["voices"]] == ["media/a.wav", "media/d.wav"]


def test_an_empty_corpus_has_no_one(api: Api) -> None:
    assert get(api, "speakers")["speakers"] == get(api, "clusters")["clusters"] == []
    assert get(api, "speakers/unknown") == {"voices": [], "ghosts": 0}
    assert post(api, "speakers/undo", None, 409)["error"]["message"].startswith("there is nothing to undo")
    get(api, "speakers/1", 404)
    get(api, "clusters/1", 404)


def test_a_label_on_an_asset_without_voices_stands_and_begins_their_extraction(api: Api, db: Any) -> None:
    make_spaces(db)
    asset_id, run_id = new_asset(db, "old.wav"), new_run(db)
    from cluster.db.results import commit_row

    assert commit_row(db, run_id, computed_row(asset_id, claimed(db, run_id, asset_id, ("speech",))), {}) == "done"
    sha256 = sha_of(db, "old.wav")
    dry = post(api, "speakers/label", {"name": "Anna", "asset": sha256, "at_ms": 0, "dry_run": True})
    assert (dry["voices"]["missing"], api.jobs.submitted) == (True, [])
    done = post(api, "speakers/label", {"name": "Anna", "asset": sha256, "at_ms": 0})
    assert (done["voices"]["missing"], done["voices"]["job_url"]) == (True, "/v1/jobs/job-1")
    assert api.jobs.submitted == [["speakers", "voices", "--", sha256]]
    assert named(db)["old.wav"][0] == "Anna"
    assert api.models.calls == []


@pytest.mark.parametrize("name", ["", " ", "\u0000\u200b", "x" * 201, "UNKNOWN", "A", 7, None, ["Anna"], "\ud800"])
def test_what_is_no_name_is_refused(api: Api, db: Any, cluster_id: int, name: Any) -> None:
    for path, body in (
        ("speakers/label", {"name": name, "cluster_id": cluster_id}),
        (f"clusters/{cluster_id}/label", {"name": name}),
        ("speakers/1/rename", {"name": name}),
    ):
        answer = api.client.post(f"/v1/{path}", content=_ascii(body), headers={"content-type": "application/json"})
        assert answer.status_code == 422, answer.text
        assert "name" in answer.json()["error"]["message"]
    assert get(api, "speakers/history")["events"] == []


def _ascii(body: Any) -> str:
    import json

    return json.dumps(body)


def test_a_name_like_an_option_is_a_name(api: Api, db: Any, cluster_id: int) -> None:
    name = "--config=/etc/passwd; $(id) ' OR 1=1"
    assert post(api, f"clusters/{cluster_id}/label", {"name": name})["speaker"]["name"] == name


@pytest.mark.parametrize(
    "body",
    [
        {}, {"name": "Anna"}, {"name": "Anna", "nobody": True, "cluster_id": 1}, {"name": "Anna", "asset": "../etc"},
        {"name": "Anna", "asset": "F" * 64}, {"name": "Anna", "asset": "0" * 64, "cluster_id": 1},
        {"name": "Anna", "cluster_id": 1, "at_ms": 5}, {"name": "Anna", "asset": "0" * 64, "only_segment": True},
        {"nobody": True, "asset": "0" * 64}, {"name": "Anna", "asset": "0" * 64, "at_ms": -1},
        {"name": "Anna", "asset": "0" * 64, "at_ms": "5"}, {"name": "Anna", "asset": "0" * 64, "at_ms": 2**40},
        {"name": "Anna", "cluster_id": True}, {"name": "Anna", "cluster_id": 2**70}, {"name": "Anna", "cluster": 1},
        {"name": "Anna", "asset": "0" * 64, "version": "x"}, [], "x", None,
    ],
)  # fmt: skip
def test_a_label_that_means_nothing_is_refused(api: Api, body: Any) -> None:
    assert post(api, "speakers/label", body, 422)["error"]["message"]


def test_what_is_not_there_is_told_by_its_field(api: Api, db: Any, cluster_id: int) -> None:
    absent = [
        ("speakers/label", {"name": "Anna", "asset": "0" * 64}, "asset"),
        ("speakers/label", {"name": "Anna", "cluster_id": 4711}, "cluster_id"),
        ("clusters/4711/label", {"name": "Anna"}, "cluster_id"),
        ("speakers/merge", {"from_id": 1, "into_id": 2}, "from_id"),
        ("speakers/99/rename", {"name": "Anna"}, "speaker_id"),
        ("speakers/undo", {"event_id": 99}, "event_id"),
        ("clusters", {"assets": ["0" * 64]}, "assets"),
    ]
    for path, body, field in absent:
        assert post(api, path, body, 404)["error"]["param"] == field
    post(api, "speakers/merge", {"from_id": 1, "into_id": 1}, 422)
    several = post(api, "speakers/label", {"name": "Anna", "asset": sha_of(db, "a.wav")}, 422)
    assert "has 2 voices" in several["error"]["message"]
    silent = post(api, "speakers/label", {"name": "Anna", "asset": sha_of(db, "b.wav"), "at_ms": 90_000}, 409)
    assert "nobody speaks at 90.0 s of media/b.wav" in silent["error"]["message"]
    for path in ("speakers/..%2f..%2fetc", "speakers/0", "speakers/-1", f"speakers/{2**80}", "clusters/1.5"):
        assert api.client.get(f"/v1/{path}").status_code in (404, 422)
    done = post(api, "speakers/label", {"name": "Anna", "cluster_id": cluster_id})
    post(api, "speakers/undo", {"event_id": done["event_id"]})
    twice = post(api, "speakers/undo", {"event_id": done["event_id"]}, 409)
    assert "undone already" in twice["error"]["message"]


def test_nobody_writes_without_a_key_that_may(api: Api, db: Any, cluster_id: int) -> None:
    reader = api.headers("read")
    writes = [
        "speakers/label", "speakers/merge", "speakers/undo", "speakers/identify", "speakers/1/rename",
        "speakers/1/split", "clusters", f"clusters/{cluster_id}/label", f"clusters/{cluster_id}/split",
        "dupes/resolve", "dupes/undo",
    ]  # fmt: skip
    key = api.client.headers.pop("authorization")
    for path in writes:
        assert api.client.post(f"/v1/{path}", json={}).status_code == 401, path
        assert api.client.post(f"/v1/{path}", json={}, headers=reader).status_code == 403, path
    api.client.headers["authorization"] = key
    assert (get(api, "speakers/history")["events"], api.jobs.submitted) == ([], [])


def test_a_clustering_and_an_undo_leave_what_people_said(api: Api, db: Any) -> None:
    ids = archive(db, FILES)
    space, run_id = make_spaces(db, 32)["voice"], new_run(db)
    points = read_points(db, space)
    labels = [0 if key in [(ids[name], 0) for name in ("a.wav", "b.wav", "c.wav")] else -1 for key in points.keys]
    import numpy as np

    assert summed(points, np.asarray(labels)).clusters == 1
    write_clustering(db, space, points, np.asarray(labels), run_id)
    [card] = get(api, "clusters")["clusters"]
    post(api, f"clusters/{card['cluster_id']}/label", {"name": "Anna", "version": card["version"]})
    write_clustering(db, space, read_points(db, space), np.asarray([-1, -1]), run_id)
    assert named(db)["c.wav"] == ["Anna"]
