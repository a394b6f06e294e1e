"""The process that reads media, and the stage that owns it."""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.decode import Decode
from cluster.errors import BadMediaError, MediaTimeoutError
from cluster.media import child as child_module
from cluster.media.child import Decoded, MediaChild
from cluster.media.decode import DECODER_ID
from cluster.media.hashing import hash_file, stamp_of
from cluster.media.node_cache import NodeCache
from cluster.media.timeline import RATE_HZ
from cluster.stage import run_stage
from cluster.types import rows_table, waveform
from tests.media_factory import (
    silence,
    sparse_wav,
    tone,
    write_wav,
)
from tests.media_reader import DEADLINE_S, MEMORY, decode


class TestProcess:
    def test_descriptors_memory_and_zombies_do_not_pile_up(self, fresh, wav, slow, tmp_path):
        bad = tmp_path / "bad.mp4"
        bad.write_bytes(b"words")
        decode(fresh, wav)
        gc.collect()
        before = _descriptors(os.getpid()), _descriptors(fresh.pid)
        for number in range(30):
            assert len(decode(fresh, wav).samples) == RATE_HZ
            with pytest.raises(BadMediaError):
                fresh.decode(bad, 0, DEADLINE_S)
            if number % 10 == 0:
                with pytest.raises(MediaTimeoutError):
                    fresh.decode(slow, 0, 0.05)
        gc.collect()
        assert (_descriptors(os.getpid()), _descriptors(fresh.pid)) == before

    def test_samples_outlive_the_child_which_may_be_closed_twice(self, fresh, wav):
        samples, pid = decode(fresh, wav).samples, fresh.pid
        fresh.close()
        fresh.close()
        assert not Path(f"/proc/{pid}").exists()
        np.testing.assert_array_equal(samples, tone(1))

    def test_a_forgotten_child_ends(self, wav):
        reader = MediaChild(MEMORY)
        decode(reader, wav)
        pid = reader.pid
        del reader
        gc.collect()
        assert not Path(f"/proc/{pid}").exists()

    def test_interrupts_are_for_the_driver(self, fresh, wav):
        decode(fresh, wav)
        pid = fresh.pid
        os.kill(pid, signal.SIGINT)
        decode(fresh, wav)
        assert fresh.pid == pid

    def test_an_interrupted_call_leaves_no_stale_answer(self, fresh, wav, tmp_path, monkeypatch):
        decode(fresh, wav)
        with monkeypatch.context() as patch:
            patch.setattr(child_module.json, "loads", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                fresh.probe(str(wav), DEADLINE_S)
        longer = write_wav(tmp_path / "longer.wav", tone(2))
        assert fresh.probe(longer, DEADLINE_S).duration_ms == 2000

    def test_the_child_dies_with_its_parent_even_at_work(self, slow, wav, tmp_path):
        written = tmp_path / "pid"
        pid = os.fork()
        if pid == 0:
            _work_until_killed(slow, wav, written)
        until(lambda: written.exists() and bool(written.read_text()))
        grandchild = int(written.read_text())
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        until(lambda: _state(grandchild) in ("", "Z"))


class TestStage:
    @pytest.fixture
    def stage(self, tmp_path: Path) -> Iterator[Decode]:
        stage = Decode(60, 600, MEMORY, NodeCache(tmp_path / "cache", 2**30))
        stage.load()
        assert stage.child.pid is None
        yield stage
        stage.close()

    def test_a_bad_row_costs_only_itself(self, stage, wav, tmp_path):
        bad = tmp_path / "bad.mp4"
        bad.write_bytes(b"words")
        table = run_stage(stage, _rows(wav, bad, wav))
        assert [bool(error) for error in table["error"].to_pylist()] == [False, True, False]
        assert table["error"][1]["failure"].as_py() == "bad_media"
        assert table["audio"].is_null().to_pylist() == [False, True, False]
        for row in (0, 2):
            np.testing.assert_array_equal(waveform(table, row), tone(1))
        assert table["audio_sha256"][0].as_py() == hashlib.sha256(tone(1).tobytes()).hexdigest()

    def test_it_counts_and_names_what_it_does(self, stage, wav):
        run_stage(stage, _rows(wav))
        assert (stage.decodes, stage.identity()) == (1, {"decoder": DECODER_ID})

    def test_a_row_without_sound_is_bad_media(self, stage, wav):
        table = run_stage(stage, _rows(wav, audio_stream=None))
        assert table["error"][0]["message"].as_py() == "no audio stream"
        assert stage.decodes == 0

    def test_a_touched_file_is_decoded_and_a_changed_one_is_refused(self, stage, wav):
        rows = _rows(wav)
        os.utime(wav, ns=(0, 0))
        assert run_stage(stage, rows)["error"].to_pylist() == [None]
        write_wav(wav, silence(1))
        [error] = run_stage(stage, rows)["error"].to_pylist()
        assert error["failure"] == "bad_media"
        assert "changed since it was registered" in error["message"]
        assert str(wav) in error["message"]

    def test_a_vanished_file_is_transient(self, stage, wav):
        rows = _rows(wav)
        wav.unlink()
        [error] = run_stage(stage, rows)["error"].to_pylist()
        assert (error["failure"], error["message"].startswith(f"{wav} is no longer there")) == ("transient", True)

    def test_a_pipe_or_a_folder_in_its_place_is_refused_at_once(self, stage, wav):
        rows = _rows(wav)
        wav.unlink()
        os.mkfifo(wav)
        [piped] = run_stage(stage, rows)["error"].to_pylist()
        wav.unlink()
        wav.mkdir()
        [folder] = run_stage(stage, rows)["error"].to_pylist()
        assert [piped["failure"], folder["failure"]] == ["bad_media", "bad_media"]
        assert "pipe" in piped["message"]
        assert "folder" in folder["message"]

    def test_what_replaces_a_file_while_it_is_decoded_is_not_taken_for_it(self, stage, wav, tmp_path, monkeypatch):
        """The open descriptor reads the old content on: the decode is sound."""
        rows = _rows(wav)
        _meanwhile(monkeypatch, stage, lambda: write_wav(tmp_path / "new.wav", silence(1)).replace(wav), after=True)
        table = run_stage(stage, rows)
        assert table["error"].to_pylist() == [None]
        np.testing.assert_array_equal(waveform(table, 0), tone(1))

    def test_what_replaces_a_file_between_the_look_and_the_opening_is_found_out(
        self, stage, wav, tmp_path, monkeypatch
    ):
        rows = _rows(wav)
        _meanwhile(monkeypatch, stage, lambda: write_wav(tmp_path / "new.wav", silence(1)).replace(wav), after=False)
        [error] = run_stage(stage, rows)["error"].to_pylist()
        assert error["failure"] == "bad_media"
        assert "changed since it was registered" in error["message"]

    def test_garbage_written_over_a_file_is_not_its_fault(self, stage, wav, monkeypatch):
        rows = _rows(wav)
        _meanwhile(monkeypatch, stage, lambda: wav.write_bytes(b"words"), after=False)
        [error] = run_stage(stage, rows)["error"].to_pylist()
        assert "changed since it was registered" in error["message"]

    def test_the_same_content_put_back_meanwhile_is_decoded_again(self, stage, wav, monkeypatch):
        rows, content = _rows(wav), wav.read_bytes()
        _meanwhile(monkeypatch, stage, lambda: wav.write_bytes(content), after=False)
        table = run_stage(stage, rows)
        assert table["error"].to_pylist() == [None]
        np.testing.assert_array_equal(waveform(table, 0), tone(1))

    def test_a_file_written_to_while_it_is_decoded_is_found_out(self, stage, tmp_path, monkeypatch):
        path = sparse_wav(tmp_path / "long.wav", 120, rate=192_000, channels=8)
        rows = _rows(path)
        writer = threading.Timer(0.2, _overwrite, (path,))
        _meanwhile(monkeypatch, stage, writer.start, after=False)
        [error] = run_stage(stage, rows)["error"].to_pylist()
        assert error["failure"] == "bad_media"
        assert "changed since it was registered" in error["message"]

    def test_a_file_that_never_rests_is_transient(self, stage, wav, monkeypatch):
        rows, ticks = _rows(wav), iter(range(1, 100))
        decode = stage.child.decode

        def read(*words: Any) -> Decoded:
            os.utime(wav, ns=(0, next(ticks)))
            return decode(*words)

        monkeypatch.setattr(stage.child, "decode", read)
        [error] = run_stage(stage, rows)["error"].to_pylist()
        assert (error["failure"], "keeps changing" in error["message"]) == ("transient", True)

    @pytest.mark.parametrize(("duration_ms", "deadline_s"), [(None, 660), (0, 60), (7_200_000, 1260)])
    def test_the_deadline_grows_with_the_length(self, stage, monkeypatch, wav, duration_ms, deadline_s):
        given: list[float] = []

        def decoded(path: str, stream: int, deadline: float) -> Decoded:
            given.append(deadline)
            return Decoded(tone(1), "0" * 64, 0, stamp_of(path))

        monkeypatch.setattr(stage.child, "decode", decoded)
        run_stage(stage, _rows(wav, duration_ms=duration_ms))
        assert given == [deadline_s]


def _rows(*paths: Path, duration_ms: int | None = 1000, audio_stream: int | None = 0):
    shared = {"lanes": ["speech"], "duration_ms": duration_ms, "audio_stream": audio_stream}
    return rows_table(
        [{"asset_id": number, "uri": str(path), **_registered(path), **shared} for number, path in enumerate(paths)]
    )


def _registered(path: Path) -> dict[str, Any]:
    sha256, stamp = hash_file(path)
    return {"sha256": sha256, "byte_size": stamp.byte_size, "mtime_ns": stamp.mtime_ns}


def _meanwhile(monkeypatch, stage: Decode, act: Callable[[], Any], *, after: bool) -> None:
    """`act` once, right before or right after the child reads."""
    decode, pending = stage.child.decode, [act]

    def read(path: Path, stream: int, deadline_s: float) -> Decoded:
        if not after and pending:
            pending.pop()()
        decoded = decode(path, stream, deadline_s)
        if pending:
            pending.pop()()
        return decoded

    monkeypatch.setattr(stage.child, "decode", read)


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"other sound")


def _work_until_killed(slow: Path, wav: Path, written: Path) -> None:
    try:
        reader = MediaChild(MEMORY)
        reader.probe(str(wav), DEADLINE_S)
        written.write_text(str(reader.pid))
        reader.decode(str(slow), 0, DEADLINE_S)
    finally:
        os._exit(1)


def until(reached, deadline_s: float = 20.0) -> None:
    end = time.monotonic() + deadline_s
    while not reached():
        assert time.monotonic() < end, f"not within {deadline_s} s"
        time.sleep(0.02)


def _state(pid: int | None) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return ""


def _descriptors(pid: int | None) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
