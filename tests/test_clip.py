"""Clips: the picture and the sound that a player gives first, last and in between are those of the recording."""

from __future__ import annotations

import os
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cluster.errors import BadMediaError
from cluster.media.child import MediaChild
from cluster.media.clip import Clip, ClipSpec
from tests.media_factory import Samples, film_clip, tone, write_audio, write_every_container, write_video, write_wav
from tests.media_reader import DEADLINE_S, decode

RATE_HZ = 16_000


def cut(reader: MediaChild, path: Path, form: Any, start_ms: int, end_ms: int, out: Path, **more: Any) -> Clip:
    stream = more.get("stream", reader.probe(path, DEADLINE_S).audio_stream)
    spec = ClipSpec(form, start_ms, end_ms, stream)
    handle = os.open(out, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        clip = reader.clip(path, spec, more.get("anchor"), handle, DEADLINE_S)
        assert clip.size_bytes == out.stat().st_size > 0
        return clip
    finally:
        os.close(handle)


def shown(path: Path) -> list[tuple[float, Any]]:
    """Every picture that a player shows, with its time from the start in seconds."""
    with av.open(str(path)) as container:
        track = container.streams.video[0]
        zero = (container.start_time or 0) / 1e6
        return [
            (float(frame.pts * track.time_base) - zero, frame.reformat(format="rgb24").to_ndarray())
            for frame in container.decode(track)
        ]


def at(pictures: list[tuple[float, Any]], s: float) -> Any:
    return [picture for time, picture in pictures if time <= s + 1e-6][-1]


def heard(path: Path, rate_hz: int = RATE_HZ) -> Samples:
    with av.open(str(path)) as container:
        track = container.streams.audio[0]
        resampler = av.AudioResampler("s16", "mono", rate_hz)
        found = [piece for frame in container.decode(track) for piece in resampler.resample(frame)]
        found += resampler.resample(None)
        return np.concatenate([piece.to_ndarray()[0] for piece in found])


def write_h264(path: Path, seconds: float, sound: Samples | None, fps: int = 25, **options: str) -> Path:
    """Numbered pictures with B-frames and few key frames, so that a start lies between them."""
    from tests.film_factory import scene

    with av.open(str(path), "w") as container:
        told = {"g": "100", "bf": "3", "preset": "veryfast", "crf": "12", **options}
        picture: Any = container.add_stream("libx264", rate=fps, options=told)
        picture.width, picture.height, picture.pix_fmt = 160, 120, options.get("pix_fmt", "yuv420p")
        picture.codec_context.thread_count = 1
        audio: Any = container.add_stream("aac", rate=RATE_HZ, layout="mono") if sound is not None else None
        for number, array in enumerate(scene(3, seconds * fps / 10)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), "rgb24")
            frame.pts = number
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        if audio is not None and sound is not None:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None]), "s16", "mono")
            frame.sample_rate, frame.pts = RATE_HZ, 0
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def chirp(seconds: float) -> Samples:
    """A rising tone: each moment sounds like no other."""
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return np.round(np.sin(2 * np.pi * (200 + 60 * time) * time) * 8000).astype(np.int16)


def lag(whole: Samples, part: Samples, near: int) -> int:
    """Where in `whole`, near a place, the sound of `part` lies."""
    window = whole[near - 400 : near + len(part) + 400].astype(float)
    return near - 400 + int(np.argmax(np.correlate(window, part.astype(float), "valid")))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_copied_clip_begins_with_the_picture_shown_then(reader: MediaChild, tmp_path: Path, suffix: str) -> None:
    film = write_h264(tmp_path / f"film.{suffix}", 10, chirp(10))
    original, sound = shown(film), heard(film)
    for start_ms, end_ms in ((0, 700), (3_333, 5_000), (3_960, 4_500), (7_999, 10_000)):
        out = tmp_path / "clip.mp4"
        clip = cut(reader, film, "mp4", start_ms, end_ms, out)
        assert clip.is_copied
        assert start_ms - 40 <= clip.start_ms <= start_ms
        pictures = shown(out)
        # copied, not encoded anew: bit for bit
        assert pictures[0][0] == 0
        assert np.array_equal(pictures[0][1], at(original, start_ms / 1000))
        middle_s = (end_ms - start_ms) / 2000
        assert np.array_equal(at(pictures, middle_s), at(original, clip.start_ms / 1000 + middle_s))
        part = heard(out)
        assert abs(len(part) - (end_ms - clip.start_ms) * 16) <= 1024
        found = lag(sound, part[2000:8000], round(clip.start_ms * 16) + 2000) - 2000
        assert abs(found - clip.start_ms * 16) < 40


def test_a_real_film_is_cut_where_it_is_asked_for(reader: MediaChild, tmp_path: Path) -> None:
    clip = cut(reader, film_clip(), "mp4", 63_210, 64_500, tmp_path / "clip.mp4")
    assert clip.is_copied
    assert np.array_equal(shown(tmp_path / "clip.mp4")[0][1], at(shown(film_clip()), 63.21))


def test_other_pictures_are_encoded_anew_and_exact_in_time(reader: MediaChild, tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.avi", 8, chirp(8), size=(160, 120), audio_codec="libmp3lame")
    original = shown(film)
    clip = cut(reader, film, "mp4", 2_345, 5_000, tmp_path / "clip.mp4")
    assert (clip.is_copied, clip.start_ms) == (False, 2_345)
    pictures = shown(tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.audio[0].codec_context.name == "aac"
    for s in (0.0, 0.5, 1.3, 2.6):
        known = at(original, 2.345 + s).astype(int)
        other = at(original, 2.345 + s - 0.1).astype(int)
        ours = at(pictures, s).astype(int)
        assert np.abs(ours - known).mean() < min(6, np.abs(ours - other).mean())
    assert pictures[-1][0] < 2.655
    assert abs(len(heard(tmp_path / "clip.mp4")) - 2_655 * 16) <= 1024


def test_an_anchor_spares_reading_and_changes_nothing(reader: MediaChild, tmp_path: Path) -> None:
    from cluster.media.pictures import PictureSpec

    film = write_video(tmp_path / "film.mp4", 12)
    frames = reader.pictures(film, "video", PictureSpec(), DEADLINE_S).table.to_pylist()[0]["frames"]
    made = []
    for anchor in (None, frames[-1], {**frames[-1], "phash": bytes(8)}):
        cut(reader, film, "mp4", 11_000, 11_900, tmp_path / "clip.mp4", anchor=anchor)
        made.append((tmp_path / "clip.mp4").read_bytes())
    assert made == made[:1] * 3


def test_a_wav_clip_holds_the_samples_that_ingest_heard(reader: MediaChild, tmp_path: Path) -> None:
    for path in write_every_container(tmp_path, chirp(6)):
        whole = decode(reader, path).samples
        for start_ms, end_ms in ((0, 1_000), (2_345, 4_001), (5_000, 9_000)):
            cut(reader, path, "wav", start_ms, end_ms, tmp_path / "clip.wav")
            with wave.open(str(tmp_path / "clip.wav")) as file:
                assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE_HZ, 1, 2)
                samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
            assert np.array_equal(samples, whole[start_ms * 16 : end_ms * 16]), path.name


def test_an_m4a_clip_sounds_as_the_recording_does_then(reader: MediaChild, tmp_path: Path) -> None:
    for path in write_every_container(tmp_path, chirp(6)):
        whole = decode(reader, path).samples
        cut(reader, path, "m4a", 2_345, 4_000, tmp_path / "clip.m4a")
        part = heard(tmp_path / "clip.m4a")
        assert abs(len(part) - 1_655 * 16) <= 2048, path.name
        # Opus counts its delay in the timestamps, which a reading from the start passes over.
        assert abs(lag(whole, part[4000:12000], 2_345 * 16 + 4000) - (2_345 * 16 + 4000)) < 250, path.name


def test_stereo_stays_stereo_and_odd_rates_become_ones_that_play(reader: MediaChild, tmp_path: Path) -> None:
    sides = np.stack([tone(2, 300), tone(2, 900)], axis=1)
    for rate, kept in ((44_100, 44_100), (96_000, 48_000)):
        path = write_wav(tmp_path / "two.wav", sides, rate)
        cut(reader, path, "m4a", 0, 200, tmp_path / "clip.m4a")
        with av.open(str(tmp_path / "clip.m4a")) as container:
            assert (container.streams.audio[0].rate, container.streams.audio[0].channels) == (kept, 2)


def test_a_film_without_sound_and_one_that_is_quiet_at_its_end_are_cut(reader: MediaChild, tmp_path: Path) -> None:
    mute = write_video(tmp_path / "mute.mp4", 3)
    cut(reader, mute, "mp4", 1_000, 2_000, tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    short = write_video(tmp_path / "short.mp4", 6, tone(2))
    cut(reader, short, "mp4", 4_000, 5_000, tmp_path / "clip.mp4")
    assert abs(len(heard(tmp_path / "clip.mp4")) - 16_000) <= 1024
    long = write_video(tmp_path / "long.mp4", 2, tone(6))
    cut(reader, long, "mp4", 4_000, 5_000, tmp_path / "clip.mp4")
    assert len(shown(tmp_path / "clip.mp4")) >= 1


def test_what_is_not_there_is_said(reader: MediaChild, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "tone.wav", tone(1))
    with pytest.raises(BadMediaError, match=r"the sound ends at 1.000 s"):
        cut(reader, path, "wav", 5_000, 6_000, tmp_path / "clip.wav")
    with pytest.raises(BadMediaError, match="no moving pictures"):
        cut(reader, path, "mp4", 0, 500, tmp_path / "clip.mp4")
    with pytest.raises(BadMediaError, match="no sound"):
        cut(reader, write_video(tmp_path / "mute.mp4", 2), "m4a", 0, 500, tmp_path / "clip.m4a")
    cover = write_audio(tmp_path / "song.mp3", tone(2), "libmp3lame", cover=True)
    with pytest.raises(BadMediaError, match="no moving pictures"):
        cut(reader, cover, "mp4", 0, 500, tmp_path / "clip.mp4")


def test_a_turned_film_stays_turned(reader: MediaChild, tmp_path: Path) -> None:
    film = write_h264(tmp_path / "film.mp4", 2, None)
    turned = tmp_path / "turned.mp4"
    matrix = (0).to_bytes(4, "big") + (65536).to_bytes(4, "big") + bytes(4)
    plain = b"".join(number.to_bytes(4, "big") for number in (65536, 0, 0, 0, 65536, 0, 0, 0, 0x40000000))
    quarter = matrix + b"".join(number.to_bytes(4, "big", signed=True) for number in (-65536, 0, 0, 0, 0, 0x40000000))
    content = film.read_bytes()
    head, _, tail = content.partition(b"tkhd")
    turned.write_bytes(head + b"tkhd" + tail.replace(plain, quarter, 1))
    assert cut(reader, turned, "mp4", 500, 1_500, tmp_path / "clip.mp4").is_copied
    with av.open(str(turned)) as before, av.open(str(tmp_path / "clip.mp4")) as after:
        rotations = [next(one.decode(one.streams.video[0])).rotation for one in (before, after)]
    assert rotations[0] != 0
    assert rotations[0] == rotations[1]
