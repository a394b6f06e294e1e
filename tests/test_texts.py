"""The text stage: chunks of segments with unit vectors, and the query side of the same model."""

from __future__ import annotations

import socket

import numpy as np
import pytest

from actors.texts import Texts
from cluster.conversation import Turn, Word, segments_from_turns
from cluster.errors import RushesError
from cluster.profiles import choose
from cluster.stage import run_stage
from cluster.types import COLUMNS, rows_table, with_column
from tests.tiny_text_model import tiny_text_model


def segments(*texts):
    turns = [Turn(10_000 * at, 10_000 * at + 1_000, 0) for at in range(len(texts))]
    words = [
        Word(10_000 * at + place, 10_000 * at + place + 1, word, 0.9)
        for at, text in enumerate(texts)
        for place, word in enumerate(text.split())
    ]
    return [segment.to_row() for segment in segments_from_turns(turns, words)]


def table(*assets):
    rows = rows_table([{"asset_id": at, "lanes": ["texts"]} for at in range(len(assets))])
    return with_column(rows, "segments", list(assets))


@pytest.fixture(scope="module")
def texts():
    stage = Texts(choose("text", "bundled", {}, {}))
    stage.load()
    return stage


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory):
    return tiny_text_model(tmp_path_factory.mktemp("models") / "tiny", dimension=32)


def tiny(tiny_path, **overrides):
    values = {"weights": str(tiny_path), "dimension": 32, **overrides}
    return Texts(choose("text", "bundled", values, {}))


def test_chunks_are_vectors_of_their_text_in_one_call(texts):
    calls = texts.calls
    out = run_stage(texts, table(segments("the dog barks at night", "", "taxes are due in april")))
    chunks = out["chunks"][0].as_py()

    assert out["error"][0].as_py() is None
    assert texts.calls == calls + 1
    assert [chunk["text"] for chunk in chunks] == ["the dog barks at night", "taxes are due in april"]
    assert [(chunk["first_segment"], chunk["last_segment"]) for chunk in chunks] == [(0, 0), (2, 2)]
    assert out.schema.field("chunks").type == COLUMNS["chunks"]
    vectors = np.array([chunk["vector"] for chunk in chunks], np.float32)
    np.testing.assert_allclose(vectors, texts.embed_documents([chunk["text"] for chunk in chunks]), atol=1e-6)
    assert out["segments"].equals(table(segments("the dog barks at night", "", "taxes are due in april"))["segments"])


def test_vectors_are_unit_float32_and_do_not_depend_on_the_batch(texts):
    sentences = ["a dog", "a much longer sentence about the taxes of the year before " * 4, "why"]
    vectors = texts.embed_documents(sentences)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    alone = np.stack([texts.embed_documents([sentence])[0] for sentence in sentences])
    np.testing.assert_allclose(vectors, alone, atol=1e-5)


def test_a_query_finds_the_right_text(texts):
    documents = texts.embed_documents(["the dog barks at night", "taxes are due in april"])
    query = texts.embed_query("when must I pay my taxes?")
    assert query.shape == (384,)
    assert np.argmax(documents @ query) == 1


def test_no_words_no_call(texts):
    calls = texts.calls
    out = run_stage(texts, table(segments("", ""), []))
    assert out["chunks"].to_pylist() == [[], []]
    assert texts.calls == calls
    assert texts.embed_documents([]).shape == (0, 384)


def test_null_segments_are_an_error_of_their_row(texts):
    out = run_stage(texts, table(segments("hello there"), None))
    assert [len(row or ()) for row in out["chunks"].to_pylist()] == [1, 0]
    assert out["error"][0].as_py() is None
    assert "no segments" in out["error"][1].as_py()["message"]


def test_chunks_stay_within_the_token_limit(texts):
    out = run_stage(texts, table(segments("internationalization " * 200)))
    chunks = out["chunks"][0].as_py()
    assert len(chunks) > 1
    assert all(texts.count_tokens(chunk["text"]) <= 256 for chunk in chunks)
    assert " ".join(chunk["text"] for chunk in chunks).split() == ["internationalization"] * 200
    assert {(chunk["first_segment"], chunk["last_segment"]) for chunk in chunks} == {(0, 0)}


def test_another_dimension_from_a_path_with_prefixes(tiny_path):
    stage = tiny(tiny_path, query_prefix="query: ", document_prefix="passage: ", max_tokens=64)
    document, query = stage.embed_documents(["hello"])[0], stage.embed_query("hello")
    plain = tiny(tiny_path)
    assert document.shape == query.shape == (32,)
    np.testing.assert_allclose(document, plain.embed_documents(["passage: hello"])[0], atol=1e-6)
    np.testing.assert_allclose(query, plain.embed_query("query: hello"), atol=1e-6)
    assert stage.count_tokens("hello") == plain.count_tokens("passage: hello")
    assert not np.allclose(document, query, atol=1e-3)


def test_the_tiny_model_is_the_same_for_the_same_seed(tiny_path, tmp_path):
    again = tiny_text_model(tmp_path / "again", dimension=32)
    assert tiny(tiny_path).identity()["weights"] == tiny(again).identity()["weights"]


def test_a_wrong_dimension_names_both_and_the_way_out(tiny_path):
    with pytest.raises(RushesError, match=r"32 dimensions.* 384.*RUSHES_TEXT_DIMENSION=32"):
        tiny(tiny_path, dimension=384).load()


def test_more_tokens_than_the_model_reads(tiny_path):
    with pytest.raises(RushesError, match=r"512 tokens.* 513.*RUSHES_TEXT_MAX_TOKENS=512"):
        tiny(tiny_path, max_tokens=513).load()


@pytest.mark.parametrize(("field", "value"), [("precision", "int8"), ("engine", "ollama")])
def test_what_the_stage_cannot_do_is_an_error(tiny_path, field, value):
    with pytest.raises(RushesError, match=f"{value}.*RUSHES_TEXT_{field.upper()}"):
        tiny(tiny_path, **{field: value}).load()


def test_half_precision_weights_still_give_unit_float32(tiny_path):
    stage = tiny(tiny_path)
    stage.load()
    exact = stage.embed_documents(["hello there", "why"])
    stage._model.bfloat16()
    vectors = stage.embed_documents(["hello there", "why"])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors, exact, atol=0.05)


def test_identity_loads_nothing_and_covers_what_changes_vectors(tiny_path):
    stage = tiny(tiny_path)
    identity = stage.identity()
    assert stage._model is None
    assert identity["weights"].startswith("sha256:")
    for name, value in {"max_tokens": 99, "document_prefix": "d: ", "query_prefix": "q: "}.items():
        assert tiny(tiny_path, **{name: value}).identity() != identity
    assert tiny(tiny_path, batch_size=3).identity() == identity


def test_loading_touches_no_network(tiny_path, monkeypatch):
    def refuse(*arguments, **_):
        raise AssertionError(f"network access: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    stage = tiny(tiny_path)
    stage.load()
    stage.load()
    assert stage.embed_query("hello").shape == (32,)
    stage.close()
    stage.close()
