"""The bundled diarizer on real voices."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from actors.diarize import Diarize
from benchmarks.diarization import (
    CHOICE,
    SPEAKERS,
    conversation,
    diarized,
    errors,
    sample_call,
    speaker_clips,
    spoken,
)
from cluster.errors import UsageError
from cluster.profiles import ModelChoice
from cluster.speakers.turns import BRIDGED_PAUSE_MS
from cluster.stage import run_stage
from cluster.types import audio_array, rows_table, with_column


@pytest.fixture(scope="module")
def call():
    audio, reference = sample_call()
    return spoken(audio), reference, len(audio) / 16_000


def rows(audio: np.ndarray, speech: list[dict] | None):
    table = rows_table([{"asset_id": 1, "lanes": ["speech"], "timings": []}])
    return with_column(with_column(table, "audio", audio_array([audio])), "speech", [speech])


def test_two_speakers_of_the_call_halve_the_error(call):
    row, reference, seconds = call
    baseline = errors(reference, diarized(row, 1)[0], seconds)["der"]
    error = errors(reference, diarized(row, 2)[0], seconds)["der"]
    assert error <= baseline / 2, (error, baseline)


def test_turns_cover_the_speech_once(call):
    row, _, _ = call
    out = run_stage(Diarize(CHOICE, 2, 2), row).to_pylist()[0]
    turns, speech = out["turns"], out["speech"]
    assert {turn["local_speaker"] for turn in turns} == {0, 1}
    assert turns[0]["local_speaker"] == 0
    covered = np.zeros(40_000, int)
    for turn in turns:
        covered[turn["start_ms"] : turn["end_ms"]] += 1
    assert covered.max() == 1
    for span in speech:
        assert (covered[span["start_ms"] : span["end_ms"]] == 1).all()
    for before, after in pairwise(speech):
        if after["start_ms"] - before["end_ms"] >= BRIDGED_PAUSE_MS:
            assert not covered[before["end_ms"] : after["start_ms"]].any()


def test_it_is_deterministic(call):
    row, _, _ = call
    assert diarized(row, None)[0] == diarized(row, None)[0]


@pytest.mark.skipif(not SPEAKERS.is_dir(), reason="shared/media/speakers is not here")
@pytest.mark.parametrize("count", [1, 2, 4])
def test_concatenated_voices_are_told_apart(count):
    audio, reference = conversation(speaker_clips(), 5 + count, count, 10)
    turns, _ = diarized(spoken(audio), None)
    assert len({turn[2] for turn in turns}) == count
    assert errors(reference, turns, len(audio) / 16_000)["confusion"] < 5


def test_no_speech_means_no_turns_and_no_model():
    stage = Diarize(CHOICE, None, None)
    out = run_stage(stage, rows(np.zeros(16_000, np.int16), [])).to_pylist()[0]
    assert (out["turns"], out["error"], stage._model) == ([], None, None)


def test_missing_speech_fails_the_row():
    out = run_stage(Diarize(CHOICE, None, None), rows(np.zeros(16_000, np.int16), None)).to_pylist()[0]
    assert out["error"]["stage"] == "diarize"
    assert out["turns"] is None


def test_a_lone_short_word_is_a_turn():
    audio = np.random.default_rng(0).integers(-3000, 3000, 8_000).astype(np.int16)
    out = run_stage(Diarize(CHOICE, 2, None), rows(audio, [{"start_ms": 100, "end_ms": 290}])).to_pylist()[0]
    assert out["turns"] == [{"start_ms": 100, "end_ms": 290, "local_speaker": 0}]


def test_identity_has_the_bounds_and_loads_nothing():
    stage = Diarize(CHOICE, 2, 5)
    assert {**stage.identity(), "weights": ""} == {
        "engine": "bundled",
        "weights": "",
        "min_speakers": 2,
        "max_speakers": 5,
    }
    assert stage._model is None


def test_wrong_choices_are_refused():
    with pytest.raises(UsageError, match="between 3 and 2"):
        Diarize(CHOICE, 3, 2)
    with pytest.raises(UsageError, match="unknown diarizer engine"):
        Diarize(ModelChoice.from_dict({**CHOICE.to_dict(), "engine": "magic"}), None, None)
