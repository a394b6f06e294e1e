"""A fault happens at its point, at its visit, once, in whichever process comes by."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.faults import MARKER, VARIABLE, Fault, FaultPoint, read_faults

ROOT = Path(__file__).parents[1]


def asked(folder, **fields):
    return json.dumps({"point": "commit_fenced", "action": "raise", "folder": str(folder), **fields})


def fault(folder, **fields) -> Fault:
    [found] = read_faults(asked(folder, **fields))
    return found


def process(code, folder=None, **fields):
    variables = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if folder is not None:
        variables[VARIABLE] = asked(folder, **fields)
    words = [sys.executable, "-c", "from cluster.faults import FaultPoint, reach; " + code]
    return subprocess.Popen(words, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_nothing_happens_without_being_asked():
    done = process("[reach(point, 'x') for point in FaultPoint]; print('on')")
    assert done.communicate(timeout=30) == ("on\n", "")
    assert read_faults(None) == ()
    assert read_faults("") == ()


def test_only_the_asked_point_and_visit_act(tmp_path):
    one = fault(tmp_path, visit=2)
    one.meet(FaultPoint.CLAIMED, "")
    one.meet(FaultPoint.COMMIT_FENCED, "")
    with pytest.raises(RuntimeError, match="fault at commit_fenced"):
        one.meet(FaultPoint.COMMIT_FENCED, "/media/a.wav")
    assert json.loads((tmp_path / MARKER).read_text()) == {
        "pid": os.getpid(), "point": "commit_fenced", "visit": 2, "key": "/media/a.wav",
    }  # fmt: skip
    one.meet(FaultPoint.COMMIT_FENCED, "")


def test_a_process_that_comes_later_goes_on_counting(tmp_path):
    fault(tmp_path, visit=2).meet(FaultPoint.COMMIT_FENCED, "")
    code = "reach(FaultPoint.COMMIT_FENCED); print('on')"
    killed = process(code, tmp_path, visit=2, action="kill")
    assert killed.communicate(timeout=30)[0] == ""
    assert killed.returncode == -signal.SIGKILL
    after = process(code, tmp_path, visit=2, action="kill")
    assert after.communicate(timeout=30)[0] == "on\n"
    assert after.returncode == 0


def test_always_acts_at_every_visit_of_the_matching_key(tmp_path):
    one = fault(tmp_path, always=True, match="poison")
    one.meet(FaultPoint.COMMIT_FENCED, "/media/good.wav")
    for _ in range(3):
        with pytest.raises(RuntimeError):
            one.meet(FaultPoint.COMMIT_FENCED, "/media/poison.wav")


def test_exit_ends_the_process_through_python(tmp_path):
    with pytest.raises(SystemExit):
        fault(tmp_path, action="exit").meet(FaultPoint.COMMIT_FENCED, "")


def test_a_note_leaves_the_process_running(tmp_path):
    fault(tmp_path, action="note").meet(FaultPoint.COMMIT_FENCED, "")
    assert json.loads((tmp_path / MARKER).read_text())["pid"] == os.getpid()


def test_a_hang_lasts(tmp_path):
    hanging = process("reach(FaultPoint.COMMIT_FENCED); print('on')", tmp_path, action="hang")
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / MARKER).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(subprocess.TimeoutExpired):
            hanging.wait(0.3)
    finally:
        hanging.kill()
        out, _ = hanging.communicate(timeout=30)
    assert (tmp_path / MARKER).exists()
    assert out == ""


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"point": "nowhere"}', '{"point": "claimed", "action": "note", "folder": "/x", "vist": 1}']
)
def test_a_fault_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match=VARIABLE):
        read_faults(text)


def test_every_stage_of_the_chain_has_its_point():
    from actors.lanes import speech_chain
    from cluster.settings import load_settings

    for stage in speech_chain(load_settings(None)):
        assert FaultPoint(f"before_{stage.name}")
