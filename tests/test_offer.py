"""What the routes ask of models: admission, errors that name the item, and cancellation that reaches the batcher."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from cluster.errors import RushesError
from cluster.settings import load_settings
from serve.engines.base import Answers, PairIn, PictureIn, TextIn
from serve.errors import ApiError, BusyError, InvalidError, TooLargeError, UnavailableError
from serve.local import local_models
from serve.models import Heard, HearRequest, ModelCard, Timing
from serve.offer import Offer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
CARD = ModelCard("fake", "text", "fake", "path:/fake", 4)


class Caller:
    """Answers with ones, when it is let; says what the test tells it to say."""

    def __init__(self, errors=None, dimension=4):
        self.items, self.cancelled, self.go = [], 0, asyncio.Event()
        self.go.set()
        self._errors, self._dimension = errors or {}, dimension

    async def __call__(self, items):
        self.items.append(list(items))
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Answers(
            np.ones((len(items), self._dimension), np.float32),
            [3] * len(items),
            {number: said for number, (_, said) in self._errors.items()},
            {number: status for number, (status, _) in self._errors.items()},
            Timing(0.1, 0.2),
        )


async def no_troubles():
    return {}


def offer_of(role="text", caller=None, hear=None, troubles=no_troubles, **limits):
    caller = caller or Caller()
    return Offer(load_settings(serve=limits), [CARD], {role: caller}, hear, troubles), caller


async def test_calls_become_items_and_answers_become_what_routes_want():
    offer, caller = offer_of()
    embedded = await offer.embed_texts(["a", [1, 2]], "query")
    assert caller.items == [[TextIn("a", "query"), TextIn([1, 2], "query")]]
    assert (embedded.vectors.shape, embedded.tokens, embedded.timing) == ((2, 4), [3, 3], Timing(0.1, 0.2))
    offer, caller = offer_of("image")
    assert (await offer.embed_pictures([b"x"])).vectors.shape == (1, 4)
    assert (await offer.embed_words_of_pictures(["a duck"])).tokens == [3]
    assert caller.items == [[PictureIn(b"x")], [PictureIn("a duck")]]
    offer, caller = offer_of("reranker", Caller(dimension=1))
    scored = await offer.rerank("q", ["a", "b"])
    assert (scored.scores.shape, caller.items) == ((2,), [[PairIn("q", "a"), PairIn("q", "b")]])
    assert offer.cards() == [CARD]


async def test_an_item_that_cannot_be_taken_is_named_and_comes_before_a_failure():
    offer, _ = offer_of(caller=Caller({1: (500, "it broke"), 3: (422, "it is empty"), 5: (422, "later")}))
    with pytest.raises(InvalidError, match=r"input\[3\]: it is empty") as told:
        await offer.embed_texts(list("abcdef"), "query")
    assert (told.value.param, told.value.status) == ("input[3]", 422)
    offer, _ = offer_of(caller=Caller({1: (500, "it broke")}))
    with pytest.raises(ApiError, match=r"input\[1\]: it broke") as told:
        await offer.embed_texts(["a", "b"], "query")
    assert (told.value.status, told.value.code) == (500, "model_failed")
    offer, _ = offer_of("reranker", Caller({0: (422, "the passage is empty")}, 1))
    with pytest.raises(InvalidError) as told:
        await offer.rerank("q", ["", "b"])
    assert told.value.param == "documents[0]"


async def test_what_is_over_the_limit_is_told_at_once_and_what_is_over_lets_others_in():
    offer, caller = offer_of(in_flight=4, max_items=6)
    caller.go.clear()
    first = asyncio.ensure_future(offer.embed_texts(["a"] * 3, "query"))
    await asyncio.sleep(0)
    with pytest.raises(BusyError, match="3 items in flight and takes 4: 2 more") as told:
        await offer.embed_texts(["b"] * 2, "query")
    assert (told.value.status, told.value.headers) == (429, {"retry-after": "1"})
    second = asyncio.ensure_future(offer.embed_texts(["c"], "query"))
    await asyncio.sleep(0)
    caller.go.set()
    await asyncio.gather(first, second)
    assert len(caller.items) == 2
    assert (await offer.embed_texts(["d"] * 6, "query")).tokens == [3] * 6
    with pytest.raises(TooLargeError, match="7 items are more than the 6"):
        await offer.embed_texts(["d"] * 7, "query")


async def test_a_long_list_comes_in_only_when_nothing_else_is_there():
    offer, caller = offer_of(in_flight=4, max_items=10)
    caller.go.clear()
    first = asyncio.ensure_future(offer.embed_texts(["a"] * 8, "query"))
    await asyncio.sleep(0)
    with pytest.raises(BusyError):
        await offer.embed_texts(["b"], "query")
    caller.go.set()
    await first
    await offer.embed_texts(["b"], "query")


async def test_a_caller_that_goes_takes_its_items_along_and_makes_room():
    offer, caller = offer_of(in_flight=2)
    caller.go.clear()
    gone = asyncio.ensure_future(offer.embed_texts(["a", "b"], "query"))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert caller.cancelled == 1
    caller.go.set()
    assert (await offer.embed_texts(["c", "d"], "query")).tokens == [3, 3]


async def test_a_failed_call_makes_room_too():
    async def broken(items):
        raise UnavailableError("away")

    offer, _ = offer_of(caller=broken, in_flight=1)
    for _ in range(3):
        with pytest.raises(UnavailableError, match="away"):
            await offer.embed_texts(["a"], "query")


async def test_a_role_that_is_not_on_offer_says_what_brings_it():
    offer, _ = offer_of(models=("text", "image"))
    for call, words in (
        (offer.embed_pictures([b"x"]), "RUSHES_IMAGE_PROFILE=speed"),
        (offer.embed_words_of_pictures(["x"]), "RUSHES_IMAGE_WEIGHTS"),
        (offer.rerank("q", ["a"]), "add reranker to RUSHES_SERVE_MODELS"),
        (offer.hear("/x", HearRequest(frozenset({"words"}))), "add audio to RUSHES_SERVE_MODELS"),
    ):
        with pytest.raises(UnavailableError, match=words) as told:
            await call
        assert (told.value.status, told.value.code) == (503, "model_not_offered")


async def test_recordings_and_troubles_are_passed_on():
    async def hear(path, asked):
        assert (path, asked.steps) == ("/x.wav", {"words"})
        return Heard(duration_ms=5)

    async def troubles():
        return {"text": "broken"}

    offer, _ = offer_of(hear=hear, troubles=troubles)
    assert (await offer.hear("/x.wav", HearRequest(frozenset({"words"})))).duration_ms == 5
    assert await offer.troubles() == {"text": "broken"}


async def test_models_of_this_process_answer_and_tell_what_is_wrong():
    models = local_models(load_settings(cpus=2), ["text", "image"])
    assert [card.role for card in models.cards()] == ["text"]
    embedded = await models.embed_texts(["the dog barks", "taxes are due"], "document")
    query = await models.embed_texts(["when do I pay my taxes?"], "query")
    assert np.argmax(embedded.vectors @ query.vectors[0]) == 1
    assert await models.troubles() == {}
    models.close()
    assert "text" in await models.troubles()
    with pytest.raises(UnavailableError):
        await models.embed_texts(["a"], "query")


def test_no_model_at_all_is_an_error():
    with pytest.raises(RushesError, match="'bundled' has no model for image"):
        local_models(load_settings(), ["image"])
