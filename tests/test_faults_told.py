"""The mistakes of a first hour: each is told in words that say what to do instead."""

from __future__ import annotations

import pytest

from tests.api_client import Api

BYTES = b"RIFF" + b"&a" * 2000


def told(api: Api, path: str, **request: object) -> tuple[int, str]:
    answer = api.client.post(path, **request)  # type: ignore[arg-type]
    return answer.status_code, answer.json()["error"]["message"]


def test_json_that_is_not_said_to_be_json(api: Api) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    status, said = told(api, "/v1/search", content=b'{"text": "a"}', headers=form)
    assert (status, "application/json" in said) == (400, True)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"query": "a"}, "query: there is no such field; `/docs` lists those that are taken"),
        ({}, "the request: give exactly one of text, image and voice"),
        ({"text": " "}, "the request: text: it is blank"),
    ],
)
def test_fields_that_are_not_there(api: Api, body: dict[str, str], message: str) -> None:
    assert told(api, "/v1/search", json=body) == (422, message)


def test_a_recording_that_is_sent_as_something_else(api: Api) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    whole = told(api, "/v1/audio/transcriptions", content=BYTES, headers=form)
    assert whole == (400, "the body is no form: send multipart/form-data")
    name = told(api, "/v1/audio/transcriptions", data={"model": "whisper-1", "file": "call.wav"})
    assert name == (422, "file: it is no file: send a form with a file in this field")
    assert told(api, "/v1/audio/transcriptions", data={"model": "whisper-1"}) == (422, "file: it is missing")


def test_a_method_that_an_address_does_not_take(api: Api) -> None:
    answer = api.client.get("/v1/search")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["message"] == "this address takes POST"


def test_a_key_that_opens_nothing_is_not_called_missing(api: Api) -> None:
    body = {"name": "Ann", "asset": "0" * 64}
    wrong = api.client.post("/v1/speakers/label", json=body, headers={"authorization": "Bearer wrong"})
    assert (wrong.status_code, wrong.json()["error"]["message"]) == (401, "this API key is unknown or revoked")
    bare = api.client.post("/v1/speakers/label", json=body, headers={"authorization": "rushes-key"})
    assert bare.status_code == 401
    assert "Authorization: Bearer KEY" in bare.json()["error"]["message"]
