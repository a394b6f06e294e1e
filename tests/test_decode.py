"""Sound and times of what the media child decodes, and what it makes of trouble."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import BadMediaError, MediaCrashError, MediaResourceError, MediaTimeoutError, classify
from cluster.media import child as child_module
from cluster.media.child import MediaChild
from cluster.media.hashing import ChangingError
from cluster.media.timeline import RATE_HZ
from cluster.types import SAMPLE_RATE_HZ
from tests.media_factory import (
    call_wav,
    film_clip,
    shared_media,
    silence,
    sparse_wav,
    tone,
    wav_header,
    write_audio,
    write_video,
    write_wav,
)
from tests.media_reader import DEADLINE_S, decode


def heard_s(samples: np.ndarray) -> tuple[float, float]:
    """When the first and the last loud sample sound."""
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > 1000) / RATE_HZ
    return float(loud[0]), float(loud[-1])


class TestSound:
    def test_16_khz_mono_comes_back_bit_for_bit(self, reader, wav):
        decoded = decode(reader, wav)
        np.testing.assert_array_equal(decoded.samples, tone(1))
        assert (decoded.samples.dtype, RATE_HZ) == (np.int16, SAMPLE_RATE_HZ)
        assert decoded.sha256 == hashlib.sha256(tone(1).tobytes()).hexdigest()
        assert decoded.skipped_packets == 0

    @pytest.mark.parametrize(
        ("suffix", "codec"), [("mp3", "libmp3lame"), ("flac", "flac"), ("m4a", "aac"), ("opus", "libopus")]
    )
    def test_length_and_bytes_of_every_codec(self, reader, fresh, tmp_path, suffix, codec):
        path = write_audio(tmp_path / f"a.{suffix}", tone(64 * 1024 / RATE_HZ), codec)
        decoded = decode(reader, path)
        assert abs(len(decoded.samples) / RATE_HZ - 4.096) <= 0.02
        again = decode(fresh, path)
        assert again.sha256 == decoded.sha256 == hashlib.sha256(again.samples.tobytes()).hexdigest()

    @pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
    def test_other_rates_keep_their_length_and_loudness(self, reader, tmp_path, rate):
        pitch = tone(3 * rate / RATE_HZ, hz=440 * RATE_HZ / rate)
        samples = decode(reader, write_wav(tmp_path / "a.wav", pitch, rate)).samples
        assert abs(len(samples) / RATE_HZ - 3) <= 0.02
        middle = samples[RATE_HZ : 2 * RATE_HZ].astype(np.float64)
        assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.3 * 32767 / np.sqrt(2), rel=0.02)

    def test_channels_are_averaged_and_never_clip(self, reader, tmp_path):
        loud = tone(1, level=0.9)
        one_side = decode(reader, write_wav(tmp_path / "one.wav", np.stack([loud, silence(1)], axis=1)))
        np.testing.assert_allclose(one_side.samples, loud / 2, atol=2)
        both = decode(reader, write_wav(tmp_path / "both.wav", np.stack([loud, loud], axis=1)))
        np.testing.assert_allclose(both.samples, loud, atol=2)

    @pytest.mark.parametrize("channels", [3, 6, 12, 17, 32, 255])
    def test_unusual_channel_counts(self, reader, tmp_path, channels):
        many = np.repeat(tone(1)[:, None], channels, axis=1)
        samples = decode(reader, write_wav(tmp_path / "a.wav", many)).samples
        assert len(samples) == RATE_HZ
        assert np.abs(samples).max() > 1000

    @pytest.mark.parametrize("bits", [8, 16, 24, 32])
    def test_many_channels_are_averaged_at_every_depth(self, reader, tmp_path, bits):
        wave = tone(1).astype(np.int32) << 16
        body = (wave >> (32 - bits))[:, None].repeat(20, axis=1)
        raw = (body + 128).astype(np.uint8).tobytes() if bits == 8 else body.astype("<i4").view(np.uint8)
        if bits != 8:
            raw = raw.reshape(-1, 4)[:, : bits // 8].tobytes()
        path = tmp_path / "a.wav"
        path.write_bytes(wav_header(len(raw), channels=20, bits=bits) + raw)
        np.testing.assert_allclose(decode(reader, path).samples, tone(1), atol=260 if bits == 8 else 2)

    @pytest.mark.parametrize("stream", [1, 2])
    def test_the_stream_asked_for_is_decoded(self, reader, tmp_path, stream):
        path = write_video(tmp_path / "a.mkv", 2, tracks=[tone(2), silence(2)])
        assert bool(np.any(decode(reader, path, stream).samples)) is (stream == 1)

    def test_real_recordings(self, reader):
        folder = shared_media()
        narration = decode(reader, folder / "video/nasa_13013.mp4")
        assert len(narration.samples) == pytest.approx(13.056 * RATE_HZ, abs=320)
        assert len(decode(reader, call_wav()).samples) == 30 * RATE_HZ

    def test_a_film_is_decoded_in_place(self, reader):
        decoded = decode(reader, film_clip())
        assert len(decoded.samples) == pytest.approx(212.09 * RATE_HZ, abs=320)
        assert not decoded.samples.flags.writeable
        assert not decoded.samples.flags.owndata


class TestTimes:
    @pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
    def test_sound_that_starts_late_is_padded(self, reader, tmp_path, suffix):
        path = write_video(tmp_path / f"a.{suffix}", 3, tone(2), audio_start_s=0.7)
        start, end = heard_s(decode(reader, path).samples)
        assert start == pytest.approx(0.7, abs=0.02)
        assert end == pytest.approx(2.7, abs=0.02)

    def test_a_pause_in_the_timestamps_becomes_silence(self, reader, tmp_path):
        path = write_audio(tmp_path / "a.mkv", tone(3), "pcm_s16le", pause=(1.024, 2.0))
        samples = decode(reader, path).samples
        assert len(samples) == 5 * RATE_HZ
        assert not np.any(samples[round(1.024 * RATE_HZ) : round(3.024 * RATE_HZ)])
        np.testing.assert_array_equal(samples[: round(1.024 * RATE_HZ)], tone(3)[: round(1.024 * RATE_HZ)])
        np.testing.assert_array_equal(samples[round(3.024 * RATE_HZ) :], tone(3)[round(1.024 * RATE_HZ) :])

    def test_damaged_packets_are_left_out_and_times_hold(self, reader, tmp_path):
        path = write_audio(tmp_path / "a.mkv", tone(10), "flac")
        data = bytearray(path.read_bytes())
        third = len(data) // 3
        data[third : third + 2000] = bytes(2000)
        path.write_bytes(bytes(data))
        decoded = decode(reader, path)
        assert decoded.skipped_packets > 0
        assert len(decoded.samples) == pytest.approx(10 * RATE_HZ, abs=0.3 * RATE_HZ)
        np.testing.assert_array_equal(decoded.samples[-RATE_HZ:], tone(10)[-RATE_HZ:])

    @pytest.mark.parametrize("seconds", [2, 12])
    def test_timestamps_that_start_again_lose_and_add_nothing(self, reader, tmp_path, seconds):
        part = write_audio(tmp_path / "part.ts", tone(seconds), "mp2")
        (tmp_path / "whole.ts").write_bytes(part.read_bytes() * 2)
        samples = decode(reader, tmp_path / "whole.ts").samples
        assert len(samples) == pytest.approx(2 * len(decode(reader, part).samples), abs=160)

    def test_a_truncated_recording_gives_what_is_there(self, reader, tmp_path):
        path = write_video(tmp_path / "a.mkv", 4, tone(4))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert 0.5 * RATE_HZ < len(decode(reader, path).samples) < 4 * RATE_HZ


class TestTrouble:
    @pytest.mark.parametrize("content", [b"", b"words\n" * 1000, bytes(5000)])
    def test_no_media(self, reader, tmp_path, content):
        path = tmp_path / "a.mp4"
        path.write_bytes(content)
        with pytest.raises(BadMediaError):
            reader.decode(path, 0, DEADLINE_S)

    def test_a_header_without_sound(self, reader, tmp_path):
        path = write_wav(tmp_path / "a.wav", silence(0))
        with pytest.raises(BadMediaError, match="no sound could be decoded"):
            reader.decode(str(path), 0, DEADLINE_S)

    @pytest.mark.parametrize("stream", [-1, 0, 7])
    def test_a_stream_that_is_no_sound(self, reader, tmp_path, stream):
        path = write_video(tmp_path / "a.mkv", 1)
        with pytest.raises(BadMediaError, match=f"stream {stream} is no sound"):
            reader.decode(str(path), stream, DEADLINE_S)

    @pytest.mark.parametrize(
        ("channels", "rate", "words"),
        [
            (1, 7, "a sampling rate of 7 Hz"),
            (1, 2**31 - 1, "a sampling rate of 2147483647 Hz"),
            (0, 16_000, "channel layout"),
        ],
    )
    def test_absurd_rates_and_channel_counts_are_bad_media(self, reader, tmp_path, channels, rate, words):
        body = tone(1).tobytes()
        path = tmp_path / "a.wav"
        path.write_bytes(wav_header(len(body), rate, channels, block=channels * 2) + body)
        with pytest.raises(BadMediaError, match=words):
            reader.decode(path, 0, DEADLINE_S)

    def test_damage_that_ffmpeg_calls_an_io_error_is_damage(self, reader, tmp_path):
        """Its Matroska demuxer says EIO of a truncated element; its AAC decoder says EPERM of a damaged frame."""
        whole = write_audio(tmp_path / "whole.webm", tone(2), "libopus").read_bytes()
        path, reasons = tmp_path / "a.webm", set()
        for length in range(1, len(whole), 23):
            path.write_bytes(whole[:length])
            try:
                reader.decode(path, 0, DEADLINE_S)
            except BadMediaError as error:
                reasons.add(str(error).partition("(")[0])
        assert any("Input/output error" in reason for reason in reasons), reasons

    def test_ffmpegs_own_reason_crosses_the_process(self, reader, tmp_path):
        path = write_video(tmp_path / "a.mp4", 2, tone(2))
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(BadMediaError, match="moov atom not found"):
            reader.probe(str(path), DEADLINE_S)

    def test_a_vanished_file_keeps_its_path(self, reader, tmp_path):
        with pytest.raises(FileNotFoundError) as caught:
            reader.decode(str(tmp_path / "gone.mp4"), 0, DEADLINE_S)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, str(tmp_path / "gone.mp4"))

    def test_a_file_that_grows_while_it_is_read_is_told(self, reader, slow):
        writer = threading.Timer(0.3, _overwrite, (slow,))
        writer.start()
        with pytest.raises(ChangingError, match="changed while it was read") as caught:
            reader.decode(sparse_wav(slow, 120, rate=192_000, channels=8), 0, DEADLINE_S)
        assert classify(caught.value) == "transient"

    def test_a_hanging_file_costs_its_deadline_and_the_next_call_works(self, fresh, slow, wav):
        decode(fresh, wav)
        first = fresh.pid
        with pytest.raises(MediaTimeoutError, match=r"deadline of 0\.3 s") as caught:
            fresh.decode(str(slow), 0, 0.3)
        assert classify(caught.value) == "timeout"
        assert fresh.pid is None
        assert len(decode(fresh, wav).samples) == RATE_HZ
        assert fresh.pid != first

    def test_a_stopped_child_is_replaced(self, fresh, wav):
        decode(fresh, wav)
        os.kill(fresh.pid, signal.SIGSTOP)
        with pytest.raises(MediaTimeoutError):
            fresh.decode(str(wav), 0, 0.3)
        assert len(decode(fresh, wav).samples) == RATE_HZ

    @pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGSEGV])
    def test_a_child_that_dies_at_work_is_a_crash_with_its_signal(self, fresh, slow, wav, death):
        decode(fresh, wav)
        killer = threading.Timer(0.3, os.kill, (fresh.pid, death))
        killer.start()
        with pytest.raises(MediaCrashError, match=death.name) as caught:
            fresh.decode(str(slow), 0, DEADLINE_S)
        killer.join()
        assert classify(caught.value) == "crash"
        assert len(decode(fresh, wav).samples) == RATE_HZ

    def test_a_child_that_dies_between_two_files_blames_neither(self, fresh, wav):
        decode(fresh, wav)
        os.kill(fresh.pid, signal.SIGKILL)
        os.waitid(os.P_PID, fresh.pid, os.WEXITED | os.WNOWAIT)
        assert len(decode(fresh, wav).samples) == RATE_HZ

    def test_too_little_memory_is_a_resource_failure(self, tmp_path):
        small = MediaChild(2**20)
        try:
            with pytest.raises(MediaResourceError) as caught:
                small.decode(str(write_wav(tmp_path / "a.wav", tone(60))), 0, DEADLINE_S)
            assert classify(caught.value) == "resource"
            with pytest.raises(MediaResourceError):
                small.decode(str(write_audio(tmp_path / "a.flac", tone(60), "flac")), 0, DEADLINE_S)
        finally:
            small.close()

    def test_a_child_that_dies_while_it_starts_is_started_again(self, fresh, wav, monkeypatch):
        wait, pids = child_module._Child._wait_until_ready, []

        def killed_once(child):
            pids.append(child.process.pid)
            if len(pids) == 1:
                child.process.kill()
            wait(child)

        monkeypatch.setattr(child_module._Child, "_wait_until_ready", killed_once)
        assert len(decode(fresh, wav).samples) == RATE_HZ
        assert len(set(pids)) == 2

    def test_a_child_that_cannot_start_says_why(self, fresh, wav, monkeypatch):
        monkeypatch.setattr(child_module, "_MODULE", "cluster.media.no_such_module")
        with pytest.raises(ConnectionError, match=r"did not start: exit code 1 .*no_such_module"):
            fresh.decode(str(wav), 0, DEADLINE_S)


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"other sound")
