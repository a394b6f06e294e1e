"""The worker's protocol: whatever its end looks like, the driver goes on or says why not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cluster.errors import RushesError
from jobs import worker
from jobs.worker import MAX_DEATHS, Worker

# A process that speaks the protocol and ends in the way its last argument names.
STAND_IN = """
import os, pickle, struct, sys, time
from multiprocessing.connection import Connection
link, way = Connection(int(sys.argv[1])), sys.argv[2]
link.recv()
if way == "loading":
    os._exit(3)
link.send(("ready", None))
row = link.recv()
if way == "message":
    words = pickle.dumps(("row", "x" * 100_000))
    os.write(link.fileno(), struct.pack("!i", len(words)) + words[:1000])
    os._exit(1)
if way == "blocks":
    while len(row) == 1:
        link.send(("rows", [{**row[0], "outcome": "done"}]))
        row = link.recv()
    os._exit(1)
if way == "stays":
    link.close()
    time.sleep(60)
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A worker whose process ends in that way."""
    script, real = tmp_path / "stand_in.py", subprocess.Popen
    script.write_text(STAND_IN)
    monkeypatch.setattr(worker, "END_S", 0.3)

    def made(way):
        monkeypatch.setattr(
            worker.subprocess, "Popen", lambda words, **rest: real([sys.executable, script, words[-1], way], **rest)
        )
        return Worker("{}", (), 1, tmp_path / "log" / "worker.log")

    return made


@pytest.mark.parametrize(("way", "epitaph"), [("message", "exit code 1"), ("stays", "it hung up and stayed")])
def test_a_worker_that_breaks_off_is_replaced(start, way, epitaph, caplog):
    one = start(way)
    [done] = one.run([{"asset_id": 1, "uri": "/a.wav"}])
    assert (done["outcome"], one.pid) == (None, None)
    assert caplog.text.count(epitaph) == MAX_DEATHS


def test_the_rows_of_a_block_that_ends_its_worker_are_sent_again_one_by_one(start, caplog):
    one = start("blocks")
    done = one.run([{"asset_id": number, "uri": f"/{number}.wav"} for number in range(3)])
    assert [(row["asset_id"], row["outcome"]) for row in done] == [(0, "done"), (1, "done"), (2, "done")]
    assert caplog.text.count("on /0.wav and 2 more; another one takes over") == 1
    one.close()


def test_workers_that_end_while_they_load_end_the_run_with_the_reason(start):
    one = start("loading")
    with pytest.raises(RushesError, match=r"the models do not load: 3 workers.*exit code 3; see .*worker.log"):
        one.run([{"asset_id": 1, "uri": "/a.wav"}])
    assert one.pid is None


def test_a_process_that_cannot_be_made_is_said(start, monkeypatch):
    one = start("")

    def refuse(*_, **__):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(worker.subprocess, "Popen", refuse)
    with pytest.raises(RushesError, match=r"no worker starts: .*unavailable"):
        one.run([{"asset_id": 1, "uri": "/a.wav"}])
