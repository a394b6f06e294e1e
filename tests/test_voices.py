"""The GE2E encoder and the voices stage."""

from __future__ import annotations

import wave
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from actors import ge2e
from actors.voices import Voices
from cluster import weights
from cluster.errors import RushesError, UsageError
from cluster.profiles import ModelChoice, choose
from cluster.stage import run_stage
from cluster.types import audio_array, rows_table, with_column

CHOICE = choose("voice", "bundled", {"device": "cpu"}, {})
SAMPLE = Path(next(iter(find_spec("pyannote.audio").submodule_search_locations))) / "sample" / "sample.wav"


class DictCache:
    """Vectors by span, for one audio."""

    def __init__(self, sha256: str, vectors: dict) -> None:
        self.sha256, self.vectors = sha256, vectors

    def lookup(self, audio_sha256: str) -> dict:
        return self.vectors if audio_sha256 == self.sha256 else {}

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def call() -> np.ndarray:
    with wave.open(str(SAMPLE)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


@pytest.fixture(scope="module")
def encoder() -> ge2e.Ge2eEncoder:
    return ge2e.Ge2eEncoder(weights.locate(CHOICE.weights), device="cpu")


def table(audio: np.ndarray, spans: list[tuple[int, int]]):
    rows = rows_table([{"asset_id": 1, "lanes": ["voices"], "timings": []}])
    rows = with_column(rows, "audio", audio_array([audio]))
    rows = with_column(rows, "audio_sha256", ["a" * 64])
    segments = [{"idx": i, "start_ms": start, "end_ms": end} for i, (start, end) in enumerate(spans)]
    return with_column(rows, "segments", [segments])


def run(stage: Voices, audio: np.ndarray, spans: list[tuple[int, int]]) -> dict:
    out = run_stage(stage, table(audio, spans)).to_pylist()[0]
    assert out["error"] is None
    return out


def test_mel_is_librosas(encoder, call):
    librosa = pytest.importorskip("librosa")
    samples = call[:40_000].astype(np.float32) / 32768
    theirs = librosa.feature.melspectrogram(y=samples, sr=16_000, n_fft=400, hop_length=160, n_mels=40).T
    assert np.allclose(encoder._mel(samples).numpy(), theirs, rtol=1e-4, atol=1e-7)


def test_blocks_do_not_change_the_mel(encoder, call, monkeypatch):
    samples = call[:40_000].astype(np.float32) / 32768
    whole = encoder._mel(samples).numpy()
    monkeypatch.setattr(ge2e, "BLOCK_FRAMES", 33)
    assert np.allclose(encoder._mel(samples).numpy(), whole, rtol=1e-6)


def test_batched_equals_one_by_one(encoder, call):
    waveforms = [call[i * 20_000 :][:n] for i, n in enumerate((4_000, 16_000, 25_600, 25_601, 90_000))]
    encoder.calls = 0
    together = encoder.embed(waveforms)
    assert encoder.calls == 1
    single = np.concatenate([encoder.embed([waveform]) for waveform in waveforms])
    assert together.dtype == np.float32
    assert np.abs(together - single).max() < 1e-5
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    as_float = encoder.embed([waveforms[4].astype(np.float32) / 32768])
    assert np.abs(as_float[0] - together[4]).max() < 1e-5


def test_windows_are_the_vectors_of_their_audio(encoder, call):
    starts = np.array([0, 160_000, 163_200, 470_000])
    windows = encoder.embed_windows(call, starts)
    alone = encoder.embed([call[start : start + 25_600] for start in starts[:3]])
    assert (np.einsum("wd,wd->w", windows[:3], alone) > 0.99).all()
    assert np.isfinite(windows[3]).all()
    assert encoder.embed_windows(call, starts[:0]).shape == (0, 256)


def test_what_is_not_a_number_gives_nan(encoder):
    assert np.isnan(encoder.embed([np.full(20_000, np.nan, np.float32)])).all()


def test_every_segment_has_a_vector_or_a_reason(call):
    audio = np.concatenate([call[110_000:238_000], np.zeros(16_000, np.int16)])
    spans = [
        (0, 1_500),
        (100, 340),
        (8_000, 8_900),
        (7_900, 99_000),
        (9_500, 9_600),
        (20_000, 21_000),
        (0, 1_500),
    ]
    stage = Voices(CHOICE)
    stage.load()
    out = run(stage, audio, spans)
    voices = out["voices"]
    assert "audio" not in out
    assert [voice["idx"] for voice in voices] == list(range(len(spans)))
    reasons = [voice["skip_reason"] for voice in voices]
    assert reasons == [None, "too_short", "silent", None, "too_short", "too_short", None]
    assert [voice["vector"] is None for voice in voices] == [reason is not None for reason in reasons]
    assert all(np.linalg.norm(voice["vector"]) == pytest.approx(1, abs=1e-5) for voice in voices if voice["vector"])
    assert all(0 <= voice["start_sample"] <= voice["end_sample"] <= len(audio) for voice in voices)
    assert voices[3]["end_sample"] == len(audio)
    assert voices[0]["vector"] == voices[6]["vector"]
    assert (stage.calls, out["voice_cache_hits"]) == (1, 0)


def test_no_segments_give_no_voices_and_no_model(call):
    stage = Voices(CHOICE)
    out = run(stage, call, [])
    assert (out["voices"], out["voice_cache_hits"], stage._encoder) == ([], 0, None)


def test_cached_voices_are_not_computed_again(call):
    spans = [(7_000, 9_000), (10_600, 14_000), (14_500, 17_000)]
    first = Voices(CHOICE)
    cold = run(first, call, spans)
    known = {(v["start_sample"], v["end_sample"]): np.float32(v["vector"]) for v in cold["voices"]}

    full = Voices(CHOICE, DictCache("a" * 64, known))
    warm = run(full, call, spans)
    assert warm["voices"] == cold["voices"]
    assert (warm["voice_cache_hits"], full.calls, full._encoder) == (3, 0, None)

    known.pop((7_000 * 16, 9_000 * 16))
    partial = Voices(CHOICE, DictCache("a" * 64, known))
    asked: list[int] = []
    embed = partial.embed_waveforms
    partial.embed_waveforms = lambda waveforms: asked.append(len(waveforms)) or embed(waveforms)
    mixed = run(partial, call, spans)
    assert (mixed["voice_cache_hits"], asked, partial.calls) == (2, [1], 1)
    vectors = [[voice["vector"] for voice in out["voices"]] for out in (mixed, cold)]
    assert np.abs(np.subtract(*vectors)).max() < 1e-5

    other = Voices(CHOICE, DictCache("b" * 64, known))
    assert run(other, call, spans)["voice_cache_hits"] == 0


def test_a_vector_that_is_not_finite_is_skipped(call):
    stage = Voices(CHOICE)
    stage.embed_waveforms = lambda waveforms: np.full((len(waveforms), 256), np.nan, np.float32)
    voice = run(stage, call, [(7_000, 9_000)])["voices"][0]
    assert (voice["vector"], voice["skip_reason"]) == (None, "not_finite")


def test_identity_names_weights_and_pooling_without_loading():
    stage = Voices(CHOICE)
    identity = stage.identity()
    assert identity["weights"].startswith("package:resemblyzer/pretrained.pt==")
    assert identity["pooling"] == ge2e.POOLING
    assert stage._encoder is None


def test_wrong_choices_are_refused():
    wrong = ModelChoice.from_dict({**CHOICE.to_dict(), "dimension": 192})
    with pytest.raises(RushesError, match=r"256 dimensions.*192"):
        Voices(wrong).load()
    with pytest.raises(UsageError, match="unknown voice engine"):
        Voices(ModelChoice.from_dict({**CHOICE.to_dict(), "engine": "magic"}))
