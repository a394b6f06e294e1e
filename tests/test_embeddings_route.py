"""Embeddings, rerank and the list of models over HTTP: shapes, what is refused, and in which words."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from serve.errors import BusyError, UnavailableError
from serve.models import Embedded, ModelCard, Timing
from tests.api_client import Api, api_over
from tests.fake_models import FakeModels, vector_of

JPEG = b"\xff\xd8\xff picture"
URI = "data:image/jpeg;base64," + base64.b64encode(JPEG).decode()


@pytest.fixture
def api(db_url: str) -> Iterator[Api]:
    with api_over(db_url, serve={"max_items": 8}) as found:
        yield found


def embed(api: Api, given: Any, model: str = "text", **more: Any) -> Any:
    return api.client.post("/v1/embeddings", json={"model": model, "input": given, **more})


def refused(answer: Any, status: int, param: str | None, words: str = "") -> None:
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), answer.text
    assert words in error["message"]


def vectors(answer: Any) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray([row["embedding"] for row in answer.json()["data"]], np.float32)


def test_a_text_a_list_and_token_ids_are_embedded_in_openais_shape(api: Api) -> None:
    one = embed(api, "a b c", model="fake-text")
    assert one.json() == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": one.json()["data"][0]["embedding"]}],
        "model": "fake-text",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    assert np.allclose(vectors(one)[0], vector_of("a b c"), atol=1e-7)
    assert np.allclose(vectors(embed(api, ["x", "y"])), [vector_of("x"), vector_of("y")], atol=1e-7)
    assert np.allclose(vectors(embed(api, [5, 6])), [vector_of("[5, 6]")], atol=1e-7)
    assert len(vectors(embed(api, [[5], [6, 7]]))) == 2
    assert api.models.calls[-2:] == [
        ("embed_texts", ([[5, 6]], "document")), ("embed_texts", ([[5], [6, 7]], "document"))
    ]  # fmt: skip


def test_token_ids_of_one_item_may_be_more_than_the_items_of_a_request(api: Api) -> None:
    assert len(vectors(embed(api, list(range(100))))) == 1


def test_base64_holds_the_same_numbers(api: Api) -> None:
    coded = embed(api, ["x", "y"], encoding_format="base64").json()["data"]
    rows = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in coded]
    assert (np.stack(rows) == np.stack([vector_of("x"), vector_of("y")])).all()
    assert np.allclose(vectors(embed(api, ["x", "y"])), rows, atol=1e-7)


def test_what_vectors_are_for_reaches_the_model(api: Api) -> None:
    embed(api, "x", input_type="query", user="me", dimensions=8, encoding_format=None)
    assert api.models.calls == [("embed_texts", (["x"], "query"))]


def test_the_image_model_takes_pictures_and_words(api: Api) -> None:
    for more in ({}, {"modality": "image"}):
        assert np.allclose(vectors(embed(api, [URI, URI], model="image", **more))[1], vector_of(JPEG), atol=1e-7)
    words = vectors(embed(api, "a bridge", model="fake-image"))
    assert np.allclose(words[0], vector_of("a bridge"), atol=1e-7)
    assert [name for name, _ in api.models.calls] == ["embed_pictures", "embed_pictures", "embed_words_of_pictures"]


def test_nothing_is_fetched(api: Api) -> None:
    for more in ({}, {"modality": "image"}):
        answer = embed(api, ["HTTP://localhost/x.jpg"], model="image", **more)
        refused(answer, 422, "input[0]", "nothing is fetched")
    assert embed(api, "https://example.org is a text like any other").status_code == 200
    assert embed(api, "https://example.org", model="image", modality="text").status_code == 200


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ("", "input"),
        (" \n", "input"),
        ([], "input"),
        (5, "input"),
        ({"text": "x"}, "input"),
        (None, "input"),
        (["x", ""], "input[1]"),
        (["x", 5], "input[1]"),
        (["x", None], "input[1]"),
        (["x", ["y"]], "input[1]"),
        ([5, "x"], "input[1]"),
        ([5, 1.5], "input[1]"),
        ([5, True], "input[1]"),
        ([5, -1], "input[1]"),
        ([5, 2**31], "input[1]"),
        ([5, 10**30], "input[1]"),
        ([[5], []], "input[1]"),
        ([[5], "x"], "input[1]"),
        ([[5], [6, "x"]], "input[1][1]"),
        ([[[5]]], "input[0][0]"),
        ([{}], "input[0]"),
        ([True], "input[0]"),
        (["x", URI], "input[1]"),
        (["x", "BAD"], "input[1]"),
    ],
)
def test_an_item_that_cannot_be_embedded_is_named(api: Api, given: Any, param: str) -> None:
    refused(embed(api, given), 422, param)


@pytest.mark.parametrize(
    ("given", "more", "param"),
    [
        ([URI, "words"], {}, "input[1]"),
        (["words", URI], {}, "input[1]"),
        ([5, 6], {}, "input"),
        ([URI], {"modality": "text"}, "input[0]"),
        (["words"], {"modality": "image"}, "input[0]"),
        (["data:image/png;base64,%%%"], {}, "input[0]"),
        (["data:image/png;base64,"], {}, "input[0]"),
        (["data:image/png,abcd"], {}, "input[0]"),
        (["data:image/png;base64"], {}, "input[0]"),
        (["data:image/png;base64,\u00e9"], {}, "input[0]"),
    ],
)
def test_what_is_no_picture_is_named(api: Api, given: Any, more: dict[str, str], param: str) -> None:
    refused(embed(api, given, model="image", **more), 422, param)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"dimensions": 4}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "8"}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"input_type": "search"}, "input_type"),
        ({"modality": "audio"}, "modality"),
        ({"modality": "image"}, "modality"),
        ({"model": 5}, "model"),
        ({"model": None}, "model"),
        ({"model": "reranker"}, "model"),
        ({"input_typ": "query"}, "input_typ"),
    ],
)
def test_an_option_that_means_nothing_here_is_named(api: Api, more: dict[str, Any], param: str) -> None:
    refused(api.client.post("/v1/embeddings", json={"model": "text", "input": "x", **more}), 422, param)


def test_a_model_that_is_not_on_offer_is_told_with_those_that_are(api: Api) -> None:
    answer = embed(api, "x", model="text-embedding-3-small")
    refused(answer, 404, "model", "fake-text (text), fake-image (image)")
    assert answer.json()["error"]["code"] == "model_not_found"


def test_more_items_than_a_request_may_have_are_refused_before_the_model(api: Api) -> None:
    refused(embed(api, ["x"] * 9), 413, "input", "9 items, 8")
    refused(embed(api, [[1]] * 9), 413, "input")
    refused(rank(api, ["x"] * 9), 413, "documents")
    assert api.models.calls == []


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b'{"model": "text", "input": NaN}', "application/json", 400),
        (b'{"input": "\\ud800"}', "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"model": "text", "input": ' + b"[" * 500 + b"]" * 500 + b"}", "application/json", 422),
        (b"[1]", "application/json", 422),
        (b"null", "application/json", 422),
        (b'{"model": "text", "input": "x"}', "text/plain", 400),
        (b'{"model": "text", "input": "x"}', "application/json; charset=utf-8", 200),
        (b'{"model": "text", "input": "\\u0000x"}', "application/json", 200),
    ],
)
def test_a_body_that_is_no_json_object_is_told(api: Api, content: bytes, kind: str, status: int) -> None:
    answer = api.client.post("/v1/embeddings", content=content, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert status == 200 or answer.json()["error"]["message"]


class Slow(FakeModels):
    """Says how long it took; `failure` is raised instead of an answer."""

    failure: Exception | None = None

    async def embed_texts(self, items: Any, purpose: str) -> Embedded:
        if self.failure is not None:
            raise self.failure
        found = await super().embed_texts(items, purpose)
        return Embedded(found.vectors, found.tokens, Timing(0.25, 0.5))


def test_the_time_in_the_queue_and_in_the_model_goes_with_the_answer(db_url: str) -> None:
    with api_over(db_url, Slow()) as api:
        timing = embed(api, "x").headers["server-timing"]
    assert "queue;dur=250.0, model;dur=500.0" in timing


@pytest.mark.parametrize("failure", [BusyError("full"), UnavailableError("away")])
def test_a_model_that_is_full_or_away_says_when_to_come_back(db_url: str, failure: BusyError) -> None:
    models = Slow()
    models.failure = failure
    with api_over(db_url, models) as api:
        answer = embed(api, "x")
        assert (answer.status_code, answer.headers["retry-after"]) == (failure.status, "1")


def rank(api: Api, documents: Any, **more: Any) -> Any:
    return api.client.post("/v1/rerank", json={"query": "red bridge", "documents": documents, **more})


def test_the_best_passage_comes_first(api: Api) -> None:
    answer = rank(api, ["a river", {"text": "a red bridge"}, "the bridge"], model="fake-reranker")
    assert answer.json() == {
        "model": "fake-reranker",
        "results": [
            {"index": 1, "relevance_score": 2.0},
            {"index": 2, "relevance_score": 1.0},
            {"index": 0, "relevance_score": 0.0},
        ],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    best = rank(api, ["a river", "a red bridge"], top_n=1, return_documents=True).json()["results"]
    assert best == [{"index": 1, "relevance_score": 2.0, "document": {"text": "a red bridge"}}]
    alias = api.client.post("/rerank", json={"query": "x", "documents": ["x"], "top_n": 9})
    assert len(alias.json()["results"]) == 1


@pytest.mark.parametrize(
    ("more", "status", "param"),
    [
        ({"documents": []}, 422, "documents"),
        ({"documents": "x"}, 422, "documents"),
        ({"documents": None}, 422, "documents"),
        ({"documents": ["x", " "]}, 422, "documents[1]"),
        ({"documents": ["x", {"text": 5}]}, 422, "documents[1]"),
        ({"documents": ["x", {"title": "y"}]}, 422, "documents[1]"),
        ({"query": " "}, 422, "query"),
        ({"query": None}, 422, "query"),
        ({"top_n": 0}, 422, "top_n"),
        ({"top_n": True}, 422, "top_n"),
        ({"model": "fake-text"}, 422, "model"),
        ({"model": "other"}, 404, "model"),
        ({"max_chunks_per_doc": 1}, 422, "max_chunks_per_doc"),
    ],
)
def test_what_cannot_be_ranked_is_named(api: Api, more: dict[str, Any], status: int, param: str) -> None:
    refused(rank(api, **{"documents": ["x"], **more}), status, param)


def test_a_service_without_a_reranker_says_so(db_url: str) -> None:
    cards = [ModelCard("only-text", "text", "fake", "path:/secret/place", 8)]
    with api_over(db_url, FakeModels(cards)) as api:
        refused(rank(api, ["x"]), 404, "model", "there are none")


def test_models_are_listed_without_the_place_of_their_weights(db_url: str) -> None:
    cards = [
        ModelCard("org/name-v1", "text", "minilm", "path:/secret/place", 384, 256, "abc"),
        ModelCard("other", "transcriber", "whisper", "hub:other"),
    ]
    with api_over(db_url, FakeModels(cards)) as api:
        listed = api.client.get("/v1/models").json()
        assert [row["id"] for row in listed["data"]] == ["org/name-v1", "other"]
        assert "secret" not in json.dumps(listed)
        one = api.client.get("/v1/models/org/name-v1").json()
        assert one == listed["data"][0] == api.client.get("/v1/models/org%2Fname-v1").json()
        assert (one["object"], one["role"], one["dimension"], one["space_name"]) == ("model", "text", 384, "abc")
        assert api.client.get("/v1/models/transcriber").json()["id"] == "other"
        refused(api.client.get("/v1/models/nothing"), 404, "model")


def test_the_document_describes_the_bodies_that_are_read_by_hand(api: Api) -> None:
    paths = api.client.get("/openapi.json").json()["paths"]
    for path, fields in (("/v1/embeddings", {"input", "model"}), ("/v1/rerank", {"documents", "query"})):
        schema = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert set(schema["required"]) == fields
        assert "$ref" not in json.dumps(schema)
        assert "$ref" in paths[path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
