"""Near duplicates over HTTP: what the machine found, what people decide, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cluster.db.duplicates.find import compare_waiting
from tests.api_client import Api, api_over
from tests.picture_rows import flipped, phash
from tests.test_duplicates import film, picture, scenes, softly


@pytest.fixture
def api(db_url: str) -> Iterator[Api]:
    with api_over(db_url) as found:
        found.client.headers |= found.headers("write", "Kim")
        yield found


@pytest.fixture
def shas(db: Any) -> dict[str, str]:
    """Three pictures alike, a film and a clip out of it, one more that waits; name -> SHA-256."""
    for bit, name in enumerate("abc"):
        picture(db, f"{name}.jpg", flipped(phash(1), [bit]))
    whole = scenes(10, 60)
    film(db, "film.mp4", whole)
    film(db, "clip.mp4", softly(whole[24:64]))
    compare_waiting(db)
    picture(db, "late.jpg", phash(7))
    rows = db.execute("SELECT name, encode(sha256, 'hex') FROM assets JOIN asset_names USING (asset_id)")
    return {name.rsplit("/", 1)[-1]: sha256 for name, sha256 in rows}


def post(api: Api, path: str, body: Any = None, status: int = 200) -> Any:
    answer = api.client.post(f"/v1/dupes/{path}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def get(api: Api, path: str = "", status: int = 200) -> Any:
    answer = api.client.get(f"/v1/dupes{path}")
    assert answer.status_code == status, answer.text
    return answer.json()


def test_groups_say_what_is_alike_and_where_to_look(api: Api, shas: dict[str, str]) -> None:
    page = get(api, "?limit=1")
    assert (page["total"], page["not_compared"], page["next_offset"]) == (2, 1, 1)
    [group] = page["groups"]
    assert {one["sha256"] for one in group["assets"]} == {shas[name] for name in ("a.jpg", "b.jpg", "c.jpg")}
    assert {one["thumbnail_url"] for one in group["assets"]} == {
        f"/v1/media/{one['sha256']}/thumbnails/0.jpg" for one in group["assets"]
    }
    assert [(pair["method"], pair["decided"]) for pair in group["pairs"]] == [("picture", None)] * 3
    [films] = get(api, "?limit=1&offset=1")["groups"]
    [pair] = films["pairs"]
    assert {pair["asset_a"], pair["asset_b"]} == {shas["film.mp4"], shas["clip.mp4"]}
    assert abs(pair["offset_ms"]) > 1000
    assert get(api, f"?asset={shas['film.mp4']}")["total"] == 1
    get(api, f"?asset={'0' * 64}", 404)
    for page in ("?asset=..", "?limit=0", "?offset=x"):
        get(api, page, 422)


def test_a_decision_is_kept_until_it_is_taken_back(api: Api, shas: dict[str, str]) -> None:
    body = {"keep": shas["a.jpg"], "copies": [shas["b.jpg"], shas["c.jpg"]]}
    assert post(api, "resolve", body | {"dry_run": True}) == {
        "events": [], "decisions": 2, "author": "Kim", "dry_run": True,
    }  # fmt: skip
    assert get(api, "/history")["events"] == []
    made = post(api, "resolve", body)["events"]
    assert (len(made), post(api, "resolve", body)["events"]) == (2, [])
    assert get(api)["total"] == 1
    assert {pair["decided"] for pair in get(api, "?decided=true")["groups"][0]["pairs"]} == {"copy"}
    [latest, first] = get(api, "/history")["events"]
    assert (latest["event_id"], latest["kept"], latest["author"]) == (made[1], shas["a.jpg"], "Kim")
    assert get(api, f"/history?asset={shas['b.jpg']}")["events"] == [first]
    assert get(api, "/history?limit=1")["next_before"] == made[1]
    assert get(api, f"/history?before={made[1]}")["events"] == [first]
    against = post(api, "resolve", {"different": [shas["a.jpg"], shas["b.jpg"]]}, 409)
    assert f"event {made[0]} by Kim" in against["error"]["message"]
    assert post(api, "undo", {"event_id": made[0]})["undoes"] == made[0]
    assert post(api, "undo")["undoes"] == made[1]
    assert get(api)["total"] == 2
    assert post(api, "resolve", {"different": [shas["a.jpg"], shas["b.jpg"], shas["c.jpg"]]})["decisions"] == 3
    assert get(api)["total"] == 1


def test_what_cannot_be_taken_back_is_told(api: Api, shas: dict[str, str]) -> None:
    assert "nothing to undo" in post(api, "undo", None, 409)["error"]["message"]
    post(api, "undo", {"event_id": 99}, 404)
    [event] = post(api, "resolve", {"different": [shas["a.jpg"], shas["b.jpg"]]})["events"]
    post(api, "undo", {"event_id": event})
    assert "taken back already" in post(api, "undo", {"event_id": event}, 409)["error"]["message"]
    for body in ({"event_id": 0}, {"event_id": "1"}, {"event_id": 2**63}, {"event": 1}, []):
        post(api, "undo", body, 422)


def test_a_decision_that_means_nothing_is_refused(api: Api, shas: dict[str, str]) -> None:
    a, b = shas["a.jpg"], shas["b.jpg"]
    wrong: list[Any] = [
        {}, {"keep": a}, {"copies": [b]}, {"keep": a, "copies": []}, {"keep": a, "copies": [a]},
        {"keep": a, "copies": [b], "different": [a, b]}, {"different": [a]}, {"different": [a, a]},
        {"keep": "../a.jpg", "copies": [b]}, {"keep": a[:8], "copies": [b]}, {"different": a}, [a, b], None,
    ]  # fmt: skip
    for body in wrong:
        post(api, "resolve", body, 422)
    assert post(api, "resolve", {"keep": "0" * 64, "copies": [b]}, 404)["error"]["param"] == "keep"
    assert post(api, "resolve", {"keep": a, "copies": ["0" * 64]}, 404)["error"]["param"] == "copies"
    assert get(api, "/history")["events"] == []
