"""The engines: what they serve equals what the stages store, and a bad item costs only itself."""

from __future__ import annotations

import asyncio
import io
import threading
import time
import wave

import numpy as np
import pytest
from PIL import Image

from actors.images import Images
from actors.lanes import space_identities
from actors.rerank import Reranker
from actors.texts import Texts
from actors.tokens import tokenized
from cluster.db.spaces import space_name
from cluster.image_model import pixel_spec
from cluster.media.child import MediaChild
from cluster.media.query import query_pixels
from cluster.profiles import ModelChoice, choose
from cluster.settings import load_settings
from serve.engines import items as shared
from serve.engines import make
from serve.engines.base import PairIn, PictureIn, TextIn
from serve.engines.image import ImageEngine
from serve.engines.rerank import RerankEngine
from serve.engines.text import TextEngine
from serve.errors import UnavailableError
from tests.test_rerank import choice_of
from tests.test_rerank import weights as cross_encoder  # noqa: F401 - a fixture
from tests.tiny_clip import tiny_choice, tiny_clip
from tests.tiny_text_model import tiny_text_model

pytestmark = pytest.mark.timeout(120)
TEXT = "the mayor said that a new bridge would open in spring after internationalization 東京 naïve"


def sentences(count, longest=120, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(TEXT.split(), rng.integers(1, longest))) for _ in range(count)]


def served(engine, items):
    """The answers of one call, within a time that no honest call needs."""
    return asyncio.run(asyncio.wait_for(engine.run(items), 60))


def documents(texts):
    return [TextIn(text, "document") for text in texts]


@pytest.fixture(scope="module")
def minilm():
    engine = make.text_engine(load_settings(cpus=2))
    engine.load()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory):
    return tiny_text_model(tmp_path_factory.mktemp("models") / "tiny", dimension=32)


def tiny_engine(tiny_weights, **fields):
    choice = choose("text", "bundled", {"weights": f"path:{tiny_weights}", "dimension": 32, **fields}, {})
    return TextEngine(choice, "a space")


def test_text_vectors_are_those_that_are_stored(minilm):
    texts = [*sentences(12, longest=60), "a " * 2000]
    stored = minilm._texts
    answers = served(minilm, documents(texts))
    assert answers.values.dtype == np.float32
    np.testing.assert_allclose(answers.values, stored.embed_documents(texts), atol=1e-5)
    query = served(minilm, [TextIn(texts[0], "query")])
    np.testing.assert_allclose(query.values[0], stored.embed_query(texts[0]), atol=1e-5)
    assert answers.tokens[-1] == minilm.choice.max_tokens
    assert answers.tokens[:-1] == [min(256, stored.count_tokens(text)) for text in texts[:-1]]
    assert (answers.errors, answers.statuses) == ({}, {})
    assert answers.timing.model_s > 0


def test_tokens_in_one_call_give_the_vectors_of_the_texts(tiny_weights):
    texts = sentences(40, longest=300)
    stage = tiny_engine(tiny_weights, document_prefix="passage: ")._texts
    stage.load()
    calls = stage.calls
    vectors = stage.begin_tokens(stage.tokens(texts, "document"))()
    assert stage.calls == calls + 1
    np.testing.assert_allclose(vectors, stage.embed_documents(texts), atol=1e-5)
    stage._model.tokenizer.padding_side = "left"
    assert np.isfinite(stage.begin_tokens(stage.tokens(texts[:3], "document"))()).all()


def test_a_text_of_any_length_costs_no_more_than_what_is_kept_of_it(tiny_weights):
    """What lies beyond the limit changes nothing, and a tokenizer does not get to see most of it."""
    engine = tiny_engine(tiny_weights)
    engine.load()
    stage, seen = engine._texts, []
    tokenizer = stage._model.tokenizer

    class Watching:
        model_max_length = tokenizer.model_max_length

        def __call__(self, texts, *more, **options):
            seen.append(sum(map(len, [texts] if isinstance(texts, str) else texts)))
            return tokenizer(texts, *more, **options)

    words = "the mayor, naïve 東京 " * 2000
    for text in (words, "x" * 50_000 + " end", " " * 50_000 + words, "a" + " " * 3_000_000 + "b"):
        whole = tokenizer([text], truncation=True)["input_ids"][0]
        assert stage.tokens([text], "document")[0].ids == (whole if len(text) < 2**18 else whole[:2] + whole[-1:])
    tokenized(Watching(), ["%^& " * 500_000])
    assert sum(seen) < 20_000
    engine.close()


def test_token_ids_of_a_text_give_its_vector(tiny_weights):
    for fields in ({}, {"document_prefix": "passage: ", "query_prefix": "query: "}):
        engine = tiny_engine(tiny_weights, **fields)
        engine.load()
        ids = engine._texts._model.tokenizer("hello there", add_special_tokens=False)["input_ids"]
        for purpose in ("document", "query"):
            by_ids, by_text = served(engine, [TextIn(ids, purpose), TextIn("hello there", purpose)]).values
            np.testing.assert_allclose(by_ids, by_text, atol=1e-6)
        engine.close()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("half \ud83d of it", "surrogate"),
        ([], "empty"),
        ([1, -1], "from 0 to 30521"),
        ([30522], "from 0 to 30521"),
        ([True], "from 0 to 30521"),
        ([1] * 255, "255 token ids are more than the 254"),
    ],
)
def test_an_item_that_no_model_can_take_costs_only_itself(minilm, content, reason):
    answers = served(minilm, documents(["first", content, "last"]))
    assert answers.statuses == {1: 422}
    assert reason in answers.errors[1]
    assert np.isnan(answers.values[1]).all()
    np.testing.assert_allclose(np.linalg.norm(answers.values[[0, 2]], axis=1), 1, atol=1e-6)


def test_odd_texts_are_only_texts(minilm):
    odd = ["\x00", "\ufeff", "\u202e", "a" * 100_000, "🦆" * 500, "\r\n.", "{}[]", "\x1b[31m"]
    answers = served(minilm, documents([*odd, *([""] * 3)]))
    assert set(answers.statuses) == {8, 9, 10}
    assert np.isfinite(answers.values[:8]).all()


def test_long_lists_are_prepared_while_the_device_works_and_keep_their_order(tiny_weights, monkeypatch):
    monkeypatch.setattr(shared, "INLINE_BYTES", 0)
    engine = tiny_engine(tiny_weights)
    engine.load()
    texts = [*sentences(300, longest=12), "", *sentences(299, longest=12, seed=1)]
    answers = served(engine, documents(texts))
    assert set(answers.errors) == {300}
    np.testing.assert_allclose(
        np.delete(answers.values, 300, 0), engine._texts.embed_documents([text for text in texts if text]), atol=1e-5
    )
    assert engine.batcher.counts.items == 599
    assert served(engine, []).values.shape == (0, 32)
    engine.close()


def test_requests_share_batches_and_each_gets_its_own(tiny_weights):
    engine = tiny_engine(tiny_weights)
    engine.load()
    texts = sentences(60, longest=12)

    async def all_at_once():
        return await asyncio.gather(*(engine.run(documents([text])) for text in texts))

    answers = asyncio.run(all_at_once())
    np.testing.assert_allclose(
        np.concatenate([one.values for one in answers]), engine._texts.embed_documents(texts), atol=1e-5
    )
    assert engine.batcher.counts.batches < len(texts) / 2
    engine.close()


def test_a_model_that_fails_on_one_text_serves_the_others(tiny_weights, monkeypatch):
    engine = tiny_engine(tiny_weights)
    engine.load()
    bad = engine._texts.tokens(["bad luck"], "document")[0].ids
    begin = Texts.begin_tokens

    def fussy(self, tokens):
        if any(one.ids == bad for one in tokens):
            raise ValueError("no such luck")
        return begin(self, tokens)

    monkeypatch.setattr(Texts, "begin_tokens", fussy)
    engine = TextEngine(engine.choice, "a space")
    answers = served(engine, documents(["one", "bad luck", "two"]))
    assert answers.statuses == {1: 500}
    assert "no such luck" in answers.errors[1]
    assert np.isfinite(answers.values[[0, 2]]).all()
    engine.close()


def test_numbers_that_are_none_are_served_to_nobody(tiny_weights, monkeypatch):
    engine = tiny_engine(tiny_weights)
    engine.load()
    bad = engine._texts.tokens(["bad luck"], "document")[0].ids
    begin = Texts.begin_tokens

    def overflowing(self, tokens):
        vectors = begin(self, tokens)()
        vectors[[one.ids == bad for one in tokens], 1] = np.nan
        return lambda: vectors

    monkeypatch.setattr(Texts, "begin_tokens", overflowing)
    engine = TextEngine(engine.choice, "a space")
    answers = served(engine, documents(["one", "bad luck", "two"]))
    assert answers.statuses == {1: 500}
    assert np.isfinite(answers.values[[0, 2]]).all()
    engine.close()


def rested(engine):
    """The engine once its device thread has seen that nothing is left to do, a moment after it has answered."""
    while engine.batcher.alive and engine.batcher.busy_since_s is not None:
        time.sleep(0.001)
    return engine


def test_health_is_a_real_forward_unless_one_was_of_late(tiny_weights):
    engine = tiny_engine(tiny_weights)
    engine.load()
    asyncio.run(rested(engine).check())
    asyncio.run(rested(engine).check())
    assert engine.batcher.counts.batches == 1
    engine.batcher.last_good_s -= 2 * shared.FRESH_S
    asyncio.run(rested(engine).check())
    assert engine.batcher.counts.batches == 2

    def broken(tokens):
        raise RuntimeError(message)

    engine.batcher._run = broken
    engine.batcher.last_good_s -= 2 * shared.FRESH_S
    message = "wrong shape"
    with pytest.raises(RuntimeError, match="wrong shape"):
        asyncio.run(rested(engine).check())
    message = "CUDA error: unspecified launch failure"
    for _ in range(2):
        with pytest.raises(UnavailableError, match="unspecified launch failure"):
            asyncio.run(rested(engine).check())
    with pytest.raises(UnavailableError):
        served(engine, documents(["hello"]))
    with pytest.raises(UnavailableError):
        served(engine, documents([""]))


def test_a_device_at_work_is_not_asked_to_wait_for_its_own_queue(tiny_weights):
    engine = tiny_engine(tiny_weights)
    engine.load()
    begun, finish, real = threading.Event(), threading.Event(), engine.batcher._run

    def slow(tokens):
        begun.set()
        assert finish.wait(60)
        return real(tokens)

    async def work():
        engine.batcher._run = slow
        asked = asyncio.ensure_future(engine.run(documents(["hello"])))
        await asyncio.to_thread(begun.wait, 60)
        await asyncio.wait_for(engine.check(), 20)
        engine.batcher.busy_since_s -= 2 * shared.LONGEST_WORK_S
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(engine.check(), 0.05)
        finish.set()
        assert (await asked).errors == {}

    asyncio.run(asyncio.wait_for(work(), 60))
    engine.close()


def jpeg(colour, size=(90, 60)):
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").point(lambda value: value * colour // 255).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    engine = ImageEngine(tiny_choice(tiny_clip(tmp_path_factory.mktemp("clip"))), "a space")
    engine.load()
    yield engine
    engine.close()


def test_image_vectors_are_those_of_the_stage_for_pictures_and_words(clip, tmp_path):
    stage, child = Images(clip.choice), MediaChild(2**30)
    files = [jpeg(colour) for colour in (80, 160, 255)]
    pixels = []
    for number, content in enumerate(files):
        (tmp_path / f"{number}.jpg").write_bytes(content)
        pixels.append(query_pixels(child, tmp_path / f"{number}.jpg", pixel_spec(clip.choice)))
    child.close()
    answers = served(clip, [PictureIn(files[0]), PictureIn("a duck"), PictureIn(files[1]), PictureIn(files[2])])
    assert answers.errors == {}
    np.testing.assert_allclose(answers.values[[0, 2, 3]], stage.embed_pictures(pixels), atol=1e-5)
    np.testing.assert_allclose(answers.values[1], stage.embed_query("a duck"), atol=1e-5)


def sound():
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 16_000, 0, "NONE", None))
        writer.writeframes(bytes(32_000))
    return file.getvalue()


def test_an_unreadable_picture_is_told_with_the_readers_reason(clip):
    bad = [b"", b"no picture", jpeg(255)[:300], sound()]
    answers = served(clip, [PictureIn(jpeg(200)), *map(PictureIn, bad), PictureIn(" "), PictureIn(jpeg(90))])
    assert answers.statuses == dict.fromkeys(range(1, 6), 422)
    assert all("/tmp" not in said for said in answers.errors.values())
    assert answers.errors[1] == "it cannot be read as a picture: the file is empty"
    assert answers.errors[4] == "it cannot be read as a picture: it holds audio and is no picture"
    assert np.isfinite(answers.values[[0, 6]]).all()
    asyncio.run(clip.check())


def test_scores_are_those_of_the_reranker(cross_encoder):  # noqa: F811
    engine = RerankEngine(choice_of(cross_encoder, max_tokens=32))
    engine.load()
    passages = sentences(30, longest=60)
    query = "what did the mayor say"
    answers = served(engine, [PairIn(query, passage) for passage in [*passages, "\ud800", " "]])
    np.testing.assert_allclose(answers.values[:-2, 0], Reranker(engine.choice).score(query, passages), atol=1e-5)
    assert answers.values.shape == (32, 1)
    assert answers.statuses == {30: 422, 31: 422}
    assert answers.errors[31] == "the passage is empty"
    assert max(answers.tokens) == 32
    assert served(engine, [PairIn("", "a")]).errors == {0: "the query is empty"}
    asyncio.run(engine.check())
    engine.close()


def test_the_engines_of_a_profile(tiny_weights, tmp_path, monkeypatch):
    settings = load_settings()
    assert make.engine("image", settings) is None
    assert make.engine("reranker", settings) is None
    (card,) = make.text_engine(settings).cards()
    choice, identity = space_identities(settings)["text"]
    assert card.space_name == space_name("text", choice, identity)
    assert (card.role, card.dimension, card.max_tokens) == ("text", 384, 256)
    checkpoint = tiny_clip(tmp_path)
    settings = load_settings(
        image={"weights": f"path:{checkpoint}", "architecture": str(tmp_path / "tiny.json"), "dimension": 32,
               "image_size": 32},
        reranker={"weights": f"path:{tiny_weights}"},
    )  # fmt: skip
    image, reranker = make.image_engine(settings), make.rerank_engine(settings)
    assert image.cards()[0].space_name == make.name_of_space(settings, "image")
    assert reranker.cards()[0].dimension is None
    assert isinstance(reranker.choice, ModelChoice)


def test_the_batcher_costs_next_to_nothing_over_the_raw_model(minilm):
    """The raw model gets its batches as they come; sorting by length usually makes the way through it the faster."""
    texts = sentences(256, longest=16)
    stage = minilm._texts

    def through():
        asyncio.run(minilm.run(documents(texts)))

    def raw():
        for start in range(0, len(texts), 32):
            stage.embed_documents(texts[start : start + 32])

    def wall_s(call):
        began_s = time.perf_counter()
        call()
        return time.perf_counter() - began_s

    rounds = [(wall_s(through), wall_s(raw)) for _ in range(3)]
    assert min(ours for ours, _ in rounds) <= 1.35 * min(theirs for _, theirs in rounds)
