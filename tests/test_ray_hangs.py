"""What Ray waits for in silence becomes an error in seconds."""

from __future__ import annotations

import json

import pytest

from cluster.errors import RushesError
from cluster.faults import VARIABLE
from cluster.plan import Group
from jobs.ray_context import ray_session
from jobs.ray_errors import check_room
from tests.archive import read_call, run
from tests.media_factory import write_wav

pytestmark = pytest.mark.ray_process


@pytest.fixture
def clip(tmp_path):
    write_wav(tmp_path / "clip.wav", read_call()[: 5 * 16_000], 16_000)
    return tmp_path / "clip.wav"


def test_a_share_that_something_else_holds_is_refused_with_the_sum():
    with ray_session(address=None, cpus=2, niceness=0, object_store_bytes=100 * 2**20):
        import ray

        @ray.remote(num_cpus=1.5)
        class Holder:
            def ready(self):
                return True

        holder = Holder.remote()
        assert ray.get(holder.ready.remote())
        group = Group("fused", (), 2, 0.9, 1)
        with pytest.raises(RushesError, match=r"2 fused actor\(s\) of 0.9 CPU.*CPU: 1.8 needed, 0.5 free of 2"):
            check_room([group], wait_s=1.0)
        ray.kill(holder)
        check_room([group], wait_s=20.0)


@pytest.mark.parametrize("runner", ["worker", "ray"])
@pytest.mark.parametrize("action", ["raise", "exit"])
def test_models_that_do_not_load_end_the_run_with_the_reason(
    runner, action, db_url, clip, tmp_path, monkeypatch, capsys
):
    fault = {"point": "loading", "action": action, "folder": str(tmp_path / "fault"), "always": True}
    monkeypatch.setenv(VARIABLE, json.dumps(fault))
    summary = run(db_url, [str(clip)], {"runner": runner})
    assert (summary.exit_code, summary.state) == (1, "failed")
    [note] = [note for note in summary.notes if note.startswith("error")]
    assert "the models do not load" in note
    assert "fault at loading" in note
    assert "Traceback" not in capsys.readouterr().out
    monkeypatch.delenv(VARIABLE)
    assert run(db_url, [str(clip)]).ok == 1


@pytest.mark.parametrize("runner", ["worker", "ray"])
def test_processes_that_always_die_while_they_load_end_the_run(runner, db_url, clip, tmp_path, monkeypatch):
    fault = {"point": "loading", "action": "kill", "folder": str(tmp_path / "fault"), "always": True}
    monkeypatch.setenv(VARIABLE, json.dumps(fault))
    summary = run(db_url, [str(clip)], {"runner": runner})
    assert summary.exit_code == 1
    assert any("the models do not load" in note and "3 " in note for note in summary.notes)
    assert len(list((tmp_path / "fault").glob("visit-*"))) == 3


def test_a_process_that_dies_once_while_it_loads_is_replaced(db_url, clip, tmp_path, monkeypatch):
    fault = {"point": "loading", "action": "kill", "folder": str(tmp_path / "fault")}
    monkeypatch.setenv(VARIABLE, json.dumps(fault))
    assert run(db_url, [str(clip)], {"runner": "worker"}).ok == 1
    assert (tmp_path / "fault" / "happened.json").exists()
