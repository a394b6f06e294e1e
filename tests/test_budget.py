"""A batch that does not fit the device is halved, the smaller size is remembered, and results stay the same."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest

from actors.budget import Budget
from actors.diarize import Diarize
from actors.ge2e import Ge2eEncoder
from actors.pyannote_models import PyannoteVoices
from actors.speech_activity import SpeechActivity
from actors.texts import Texts
from actors.transcribe import Transcribe
from actors.voices import Voices
from cluster.errors import FailureClass, classify, out_of_memory
from cluster.profiles import ModelChoice
from cluster.settings import load_settings
from cluster.stage import run_stage
from cluster.types import audio_array, rows_table, with_column
from tests.archive import read_call
from tests.pyannote_fixture import build_pipeline

CUDA = "CUDA failed with error out of memory"


def holding(most, error=CUDA):
    """A device that holds `most` items and notes what was asked of it."""
    asked = []

    def call(size):
        asked.append(size)
        if size > most:
            raise RuntimeError(error)
        return size

    return call, asked


def test_the_size_is_halved_until_it_fits_and_remembered():
    budget, (call, asked) = Budget("texts", 32, "text"), holding(5)
    assert [budget.run(call), budget.run(call)] == [4, 4]
    assert asked == [32, 16, 8, 4, 4]
    assert (budget.size, budget.halvings) == (4, 3)


def test_what_was_in_the_call_is_halved_not_what_it_might_have_held(caplog):
    budget, (call, asked) = Budget("transcribe", 32, "window"), holding(2)
    assert budget.run(call, most=5) == 2
    assert asked == [5, 2]
    assert (budget.size, budget.halvings) == (2, 1)
    assert [record.getMessage() for record in caplog.records] == [
        "stage=transcribe out of memory: a call holds 2 instead of 5 from now on"
    ]


def test_heavy_items_share_the_ceiling_of_light_ones():
    budget, (call, asked) = Budget("voices", 320, "waveform"), holding(5)
    assert [budget.run(call, most=32, weight=weight) for weight in (30, 60, 200)] == [5, 2, 1]
    assert asked == [10, 5, 2, 1]
    assert (budget.size, budget.halvings) == (150, 1)


def test_the_failed_call_is_forgotten_before_the_cache_is_freed(monkeypatch):
    class Tensor:
        pass

    tensors, alive = weakref.WeakSet(), []

    def call(size):
        tensor = Tensor()
        tensors.add(tensor)
        if size > 1:
            raise RuntimeError(CUDA)

    monkeypatch.setattr("actors.budget.free_cache", lambda: alive.append(len(tensors)))
    Budget("texts", 4, "text").run(call)
    assert alive == [0, 0]


def test_one_item_that_does_not_fit_is_a_resource_failure_that_names_the_stage():
    call, _ = holding(0)
    with pytest.raises(MemoryError, match=r"texts: a call with one text .*RUSHES_TEXT_DEVICE=cpu") as caught:
        Budget("texts", 2, "text").run(call)
    assert classify(caught.value) == FailureClass.RESOURCE


def test_other_errors_pass_at_once():
    budget, (call, asked) = Budget("texts", 8, "text"), holding(0, "shapes do not match")
    with pytest.raises(RuntimeError, match="shapes"):
        budget.run(call)
    assert (asked, budget.size) == ([8], 8)


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize(
    ("error", "yes"),
    [
        (OutOfMemoryError("tried to allocate"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError(CUDA), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (MemoryError(), True),
        (RuntimeError("device-side assert"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, yes):
    assert out_of_memory(error) is yes
    assert (classify(error) == FailureClass.RESOURCE) is yes


def limited(method, most, rows):
    """The method, on a device that takes at most `most` rows of what `rows` counts in its arguments."""

    def call(*args, **kwargs):
        if rows(*args, **kwargs) > most:
            raise RuntimeError(CUDA)
        return method(*args, **kwargs)

    return call


@pytest.fixture(scope="module")
def choices():
    settings = load_settings(None)
    return {role: settings.model_choice(role) for role in ("voice", "text", "diarizer", "transcriber")}


def call_row():
    call = read_call()[: 16 * 16_000]
    table = rows_table([{"asset_id": 1, "uri": "call", "duration_ms": 16_000, "lanes": ["speech", "voices"]}])
    table = with_column(table, "audio", audio_array([call]))
    table = with_column(table, "audio_sha256", ["00"])
    return with_column(table, "speech", [[{"start_ms": 0, "end_ms": 16_000}]])


def test_the_bundled_voice_encoder_gives_the_same_vectors(choices, monkeypatch):
    stage = Voices(choices["voice"])
    sounds = [read_call()[start : start + 5 * 16_000] for start in range(0, 20 * 16_000, 5 * 16_000)]
    whole = stage.embed_waveforms(sounds)
    encoder = stage._encoder
    assert isinstance(encoder, Ge2eEncoder)
    monkeypatch.setattr(encoder, "_lstm", limited(encoder._lstm, 7, len))
    np.testing.assert_allclose(stage.embed_waveforms(sounds), whole, atol=1e-4)
    assert stage.halvings > 0
    halvings = stage.halvings
    stage.embed_waveforms(sounds)
    assert stage.halvings == halvings


def test_the_bundled_diarizer_gives_the_same_turns(choices, monkeypatch):
    stage = Diarize(choices["diarizer"], 2, 2)
    whole = run_stage(stage, call_row())
    monkeypatch.setattr(stage._model, "_lstm", limited(stage._model._lstm, 3, len))
    halved = run_stage(stage, call_row())
    assert halved["turns"].to_pylist() == whole["turns"].to_pylist()
    assert whole["timings"][0][0]["halvings"].as_py() == 0
    assert halved["timings"][0][0]["halvings"].as_py() == stage.halvings > 0


@pytest.fixture(scope="module")
def long_row():
    """Five windows in one batch; the pauses between calls are where the recogniser's clock matters."""
    call = read_call()
    audio = np.concatenate([call, call[80_000:], call[200_000:], call, call[48_000:]])
    table = rows_table([{"asset_id": 1, "lanes": ["speech"]}])
    activity = SpeechActivity()
    activity.load()
    return run_stage(activity, with_column(table, "audio", audio_array([audio])))


def test_the_recogniser_gives_the_same_words(choices, monkeypatch, long_row):
    stage = Transcribe(replace(choices["transcriber"], beam_size=1))
    stage.load()
    whole = run_stage(stage, long_row).to_pylist()[0]
    encode = stage._model.encode
    monkeypatch.setattr(stage._model, "encode", limited(encode, 1, lambda x: len(x) if x.ndim == 3 else 1))
    halved = run_stage(stage, long_row).to_pylist()[0]
    assert whole["transcript"]["windows"] == 5
    assert [halved[name] for name in stage.adds] == [whole[name] for name in stage.adds]
    assert stage.halvings == 2

    monkeypatch.setattr(stage._model, "encode", limited(encode, 0, len))
    error = run_stage(stage, long_row).to_pylist()[0]["error"]
    assert (error["failure"], error["stage"]) == ("resource", "transcribe")
    assert "RUSHES_TRANSCRIBER_DEVICE=cpu" in error["message"]


def test_texts_give_the_same_vectors(choices, monkeypatch):
    stage = Texts(choices["text"])
    texts = [f"the {word} came back in the evening" for word in ("dog", "ship", "answer", "rain", "king")]
    whole = stage.embed_documents(texts)
    encode = stage._model.encode
    monkeypatch.setattr(stage._model, "encode", limited(encode, 2, lambda texts, batch_size, **rest: batch_size))
    np.testing.assert_allclose(stage.embed_documents(texts), whole, atol=1e-4)
    assert stage.halvings > 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_pipeline(tmp_path_factory.mktemp("pyannote"))


def test_pyannote_voices_give_the_same_vectors(folder, monkeypatch):
    encoder = PyannoteVoices(folder / "embedding", device="cpu")
    encoder.batch_size, encoder.budget.size = 4, 40
    call = read_call()
    sounds = [call[start * 16_000 : (start + length) * 16_000] for start, length in enumerate((1, 1, 2, 9, 1, 12, 1))]
    whole = encoder.embed(sounds)
    monkeypatch.setattr(encoder, "_embedding", limited(encoder._embedding, 1, len))
    np.testing.assert_allclose(encoder.embed(sounds), whole, atol=1e-4)
    halvings = encoder.budget.halvings
    assert halvings > 0
    np.testing.assert_allclose(encoder.embed(sounds), whole, atol=1e-4)
    assert encoder.budget.halvings == halvings


@pytest.mark.parametrize("part", ["segmentation", "embedding"])
def test_pyannotes_pipeline_gives_the_same_turns(folder, monkeypatch, part):
    choice = ModelChoice("diarizer", "test", "pyannote", f"path:{folder}", device="cpu")
    stage = Diarize(choice, 2, 2)
    stage.load()
    for budget in stage._budgets:
        budget.size = 4
    whole = run_stage(stage, call_row())
    if part == "segmentation":
        inference = stage._model._segmentation
        monkeypatch.setattr(inference, "infer", limited(inference.infer, 1, len))
    else:
        monkeypatch.setattr(stage._model, "_embedding", Limited(stage._model._embedding, 1))
    halved = run_stage(stage, call_row())
    assert halved["error"].to_pylist() == [None]
    assert halved["turns"].to_pylist() == whole["turns"].to_pylist() != [[]]
    assert (stage.halvings, stage._model.budgets[part].size) == (2, 1)


class Limited:
    """pyannote's embedding, with the attributes that the pipeline reads, on a small device."""

    def __init__(self, embedding, most):
        self.embedding, self.most = embedding, most

    def __getattr__(self, name):
        return getattr(self.embedding, name)

    def __call__(self, waveforms, masks=None):
        return limited(self.embedding, self.most, lambda waveforms, masks: len(waveforms))(waveforms, masks=masks)
