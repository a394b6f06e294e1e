"""`rushes bench`: a speed, and the proof of where it was measured."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from actors import device
from actors.device import Meter, Placement, placement
from actors.diarize import Diarize
from cluster.errors import RushesError
from cluster.profiles import choose
from cluster.settings import load_settings
from jobs import device_bench
from jobs.cli.bench import describe
from jobs.cli.main import app
from jobs.device_bench import bench
from tests.test_cli import rushes
from tests.tiny_clip import tiny_folder


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(device_bench, "TARGET_S", 0.01)


@pytest.mark.parametrize(
    ("what", "role", "units"),
    [
        ("text", "text", ["texts"]),
        ("voice", "voice", ["segments", "speech seconds"]),
        ("asr", "transcriber", ["media seconds"]),
    ],
)
def test_each_role_is_measured_on_the_device_that_it_names(what, role, units):
    speed = bench(load_settings(cpus=1), what)
    assert (speed.choice.role, list(speed.rates), speed.threads) == (role, units, 1)
    assert all(len(values) == 3 and min(values) > 0 for values in speed.rates.values())
    assert (speed.placed.device, speed.placed.share) == ("cpu", 1.0)
    assert all(use.cpu_s > 0 for use in speed.uses)
    assert speed.refusal() is None
    lines = describe(speed)
    assert any("100%" in line and "CPU seconds per second" in line for line in lines)


def test_a_model_that_ran_elsewhere_than_asked_is_refused():
    speed = bench(load_settings(cpus=1), "voice")
    asked = replace(speed, choice=replace(speed.choice, device="cuda"))
    assert "asks for cuda, but 100% of the voice model ran on cpu" in asked.refusal()
    assert replace(speed, gpu="H200").refusal() is not None
    on_card = replace(asked, gpu="H200", placed=Placement("cuda", 1.0, "float32", 10))
    assert on_card.refusal() is None
    assert replace(on_card, placed=Placement("cuda", 0.9, "float32", 10)).refusal() is not None
    assert "device busy: not known" in describe(on_card)[-1]


def test_where_a_model_lies_is_counted_by_its_parameters():
    import torch

    stage = Diarize(choose("diarizer", "bundled", {}, {}), None, None)
    with pytest.raises(ValueError, match="load it first"):
        placement(stage)
    stage.load()
    assert placement(stage) == Placement("cpu", 1.0, "float32", 1_423_616)
    stage.close()
    halves = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.Linear(3, 3, device="meta", dtype=torch.float16)])
    assert placement([halves, {"same": halves}]) == Placement("cpu", 1.0, "float32", 24)
    assert [device._majority(on_cuda, 4) for on_cuda in (0, 1, 3, 4)] == [
        (1.0, "cpu"), (0.75, "cpu"), (0.75, "cuda"), (1.0, "cuda"),
    ]  # fmt: skip


def test_memory_and_load_of_a_gpu_are_sampled_while_it_works(monkeypatch):
    monkeypatch.setattr(device, "device_used_gib", lambda: 3.5)
    monkeypatch.setattr(device, "_utilization", lambda: [80])
    with Meter(1.0) as meter:
        sum(range(10_000))
    assert (meter.use.device_gib, meter.use.busy) == (2.5, 0.8)
    with Meter(None) as meter:
        sum(range(10_000))
    assert (meter.use.device_gib, meter.use.busy) == (None, None)


def test_what_cannot_be_measured_is_one_line():
    with pytest.raises(RushesError, match="has no image model: set RUSHES_IMAGE_WEIGHTS"):
        bench(load_settings(), "image")
    done = rushes("bench", "taste")
    assert (done.returncode, "choose from text, voice, asr, image" in done.stderr) == (2, True)
    if device.gpu_name() is None:
        done = rushes("bench", "voice", RUSHES_VOICE_DEVICE="cuda")
        assert done.returncode == 1
        assert "does not load on cuda" in done.stderr
        assert "RUSHES_VOICE_DEVICE=cpu" in done.stderr


def test_an_image_model_is_measured_on_keyframes(tmp_path, monkeypatch):
    monkeypatch.setenv("RUSHES_IMAGE_WEIGHTS", f"path:{tiny_folder(tmp_path / 'clip')}")
    speed = bench(load_settings(cpus=1), "image")
    assert (list(speed.rates), speed.placed.device, speed.placed.share) == (["pictures"], "cpu", 1.0)
    assert speed.refusal() is None
    assert "3136 pictures in a call" in describe(speed)[1]


def test_the_command_answers_in_json():
    done = CliRunner().invoke(app, ["bench", "voice", "--json"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["proved"] is True
    assert found["median_rates"]["segments"] == sorted(found["rates"]["segments"])[1]
    assert found["placed"]["device"] == "cpu"
