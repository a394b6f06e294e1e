"""The page of the API: everything it needs comes from the service itself."""

from __future__ import annotations

import re
from urllib.parse import urljoin

import pytest

from tests.api_client import Api, api_over


def test_the_page_and_all_it_names_are_served_from_here(api: Api) -> None:
    page = api.client.get("/docs")
    assert page.status_code == 200
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(named) == 4
    kinds = {}
    for name in named:
        found = api.client.get(urljoin("/docs", name))
        assert found.status_code == 200, name
        assert found.content
        kinds[name.rpartition("/")[2]] = found.headers["content-type"].partition(";")[0]
    assert kinds == {
        "swagger-ui.css": "text/css",
        "favicon.png": "image/png",
        "swagger-ui-bundle.js": "text/javascript",
        "start.js": "text/javascript",
    }
    start = api.client.get("/docs/static/start.js").text
    [document] = re.findall(r'url: "([^"]+)"', start)
    assert api.client.get(urljoin("/docs", document)).json()["info"]["title"] == "rushes"


def test_no_other_host_is_named_and_none_is_allowed(api: Api) -> None:
    page, start = api.client.get("/docs"), api.client.get("/docs/static/start.js")
    assert "//" not in page.text + start.text
    assert "validatorUrl: null" in start.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"https?:|\*", policy)
    assert "<script>" not in page.text


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fcore.py", "%2e%2e%2f__init__.py", "redoc.standalone.js"])
def test_only_the_files_of_the_page_are_served(api: Api, name: str) -> None:
    assert api.client.get(f"/docs/static/{name}").status_code == 404


def test_the_page_asks_for_a_key_where_others_reach_the_service(db_url: str) -> None:
    with api_over(db_url, serve={"host": "0.0.0.0"}) as api:
        for path in ("/docs", "/docs/static/start.js", "/openapi.json", "/metrics"):
            assert api.client.get(path).status_code == 401


def test_the_page_can_send_a_key_with_whatever_writes_and_shows_each_route_once(api: Api) -> None:
    document = api.client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    routes = [(path, how) for path, ways in document["paths"].items() for how in ways.values()]
    assert {path for path, how in routes if how.get("security") == [{"key": []}]} == {
        "/v1/clusters", "/v1/clusters/{cluster_id}/label", "/v1/clusters/{cluster_id}/split", "/v1/dupes/resolve",
        "/v1/dupes/undo", "/v1/speakers/identify", "/v1/speakers/label", "/v1/speakers/merge", "/v1/speakers/undo",
        "/v1/speakers/{speaker_id}/rename", "/v1/speakers/{speaker_id}/split",
    }  # fmt: skip
    assert all(len(how["tags"]) == 1 for _, how in routes)
