"""A batch that does not fit the device is halved, the smaller size is remembered, and results stay the same."""

from __future__ import annotations

import numpy as np
import pytest

from actors.budget import Budget
from actors.diarize import Diarize
from actors.ge2e import Ge2eEncoder
from actors.pyannote_models import PyannoteVoices
from actors.texts import Texts
from actors.voices import Voices
from cluster.errors import FailureClass, classify, out_of_memory
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
    budget, (call, asked) = Budget("texts", 32), holding(5)
    assert [budget.run(call), budget.run(call)] == [4, 4]
    assert asked == [32, 16, 8, 4, 4]
    assert (budget.size, budget.halvings) == (4, 3)


def test_one_item_that_does_not_fit_is_a_resource_failure_that_names_the_stage():
    call, _ = holding(0)
    with pytest.raises(MemoryError, match="texts: one item does not fit the device") as caught:
        Budget("texts", 2).run(call)
    assert classify(caught.value) == FailureClass.RESOURCE


def test_other_errors_pass_at_once():
    budget, (call, asked) = Budget("texts", 8), holding(0, "shapes do not match")
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
    return {role: settings.model_choice(role) for role in ("voice", "text", "diarizer")}


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


def test_texts_give_the_same_vectors(choices, monkeypatch):
    stage = Texts(choices["text"])
    texts = [f"the {word} came back in the evening" for word in ("dog", "ship", "answer", "rain", "king")]
    whole = stage.embed_documents(texts)
    encode = stage._model.encode
    monkeypatch.setattr(stage._model, "encode", limited(encode, 2, lambda texts, batch_size, **rest: batch_size))
    np.testing.assert_allclose(stage.embed_documents(texts), whole, atol=1e-4)
    assert stage.halvings > 0


def test_pyannote_voices_give_the_same_vectors(tmp_path, monkeypatch):
    encoder = PyannoteVoices(build_pipeline(tmp_path) / "embedding", batch_size=4)
    encoder.budget.size = 4
    sounds = [read_call()[start : start + 16_000] for start in range(0, 5 * 16_000, 16_000)]
    whole = encoder.embed(sounds)
    monkeypatch.setattr(encoder, "_embedding", limited(encoder._embedding, 1, len))
    np.testing.assert_allclose(encoder.embed(sounds), whole, atol=1e-4)
    assert (encoder.budget.size, encoder.budget.halvings) == (1, 2)
