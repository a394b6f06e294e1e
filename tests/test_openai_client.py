"""The official `openai` client, unchanged, against the service: answers and errors as it knows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest

from actors.texts import Texts
from cluster.settings import load_settings
from serve.errors import ApiError, BusyError, UnavailableError
from serve.local import local_models
from tests.api_client import Api, api_over
from tests.fake_models import FakeModels, vector_of


class Refusing(FakeModels):
    """Raises `failure` instead of answering."""

    failure: Exception | None = None

    async def embed_texts(self, items: Any, purpose: str) -> Any:
        if self.failure is not None:
            raise self.failure
        return await super().embed_texts(items, purpose)


@pytest.fixture
def api(db_url: str) -> Iterator[Api]:
    with api_over(db_url, Refusing(), serve={"max_items": 8}) as found:
        yield found


def client_of(api: Api, key: str | None = None) -> openai.OpenAI:
    """The client, over the test's transport instead of a socket."""
    key = key or api.headers("read")["authorization"].removeprefix("Bearer ")
    return openai.OpenAI(api_key=key, base_url="http://127.0.0.1/v1", http_client=api.client, max_retries=0)


@pytest.fixture
def client(api: Api) -> openai.OpenAI:
    return client_of(api)


def test_a_text_a_list_and_token_ids_come_back_as_the_client_decodes_them(client: openai.OpenAI) -> None:
    given: list[Any] = ["one text", ["a", "b"], [1, 2, 3], [[1], [2, 3]]]
    for one in given:
        items = one if isinstance(one, list) and not isinstance(one[0], int) else [one]
        expected = [vector_of(str(item)) for item in items]
        # By itself the client asks for base64 and decodes it.
        by_default = client.embeddings.create(model="text", input=one)
        in_floats = client.embeddings.create(model="text", input=one, encoding_format="float")
        for found in (by_default, in_floats):
            assert found.model == "fake-text"
            assert [row.index for row in found.data] == list(range(len(items)))
            assert np.allclose([row.embedding for row in found.data], expected, atol=1e-6)
            assert found.usage.total_tokens > 0


def test_the_query_side_is_reached_by_an_extra_field(api: Api, client: openai.OpenAI) -> None:
    client.embeddings.create(model="text", input="x", user="me", extra_body={"input_type": "query"})
    assert api.models.calls == [("embed_texts", (["x"], "query"))]


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    listed = client.models.list().data
    assert listed[0].id == "fake-text"
    assert client.models.retrieve("fake-text").created == listed[0].created > 0


@pytest.mark.parametrize(
    ("more", "kind", "param"),
    [
        ({"model": "text-embedding-3-large"}, openai.NotFoundError, "model"),
        ({"input": ["x", ""]}, openai.UnprocessableEntityError, "input[1]"),
        ({"input": ["x", "BAD"]}, openai.UnprocessableEntityError, "input[1]"),
        ({"dimensions": 256}, openai.UnprocessableEntityError, "dimensions"),
        ({"input": ["x"] * 9}, openai.APIStatusError, "input"),
    ],
)
def test_a_mistake_arrives_as_the_error_the_client_has_for_it(
    client: openai.OpenAI, more: dict[str, Any], kind: type[openai.APIStatusError], param: str
) -> None:
    with pytest.raises(kind) as caught:
        client.embeddings.create(**{"model": "text", "input": "x", **more})
    assert caught.value.param == param
    assert caught.value.request_id


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (BusyError("full"), openai.RateLimitError),
        (UnavailableError("away"), openai.InternalServerError),
        (ApiError("no"), openai.InternalServerError),
    ],
)
def test_a_service_that_cannot_now_arrives_as_what_the_client_retries(
    api: Api, client: openai.OpenAI, failure: ApiError, kind: type[openai.APIStatusError]
) -> None:
    api.models.failure = failure
    with pytest.raises(kind) as caught:
        client.embeddings.create(model="text", input="x")
    assert caught.value.status_code == failure.status
    assert caught.value.response.headers.get("retry-after") == ("1" if isinstance(failure, BusyError) else None)


def test_a_key_that_opens_nothing_arrives_as_an_authentication_error(db_url: str) -> None:
    with api_over(db_url, serve={"host": "0.0.0.0"}) as api:
        client_of(api).embeddings.create(model="text", input="x")
        with pytest.raises(openai.AuthenticationError):
            client_of(api, "rushes-unknown").embeddings.create(model="text", input="x")


def test_the_packaged_model_is_served_as_the_library_computes_it(db_url: str) -> None:
    settings = load_settings(serve={"models": "text"})
    models = local_models(settings)
    texts = ["A red bridge over the river.", "Wer spricht hier?", "x " * 900]
    try:
        with api_over(db_url, models) as api:
            api.service.meter.watch("text", models.engines["text"].batcher)
            client = client_of(api)
            listed = {model.id: model for model in client.models.list().data}
            [model_id] = listed
            found = client.embeddings.create(model=model_id, input=texts)
            [alone] = client.embeddings.create(model="text", input=texts[0], encoding_format="float").data
            counted = api.client.get("/metrics").text
    finally:
        models.close()
    served = np.asarray([row.embedding for row in found.data])
    assert served.shape == (3, settings.model_choice("text").dimension)
    stage = Texts(settings.model_choice("text"))
    stage.load()
    assert np.allclose(served, stage.embed_documents(texts), atol=1e-4)
    assert np.allclose(served[0], alone.embedding, atol=1e-4)
    assert 'rushes_model_items_total{role="text"} 4.0' in counted
