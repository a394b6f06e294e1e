"""Where somebody speaks: as Silero itself says, in bounded memory, on any length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import actors.speech_activity as module
from actors.speech_activity import SpeechActivity
from benchmarks.transcription import call_recording, read_wav
from cluster.stage import run_stage
from cluster.types import audio_array, rows_table, with_column

READING = Path(__file__).parents[2] / "shared/media/reading"


@pytest.fixture(scope="module")
def stage():
    activity = SpeechActivity()
    activity.load()
    return activity


@pytest.fixture(scope="module")
def call():
    return call_recording()[0]


def stock(audio):
    from faster_whisper.vad import get_speech_timestamps

    spans = get_speech_timestamps(
        audio.astype(np.float32) / 32768.0,
        min_silence_duration_ms=module.MIN_SILENCE_MS,
        min_speech_duration_ms=module.MIN_SPEECH_MS,
        speech_pad_ms=module.PAD_MS,
    )
    return [{"start_ms": span["start"] // 16, "end_ms": span["end"] // 16} for span in spans]


@pytest.mark.parametrize("frames", [module.FRAMES_PER_PIECE, 50])
def test_pieces_give_what_one_pass_of_the_packaged_function_gives(stage, call, frames, monkeypatch):
    monkeypatch.setattr(module, "FRAMES_PER_PIECE", frames)
    assert stage.regions(call) == stock(call)


def test_the_reading_matches_too(stage):
    if not READING.exists():
        pytest.skip("shared/media/reading is not beside the checkout")
    for path in sorted(READING.glob("*.wav")):
        audio = read_wav(path)
        assert stage.regions(audio) == stock(audio)


@pytest.mark.parametrize("samples", [0, 1, 15, 16, 511, 512, 513, 16_000])
def test_silence_and_crumbs_of_audio_have_no_speech(stage, samples):
    assert stage.regions(np.zeros(samples, np.int16)) == []


def test_rows_come_back_in_order_with_sorted_regions_inside_the_audio(stage, call):
    audios = [np.zeros(16_000, np.int16), call, np.empty(0, np.int16), call[: 16_000 * 12]]
    table = rows_table([{"asset_id": n, "lanes": ["speech"]} for n in range(4)])
    out = run_stage(stage, with_column(table, "audio", audio_array(audios)))
    speech = out["speech"].to_pylist()
    assert out["error"].null_count == 4
    assert [bool(regions) for regions in speech] == [False, True, False, True]
    for regions, audio in zip(speech, audios, strict=True):
        edges = [edge for region in regions for edge in (region["start_ms"], region["end_ms"])]
        assert edges == sorted(edges)
        assert all(region["start_ms"] < region["end_ms"] for region in regions)
        assert not edges or edges[-1] <= len(audio) // 16


def test_identity_needs_no_model():
    assert SpeechActivity().identity()["model"] == "silero-vad-v6"
