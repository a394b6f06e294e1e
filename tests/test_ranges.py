"""Parts of a content over HTTP: which bytes a `Range` names, and what an answer says of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from cluster.media.original import open_bytes
from serve import ranges
from serve.faults import handle
from serve.ranges import RangeError, parse_range, ranged

CONTENT = bytes(range(256)) * 40
SIZE = len(CONTENT)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setattr(ranges, "PIECE_BYTES", 1000)
    path = tmp_path / "content"
    path.write_bytes(CONTENT)

    async def read(piece):
        return piece()

    async def answer(request: Request) -> Response:
        request.scope["state"] = {}
        return ranged(request, open_bytes(path), read, etag='"tag"', media_type="video/mp4", headers={})

    return TestClient(Starlette(routes=[Route("/", answer)], exception_handlers={RangeError: handle}))


@pytest.mark.parametrize(
    ("header", "first", "length"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-", 100, SIZE - 100),
        ("bytes=100-2099", 100, 2000),
        ("BYTES=0-99", 0, 100),
        ("bytes=-1", SIZE - 1, 1),
        (f"bytes=-{SIZE * 2}", 0, SIZE),
        (f"bytes={SIZE - 1}-{SIZE * 5}", SIZE - 1, 1),
    ],
)
def test_a_range_gives_these_bytes_and_says_which(client: TestClient, header: str, first: int, length: int) -> None:
    answer = client.get("/", headers={"range": header})
    assert answer.status_code == 206
    assert answer.content == CONTENT[first : first + length]
    assert answer.headers["content-range"] == f"bytes {first}-{first + length - 1}/{SIZE}"
    assert answer.headers["content-length"] == str(length)


@pytest.mark.parametrize(
    "header",
    ["", "bytes", "bytes=", "bytes=-", "bytes=9-3", "bytes=0-1,5-6", "items=0-1", "bytes=a-b", "bytes=0-" + "9" * 5000],
)
def test_what_is_no_single_range_gives_the_whole(client: TestClient, header: str) -> None:
    answer = client.get("/", headers={"range": header})
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["accept-ranges"] == "bytes"
    assert "content-range" not in answer.headers


@pytest.mark.parametrize("header", [f"bytes={SIZE}-", "bytes=-0", f"bytes={SIZE * 9}-{SIZE * 10}"])
def test_a_range_after_the_end_is_refused_with_the_size(client: TestClient, header: str) -> None:
    answer = client.get("/", headers={"range": header})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{SIZE}"
    assert answer.json()["error"]["param"] == "Range"


def test_an_empty_content_has_no_range() -> None:
    assert parse_range(None, 0) is None
    with pytest.raises(RangeError):
        parse_range("bytes=0-", 0)


def test_a_range_of_another_version_gives_the_whole(client: TestClient) -> None:
    for tag, status in (('"tag"', 206), ('"other"', 200), ('W/"tag"', 200), ("Sat, 01 Jan 2000 00:00:00 GMT", 200)):
        assert client.get("/", headers={"range": "bytes=0-9", "if-range": tag}).status_code == status


def test_a_client_that_has_it_gets_nothing(client: TestClient) -> None:
    for tags in ('"tag"', 'W/"tag"', '"other", "tag"', "*"):
        answer = client.get("/", headers={"if-none-match": tags, "range": "bytes=0-9"})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", '"tag"')
    assert client.get("/", headers={"if-none-match": '"other"'}).status_code == 200


def test_head_tells_the_whole_and_sends_nothing(client: TestClient) -> None:
    answer = client.head("/", headers={"range": "bytes=0-9"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(SIZE)
