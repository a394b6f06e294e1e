"""The benchmark of the card: its code on a CPU, at the smallest size; what it counts is right, and nothing stops it."""

from __future__ import annotations

import json
import os
import time

import pytest

from actors import device, transcribe
from actors.device import Sampler
from actors.speech_activity import SpeechActivity
from actors.transcribe import Transcribe
from benchmarks import gpu, report
from benchmarks.gpu_checks import out_of_memory, precision, same_as_cpu
from benchmarks.gpu_child import ChildError, in_child
from benchmarks.gpu_groups import GROUPS, Setup, Stock, arrange
from benchmarks.gpu_media import Length, build_media, rows
from benchmarks.gpu_models import Models, prepare
from benchmarks.gpu_stages import Trial, measure_stage
from benchmarks.gpu_whisper import SCRIPT, write_whisper
from cluster.profiles import ModelChoice
from cluster.settings import settings_to_dict
from cluster.types import audio_array, rows_table, with_column
from tests.archive import read_call

LENGTH = Length(2, 10.0, 1, (160, 120))


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return build_media(tmp_path_factory.mktemp("gpu") / "media", LENGTH)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return prepare("speed", tmp_path_factory.mktemp("gpu-models"), "cpu", 1, tiny=True)


def trial(name, models: Models, media, root="speech"):
    told = settings_to_dict(models.settings)
    return Trial(name, told, models.random, rows(media, LENGTH.asset_s, root), 1, 0.01)


def test_a_whisper_with_random_weights_says_its_text_in_every_window_and_ends(tmp_path):
    path = write_whisper(tmp_path / "whisper", "toy", tokens=40)
    choice = ModelChoice("transcriber", "test", "faster-whisper", f"path:{path}", precision="int8", beam_size=2)
    stage = Transcribe(choice)
    stage.load()
    activity, sound = SpeechActivity(), read_call()
    activity.load()
    table = with_column(rows_table([{"asset_id": 1, "lanes": ["speech"]}]), "audio", audio_array([sound]))
    row = stage.process(with_column(table, "speech", [activity.regions(sound)])).to_pylist()[0]
    said = " ".join(SCRIPT.read_text("utf-8").split())
    heard = " ".join(word["text"] for word in row["words"])
    assert row["transcript"]["language"] == "en"
    assert len(stage.languages) == 100
    assert said.startswith(heard)
    assert len(heard.split()) > 30


def test_without_a_gpu_it_says_so_in_a_line_and_writes_nothing(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu, "gpu_name", lambda: None)
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    gpu.main([])
    assert capsys.readouterr().out.splitlines() == [
        "no GPU here: nothing is measured (--device cpu --quick tries the code)"
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "root", "item", "each"),
    [("transcribe", "speech", "windows", 1), ("texts", "speech", "chunks", 1), ("images", "frames", "pictures", 8)],
)
def test_a_stage_alone_is_counted_by_what_it_works_through(name, root, item, each, models, media, monkeypatch):
    monkeypatch.setattr(transcribe, "flaws", transcribe.flaws)
    found = measure_stage(trial(name, models, media, root))
    assert found["items"] == {item: each * LENGTH.assets * found["passes"]}
    assert found["media_s"] == LENGTH.assets * LENGTH.asset_s * found["passes"]
    assert found["x_realtime"] == pytest.approx(3600 / found["s_per_media_hour"])
    assert 0 < found["batch_fill"] <= 1
    assert found["placed"]["device"] == "cpu"
    assert found["host_gib"] > 0.1
    assert found["halvings"] == 0


def test_groups_side_by_side_hand_every_row_on(models, media, tmp_path):
    spoken, looked = (rows(media, LENGTH.asset_s, root) for root in ("speech", "frames"))
    stock = Stock.of(tmp_path / "stock", spoken, looked)
    setup = Setup(settings_to_dict(models.settings), models.random, 1, tmp_path)
    bench = gpu.Bench("cpu", True, 5.0, tmp_path, False)
    bench.length = LENGTH
    found = gpu.arranged(bench, setup, stock, {"hear": 1, "speak": 1})
    assert set(found["stage_s_per_media_hour"]) == {*GROUPS["hear"], *GROUPS["speak"]}
    assert found["hours_per_hour"] == pytest.approx(3600 / found["s_per_media_hour"], rel=0.01)
    assert len(list((tmp_path / "heard").iterdir())) == LENGTH.assets
    with pytest.raises(ChildError, match="FileNotFoundError"):
        arrange(setup, Stock({"speech": [str(tmp_path / "gone")]}), {"hear": 1}, time.monotonic() + 60)


def _end(code):
    os._exit(code)


def test_a_child_that_fails_dies_or_takes_too_long_is_a_line():
    with pytest.raises(ChildError, match="ZeroDivisionError"):
        in_child(30, divmod, 1, 0)
    with pytest.raises(ChildError, match="ended with 3"):
        in_child(30, _end, 3)
    with pytest.raises(ChildError, match="longer than the time"):
        in_child(0.5, time.sleep, 60)


def test_a_step_that_fails_is_recorded_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    bench = gpu.Bench("cpu", True, 1.0, tmp_path, True)
    assert bench.step("one/two", lambda: 1 / 0) is None
    assert json.loads((tmp_path / "gpu.json").read_text())["one"] == {
        "two": {"error": "ZeroDivisionError: division by zero"}
    }
    assert bench.step("one/three", lambda: {"figure": 3}) == {"figure": 3}
    bench.ends_s = time.monotonic()
    bench.step("four", lambda: 4)
    assert bench.document["one"]["three"] == {"figure": 3}
    assert bench.document["four"] == {"skipped": "the time was over"}


def test_what_was_measured_has_the_columns_of_the_table_of_rates(models):
    figure = {"s_per_media_hour": 2.0, "load_s": 1.0, "host_gib": 1.0, "device_gib": None, "media_s": 9.0, "assets": 2}
    figures = {"decode": {**figure, "placed": None}, "texts": {**figure, "placed": {"device": "cpu", "share": 1.0}}}
    decode, texts = gpu.stage_rates(models, figures)
    assert set(decode) == {
        "hardware", "stage", "identity", "s_per_media_hour", "load_s", "host_gib", "device_gib", "media_s", "assets",
    }  # fmt: skip
    assert len(decode["identity"]) == 64
    assert texts["identity"] is None


def test_the_checks_run_on_a_cpu_too(tmp_path, models):
    assert same_as_cpu("images", "cpu", tmp_path, 4) == {"passed": True, "difference": 0.0}
    told = models.settings.model_choice("text").to_dict()
    assert precision(told, 1) == {"passed": True, "asked": "default", "found": "float32", "device": "cpu"}


def test_a_batch_that_does_not_fit_is_halved_and_says_the_same(tmp_path):
    found = in_child(120, out_of_memory, "images", "cpu", tmp_path, 4_000)
    assert found["passed"] is True
    assert found["size_after"] < found["size_before"]


def test_a_sampler_tells_of_any_stretch_of_time(monkeypatch):
    taken = iter([1.0, 4.0, 2.0])
    monkeypatch.setattr(device, "device_used_gib", lambda: next(taken, None))
    monkeypatch.setattr(device, "_utilization", lambda: [50])
    with Sampler() as sampler:
        while len(sampler.looks) < 3:
            time.sleep(0.01)
    moments = [at for at, _, _ in sampler.looks]
    assert (sampler.peak_gib(), sampler.busy()) == (4.0, 0.5)
    assert sampler.peak_gib(moments[2]) == 2.0
    assert (sampler.peak_gib(moments[2] + 1), sampler.busy(moments[2] + 1)) == (None, None)
