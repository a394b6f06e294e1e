"""pyannote's own classes, from a local folder of random weights, through the stages, offline."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest

from actors import pyannote_models
from actors.diarize import Diarize
from actors.voices import Voices
from cluster.errors import RushesError
from cluster.profiles import ModelChoice
from cluster.stage import run_stages
from cluster.types import audio_array, rows_table, with_column
from tests.pyannote_fixture import DIMENSION, build_pipeline

RATE = 16_000
SECONDS = 11


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return build_pipeline(tmp_path_factory.mktemp("pyannote"))


@pytest.fixture(scope="module")
def pipeline(folder):
    return pyannote_models.load_pipeline(folder, device="cpu")


@pytest.fixture
def lookups(monkeypatch) -> list[object]:
    """Every attempt to leave the machine, which also fails."""
    tried: list[object] = []
    connect = socket.socket.connect

    def refuse(*words, **_):
        tried.append(words)
        raise OSError("no network in this test")

    def local_only(self, address):
        return connect(self, address) if self.family == socket.AF_UNIX else refuse(address)

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "gethostbyname", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", local_only)
    return tried


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise that comes and goes, int16."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    loud = np.sin(2 * np.pi * 220 * time) * (np.sin(2 * np.pi * 0.4 * time) > 0)
    return (3000 * random.normal(size=len(time)) * 0.3 + 6000 * loud).astype(np.int16)


def choice(role: str, weights: Path, dimension: int | None = None) -> ModelChoice:
    return ModelChoice(role, "test", "pyannote", f"path:{weights}", dimension, device="cpu", batch_size=2)


def row(audio: np.ndarray) -> object:
    table = rows_table([{"asset_id": 1, "lanes": ["speech", "voices"], "timings": []}])
    table = with_column(table, "audio", audio_array([audio]))
    table = with_column(table, "audio_sha256", ["a" * 64])
    table = with_column(table, "speech", [[{"start_ms": 0, "end_ms": len(audio) * 1000 // RATE}]])
    return with_column(table, "segments", [[{"idx": 0, "start_ms": 500, "end_ms": 1900}]])


def test_both_stages_run_without_a_single_lookup(folder, lookups):
    stages = [
        Diarize(choice("diarizer", folder), 2, 2),
        Voices(choice("voice", folder / "embedding", DIMENSION)),
    ]
    for stage in stages:
        stage.load()
    out = run_stages(stages, row(noise(SECONDS))).to_pylist()[0]
    assert out["error"] is None
    turns = out["turns"]
    assert {turn["local_speaker"] for turn in turns} == {0, 1}
    assert turns == sorted(turns, key=lambda turn: (turn["start_ms"], turn["end_ms"]))
    assert all(0 <= turn["start_ms"] < turn["end_ms"] <= SECONDS * 1000 for turn in turns)
    assert turns[0]["local_speaker"] == 0
    assert np.linalg.norm(out["voices"][0]["vector"]) == pytest.approx(1, abs=1e-5)
    assert lookups == []


def test_stacked_masks_give_stock_vectors_at_a_third_of_the_passes(pipeline):
    import torch
    from pyannote.core import SlidingWindow, SlidingWindowFeature

    data = (np.random.default_rng(3).random((4, 589, 3)) > 0.6).astype(np.float32)
    data[0, :, 2] = 0
    data[2] = 0
    window = SlidingWindow(start=0, duration=10, step=0.5)
    segmentations = SlidingWindowFeature(data, window)
    file = {
        "waveform": torch.from_numpy(noise(SECONDS).astype(np.float32) / 32768)[None],
        "sample_rate": RATE,
    }
    assert pipeline._embedding.min_num_samples > 0
    batches: list[int] = []
    model = pipeline._embedding.model_
    hook = model.register_forward_hook(lambda _, given, __: batches.append(len(given[0])))
    pipeline.budgets["embedding"].size = 2
    try:
        for exclude_overlap in (False, True):
            batches.clear()
            ours = pipeline.get_embeddings(file, segmentations, exclude_overlap=exclude_overlap)
            assert batches == [2, 2]
            stock = type(pipeline).get_embeddings(pipeline, file, segmentations, exclude_overlap)
            assert np.abs(ours - stock).max() < 1e-5
            assert sum(batches[2:]) >= 12
    finally:
        hook.remove()
        pipeline.budgets["embedding"].size = 1


def test_too_many_speakers_is_the_failure_of_that_row(folder, pipeline, monkeypatch):
    def overflow(*_, **__):
        raise OverflowError("Python integer 130 out of bounds for int8")

    stage = Diarize(choice("diarizer", folder), None, None)
    monkeypatch.setattr(stage, "_model", overflow)
    error = run_stages([stage], row(noise(1))).to_pylist()[0]["error"]
    assert (error["stage"], error["failure"]) == ("diarize", "bug")
    assert "127 speakers" in error["message"]


def test_batched_voices_equal_single_ones(folder):
    encoder = pyannote_models.PyannoteVoices(folder / "embedding", device="cpu")
    waveforms = [noise(seconds, seed) for seed, seconds in enumerate((0.3, 0.9, 1.7, 0.5, 31))]
    single = np.concatenate([encoder.embed([waveform]) for waveform in waveforms])
    encoder.batch_size, encoder.calls = 2, 0
    assert np.abs(encoder.embed(waveforms) - single).max() < 1e-5
    assert encoder.calls == 4


def test_a_wrong_dimension_names_both(folder):
    stage = Voices(choice("voice", folder / "embedding", 192))
    with pytest.raises(RushesError, match=r"256 dimensions.*192"):
        stage.load()


def test_a_folder_that_would_download_is_refused(folder, tmp_path):
    with pytest.raises(RushesError, match=r"no config\.yaml"):
        pyannote_models.load_pipeline(tmp_path)
    text = (folder / "config.yaml").read_text("utf-8")
    (tmp_path / "config.yaml").write_text(text.replace("$model/embedding", "pyannote/other"), "utf-8")
    for part in ("segmentation", "plda"):
        (tmp_path / part).mkdir()
    with pytest.raises(RushesError, match="embedding is pyannote/other"):
        pyannote_models.load_pipeline(tmp_path)
    with pytest.raises(RushesError, match=r"no pytorch_model\.bin"):
        pyannote_models.PyannoteVoices(tmp_path)
