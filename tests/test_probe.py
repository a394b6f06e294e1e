from __future__ import annotations

import struct

import numpy as np
import pytest

from cluster.errors import BadMediaError
from cluster.media.probe import probe, recorded_at
from tests.media_factory import (
    film_clip,
    shared_media,
    silence,
    sparse_wav,
    tone,
    write_audio,
    write_video,
    write_wav,
)


def test_a_video_with_sound(tmp_path):
    tag = {"creation_time": "2024-03-09T15:30:00.000000Z"}
    found = probe(str(write_video(tmp_path / "a.mp4", 2, tone(2), metadata=tag)))
    assert (found.kind, found.audio_stream, found.duration_ms) == ("video", 1, 2000)
    assert (found.width, found.height, found.fps) == (64, 48, 10.0)
    assert (found.sample_rate_hz, found.channels) == (16_000, 1)
    assert found.recorded_at == "2024-03-09T15:30:00+00:00"
    assert "mp4" in found.container


def test_a_video_without_sound(tmp_path):
    found = probe(str(write_video(tmp_path / "a.mkv", 1)))
    assert (found.kind, found.audio_stream, found.sample_rate_hz, found.channels) == (
        "video",
        None,
        None,
        None,
    )


def test_sound_alone(tmp_path):
    stereo = np.stack([tone(1.5), silence(1.5)], axis=1)
    found = probe(str(write_wav(tmp_path / "a.wav", stereo)))
    assert (found.kind, found.audio_stream, found.duration_ms, found.channels) == ("audio", 0, 1500, 2)
    assert (found.width, found.height, found.fps, found.recorded_at) == (None, None, None, None)


@pytest.mark.parametrize(("suffix", "codec"), [("mp3", "libmp3lame"), ("flac", "flac")])
def test_cover_art_is_no_video(tmp_path, suffix, codec):
    found = probe(str(write_audio(tmp_path / f"a.{suffix}", tone(2), codec, cover=True)))
    assert (found.kind, found.audio_stream, found.duration_ms, found.width) == ("audio", 0, 2000, None)


@pytest.mark.parametrize("default", [0, 1])
def test_the_default_disposition_chooses_the_sound(tmp_path, default):
    path = write_video(tmp_path / "a.mkv", 1, tracks=[tone(1), silence(1)], default_track=default)
    assert probe(str(path)).audio_stream == 1 + default


def test_the_name_does_not_decide(tmp_path):
    path = write_wav(tmp_path / "a.wav", tone(1)).rename(tmp_path / "b.mp4")
    assert (probe(str(path)).container, probe(str(path)).kind) == ("wav", "audio")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"only some words\n" * 500, "Invalid data"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://localhost:1/a.ts\n#EXT-X-ENDLIST\n", "m3u8"),
        (b"ffconcat version 1.0\nfile other.mp4\n", "other.mp4"),
        (b"1\n00:00:01,000 --> 00:00:02,000\nhello\n\n", "neither sound nor pictures"),
    ],
)
def test_what_holds_no_media_is_bad_media_with_a_reason(tmp_path, content, words):
    write_video(tmp_path / "other.mp4", 1, tone(1))
    path = tmp_path / "text.mp4"
    path.write_bytes(content)
    _logged_by_ffmpeg()
    with pytest.raises(BadMediaError, match=words) as caught:
        probe(str(path))
    assert "Traceback" not in str(caught.value)


def test_a_header_without_samples_is_bad_media(tmp_path):
    with pytest.raises(BadMediaError, match=r"header \(wav\) but no samples"):
        probe(str(write_wav(tmp_path / "a.wav", silence(0))))


def test_a_length_that_no_recording_has_is_unknown(tmp_path):
    month_s = 31 * 24 * 3600
    assert probe(str(sparse_wav(tmp_path / "a.wav", month_s, rate=8))).duration_ms == month_s * 1000
    assert probe(str(sparse_wav(tmp_path / "a.wav", month_s + 1, rate=8))).duration_ms is None


def test_a_length_that_does_not_fit_into_the_file_is_unknown(tmp_path):
    path = write_video(tmp_path / "a.mkv", 2, tone(2))
    head, mark, tail = path.read_bytes().partition(b"\x44\x89\x88")
    hour_ms = struct.pack(">d", 3_600_000)
    path.write_bytes(head + mark + hour_ms + tail[8:])
    assert probe(str(path)).duration_ms is None
    path.write_bytes(head + mark + hour_ms + tail[8:] + bytes(36_000))
    assert probe(str(path)).duration_ms == 3_600_000


def test_a_truncated_video_says_what_is_missing(tmp_path):
    path = write_video(tmp_path / "a.mp4", 2, tone(2))
    path.write_bytes(path.read_bytes()[:2000])
    _logged_by_ffmpeg()
    with pytest.raises(BadMediaError, match="moov atom not found"):
        probe(str(path))


def test_an_unreadable_file_is_no_bad_media(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.mp4"):
        probe(str(tmp_path / "absent.mp4"))
    with pytest.raises(BadMediaError, match="folder"):
        probe(str(tmp_path))


def test_real_recordings():
    media = shared_media()
    assert probe(str(next((media / "speakers").glob("*.flac")))).kind == "audio"
    nasa = probe(str(media / "video/nasa_13013.mp4"))
    assert (nasa.kind, nasa.duration_ms, nasa.channels) == ("video", 13_056, 2)
    photograph = probe(str(next((media / "duplicates").glob("*.jpg"))))
    assert (photograph.kind, photograph.width, photograph.audio_stream) == ("image", 640, None)
    for name in ("bad.wav", "null.wav"):
        with pytest.raises(BadMediaError):
            probe(str(media / "broken" / name))


def test_the_film_clip():
    found = probe(str(film_clip()))
    assert (found.kind, found.fps, found.duration_ms) == ("video", 25.0, 212_091)


MTIME_NS = 1_700_000_000 * 10**9


@pytest.mark.parametrize(
    ("tag", "name", "expected"),
    [
        ("2024-03-09T15:30:00.000000Z", "20200101.mp4", ("2024-03-09T15:30:00+00:00", "tag")),
        ("2024-03-09T15:30:00+0200", "a.mp4", ("2024-03-09T15:30:00+02:00", "tag")),
        ("1904-01-01T00:00:00Z", "VID_20240309_153000.mp4", ("2024-03-09T15:30:00+00:00", "name")),
        ("2003", "2024-03-09.wav", ("2024-03-09T00:00:00+00:00", "name")),
        (None, "PXL_20240309_153000123.mp4", ("2024-03-09T15:30:00+00:00", "name")),
        (None, "2024-03-09 15.30.00.mov", ("2024-03-09T15:30:00+00:00", "name")),
        (None, "VID-20240309-WA0001.mp4", ("2024-03-09T00:00:00+00:00", "name")),
        (None, "20240309_996161.mp4", ("2024-03-09T00:00:00+00:00", "name")),
        (None, "20241309 20240309.mp4", ("2024-03-09T00:00:00+00:00", "name")),
        ("nonsense", "1688-142285-0000.flac", ("2023-11-14T22:13:20+00:00", "mtime")),
        (None, "120240309.mp4", ("2023-11-14T22:13:20+00:00", "mtime")),
        (None, "20240230.mp4", ("2023-11-14T22:13:20+00:00", "mtime")),
    ],
)
def test_recorded_at(tag, name, expected):
    assert recorded_at(tag, name, MTIME_NS) == expected


@pytest.mark.parametrize("mtime_ns", [None, 0, -(10**30), 10**30])
def test_recorded_at_may_be_unknown(mtime_ns):
    assert recorded_at(None, "a.mp4", mtime_ns) == (None, None)


def _logged_by_ffmpeg() -> None:
    from cluster.media.child_main import quiet_ffmpeg

    quiet_ffmpeg()
