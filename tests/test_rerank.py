"""The reranker orders the first hits; it is off until a profile or a setting names it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.lanes import fingerprints
from actors.rerank import Reranker
from cluster.errors import RushesError, UsageError
from cluster.profiles import ModelChoice
from cluster.settings import load_settings
from cluster.weights import locate
from jobs.cli import search as search_command
from tests.stored import reembed_quietly, settings_of, store
from tests.test_cli import rushes
from tests.tiny_text_model import VOCABULARY, tiny_text_model


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A one-layer cross-encoder with random weights."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("reranker")
    config = BertConfig(
        hidden_size=32, intermediate_size=64, num_attention_heads=4, num_hidden_layers=1, num_labels=1,
        initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizerFast.from_pretrained(locate(VOCABULARY), local_files_only=True).save_pretrained(folder)
    return folder


def choice_of(weights, **fields):
    choice = ModelChoice("reranker", "test", "cross-encoder", f"path:{weights}", max_tokens=128)
    return replace(choice, **fields)


def test_scores_are_float32_one_per_passage_and_independent_of_the_batch(weights):
    passages = [f"talk number {number} " + "and more " * number for number in range(7)]
    found = []
    for size in (1, 3, 32):
        reranker = Reranker(choice_of(weights, batch_size=size))
        reranker.load()
        found.append(reranker.score("what was said", passages))
        reranker.close()
    assert (found[0].dtype, found[0].shape) == (np.float32, (7,))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    np.testing.assert_allclose(found[0], found[2], atol=1e-5)
    assert np.ptp(found[0]) > 1e-3
    assert Reranker(choice_of(weights)).score("nothing to score loads no model", []).shape == (0,)


def test_a_full_device_halves_the_batch_and_says_whose_setting_helps(weights, monkeypatch):
    reranker, sizes = Reranker(choice_of(weights, batch_size=8)), []
    predict = Reranker._predict

    def small(self, pairs, batch_size):
        sizes.append(batch_size)
        if batch_size > limit:
            raise RuntimeError("CUDA out of memory")
        return predict(self, pairs, batch_size)

    monkeypatch.setattr(Reranker, "_predict", small)
    limit = 2
    assert reranker.score("q", ["a"] * 8).shape == (8,)
    assert (sizes, reranker.halvings) == ([8, 4, 2], 2)
    limit = 0
    with pytest.raises(MemoryError, match="RUSHES_RERANKER_WEIGHTS"):
        reranker.score("q", ["a"] * 8)


def test_the_role_is_off_until_it_is_named(weights, monkeypatch):
    settings = load_settings()
    assert settings.optional_choice("reranker") is None
    with pytest.raises(UsageError, match=r"profile 'bundled' has no reranker: set RUSHES_RERANKER_WEIGHTS"):
        settings.model_choice("reranker")
    before = fingerprints(settings)
    monkeypatch.setenv("RUSHES_RERANKER_WEIGHTS", f"path:{weights}")
    choice = load_settings().model_choice("reranker")
    assert (choice.engine, choice.weights) == ("cross-encoder", f"path:{weights}")
    assert fingerprints(load_settings()) == before
    monkeypatch.delenv("RUSHES_RERANKER_WEIGHTS")
    monkeypatch.setenv("RUSHES_RERANKER_PROFILE", "speed")
    assert load_settings().model_choice("reranker").weights.startswith("hub:cross-encoder/ms-marco")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"engine": "colbert"}, "RUSHES_RERANKER_ENGINE to cross-encoder"),
        ({"precision": "int8"}, "RUSHES_RERANKER_PRECISION"),
        ({"weights": "path:/no/such/folder"}, "no weights at /no/such/folder"),
    ],
)
def test_what_it_cannot_do_is_said(weights, fields, words):
    with pytest.raises(RushesError, match=words):
        Reranker(replace(choice_of(weights), **fields)).load()


def test_a_folder_that_holds_no_cross_encoder_is_refused(tmp_path):
    tiny_text_model(tmp_path / "tiny", 16)
    (tmp_path / "empty").mkdir()
    for name, words in (("tiny", "it is a BertModel"), ("empty", "Unrecognized model")):
        with pytest.raises(RushesError, match=f"does not load as a cross-encoder: .*{words}"):
            Reranker(ModelChoice("reranker", "own", "cross-encoder", f"path:{tmp_path / name}")).load()


def test_a_search_is_ordered_by_the_reranker(db, db_url, weights, tmp_path, monkeypatch):
    store(db, 6)
    model = tiny_text_model(tmp_path / "tiny", 16)
    reembed_quietly(settings_of(db_url, model, 16))
    plain = search_command.find(db, "talk a4", None, 6).hits
    first = search_command.find_reranked(db, "talk a4", None, 3, choice_of(weights)).hits
    scores = Reranker(choice_of(weights)).score("talk a4", [hit.text for hit in plain])
    best = [plain[number].text for number in np.argsort(-scores, kind="stable")[:3]]
    assert [hit.text for hit in first] == best
    assert [hit.rerank_score for hit in first] == pytest.approx(sorted(scores, reverse=True)[:3], abs=1e-5)
    assert "reranked" in search_command.hit_lines(first)[0]
    assert "reranked" not in search_command.hit_lines(plain)[0]


def test_the_command_reranks_or_says_what_is_missing(db, db_url, weights, tmp_path):
    refused = rushes("search", "talk", "--rerank", url=db_url)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "RUSHES_RERANKER_WEIGHTS" in refused.stderr
    store(db, 2)
    reembed_quietly(settings_of(db_url, tiny_text_model(Path(tmp_path) / "tiny", 16), 16))
    done = rushes("search", "talk", "--rerank", "--json", url=db_url, RUSHES_RERANKER_WEIGHTS=f"path:{weights}")
    scores = [hit["rerank_score"] for hit in json.loads(done.stdout)]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)
