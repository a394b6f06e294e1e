"""Keyframes of videos: each stored time shows the stored picture, in passing, picked again, and in a player."""

from __future__ import annotations

import hashlib
import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from actors.pictures import Pictures
from cluster.errors import BadMediaError, MediaResourceError, MediaTimeoutError
from cluster.media.child import MediaChild
from cluster.media.hashing import hash_file, stamp_of
from cluster.media.look import thumbnail
from cluster.media.moving import open_reel
from cluster.media.node_cache import NodeCache
from cluster.media.pictures import PictureSpec, PixelSpec
from cluster.stage import run_stage
from cluster.types import COLUMNS, rows_table, with_column
from tests.media_factory import film_clip, shared_media, tone, write_audio, write_video
from tests.media_reader import DEADLINE_S
from tests.picture_factory import apart, counted, jpeg, played, scene, write_film

SPEC = PictureSpec(min_per_minute=40, max_per_minute=120, pixels=PixelSpec(32))
FILM = [counted(number) for number in range(100)]


def taken(reader: MediaChild, path: Path, spec: PictureSpec = SPEC) -> dict[str, Any]:
    """One row of the pass; picking gives the same pictures again, and the probe the same size."""
    table = reader.pictures(path, "video", spec, DEADLINE_S).table
    assert {name: table.schema.field(name).type for name in table.column_names} == {
        name: COLUMNS[name] for name in table.column_names
    }
    row = table.to_pylist()[0]
    for frame, item in zip(row["frames"], row["thumbnails"], strict=True):
        frame["thumbnail_sha256"] = hashlib.sha256(item["jpeg"]).hexdigest()
    picked = reader.pick(path, "video", row["frames"], spec, DEADLINE_S).table.to_pylist()[0]
    for name in ("thumbnails", "pixels"):
        assert picked[name] == row[name], name
    found = reader.probe(path, DEADLINE_S)
    assert row["picture_size"] == {"width": found.width, "height": found.height}
    return row


def check_times(path: Path, row: dict[str, Any]) -> None:
    """A player that seeks to each stored time shows the stored picture."""
    assert row["frames"]
    assert [frame["idx"] for frame in row["frames"]] == [item["idx"] for item in row["thumbnails"]]
    for frame, item in zip(row["frames"], row["thumbnails"], strict=True):
        shown = played(path, frame["t_ms"])
        stored = Image.open(io.BytesIO(item["jpeg"]))
        again = Image.open(io.BytesIO(thumbnail(shown)))
        assert apart(stored, again) < 1.5, frame


CODECS = [
    ("a.mp4", "libx264", "yuv420p", {"bf": "3", "g": "30"}),
    ("a.mkv", "libx264", "yuv420p10le", {"g": "250"}),
    ("a.mp4", "libx265", "yuv420p", {"x265-params": "log-level=none:bframes=3:keyint=30"}),
    ("b.mp4", "libx265", "yuv420p10le", {"x265-params": "log-level=none"}),
    ("a.webm", "libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8", "g": "30"}),
    ("a.mp4", "libsvtav1", "yuv420p", {"preset": "12", "svtav1-params": "keyint=30"}),
    ("a.mpg", "mpeg2video", "yuv420p", {"bf": "2", "b": "2M"}),
    ("a.ts", "libx264", "yuv420p", {"bf": "3", "g": "30"}),
    ("a.avi", "mjpeg", "yuvj420p", {}),
    ("a.avi", "mpeg4", "yuv420p", {"bf": "2", "b": "2M"}),
    ("a.mov", "prores_ks", "yuv422p10le", {}),
    ("a.flv", "flv1", "yuv420p", {"b": "2M"}),
]


@pytest.mark.parametrize(("name", "codec", "pix_fmt", "options"), CODECS)
def test_every_codec_keeps_its_times(reader, tmp_path, name, codec, pix_fmt, options):
    path = write_film(tmp_path / name, FILM, codec, pix_fmt=pix_fmt, options=options)
    row = taken(reader, path)
    check_times(path, row)
    assert len(row["frames"]) >= 3


def test_a_variable_frame_rate(reader, tmp_path):
    steps = np.random.default_rng(5).integers(7, 400, len(FILM))
    path = write_film(tmp_path / "a.mkv", FILM, times_ms=np.cumsum(steps).tolist(), options={"g": "20"})
    row = taken(reader, path)
    check_times(path, row)
    assert [sample["t_ms"] % 500 for sample in row["samples"]] == [0] * len(row["samples"])
    assert len(row["samples"]) >= row["shots"][-1]["end_ms"] // 500 - 1


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_phone_held_upright(reader, tmp_path, rotation):
    path = write_film(tmp_path / "a.mp4", FILM[:40], rotation=rotation)
    row = taken(reader, path)
    check_times(path, row)
    size = (160, 120) if rotation == 180 else (120, 160)
    assert tuple(row["picture_size"].values()) == size


def test_pixels_that_are_no_squares(reader, tmp_path):
    wide = write_film(tmp_path / "a.mkv", FILM[:20], ratio=Fraction(4, 3))
    tall = write_film(tmp_path / "b.mkv", FILM[:20], ratio=Fraction(3, 4))
    assert tuple(taken(reader, wide)["picture_size"].values()) == (213, 120)
    assert tuple(taken(reader, tall)["picture_size"].values()) == (160, 160)


def test_of_interlaced_frames_one_field_is_taken(reader, tmp_path):
    def moved(number: int) -> np.ndarray:
        return np.repeat(scene(1, shift=number * 6)[..., :1], 3, axis=2)

    woven = []
    for number in range(0, 60, 2):
        picture = moved(number).copy()
        picture[1::2] = moved(number + 1)[1::2]
        woven.append(picture)
    options = {"flags": "+ildct+ilme", "b": "20M", "top": "1"}
    path = write_film(tmp_path / "a.mpg", woven, "mpeg2video", options=options)
    row = taken(reader, path)
    frame, item = row["frames"][0], row["thumbnails"][0]
    met = round(frame["t_ms"] / 40)
    stored = Image.open(io.BytesIO(item["jpeg"]))
    assert apart(stored, Image.fromarray(moved(2 * met))) < 6
    assert apart(stored, Image.fromarray(woven[met])) > 6


@pytest.mark.parametrize("start_ms", [-150, 700, 36_000_000])
def test_times_count_from_the_start_of_the_asset(reader, tmp_path, start_ms):
    times = [start_ms + 40 * number for number in range(60)]
    path = write_film(
        tmp_path / "a.mkv", FILM[:60], times_ms=times, options={"bf": "0"}, muxer={"avoid_negative_ts": "disabled"}
    )
    row = taken(reader, path)
    check_times(path, row)
    assert row["frames"][0]["t_ms"] < 1000
    assert row["shots"][0]["start_ms"] == 0


def test_a_trimmed_film_with_an_edit_list(reader, tmp_path):
    path = write_film(tmp_path / "a.mp4", FILM, options={"bf": "3"})
    data = path.read_bytes()
    at = data.index(b"elst") + 4
    entry = at + 8
    (duration,) = np.frombuffer(data[entry : entry + 4], ">u4")
    media_time = int(np.frombuffer(data[entry + 4 : entry + 8], ">i4")[0])
    later = media_time + 12_800 * 30 // 25
    body = np.array([int(duration) - 1200, later], ">u4").tobytes()
    path.write_bytes(data[:entry] + body + data[entry + 8 :])
    check_times(path, taken(reader, path))


def test_a_picture_that_begins_after_the_sound(reader, tmp_path):
    import av

    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        picture: Any = container.add_stream("mpeg4", rate=25)
        picture.width, picture.height, picture.pix_fmt = 160, 120, "yuv420p"
        sound: Any = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        block = av.AudioFrame.from_ndarray(tone(3)[None], "s16", "mono")
        block.sample_rate, block.pts, block.time_base = 16_000, 0, Fraction(1, 16_000)
        container.mux(sound.encode(block))
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(counted(number), "rgb24")
            frame.pts, frame.time_base = number + 20, Fraction(1, 25)
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
    row = taken(reader, path)
    assert row["shots"][0]["start_ms"] == 800
    check_times(path, row)


@pytest.mark.parametrize(("name", "codec"), [("a.h264", "libx264"), ("a.m2v", "mpeg2video")])
def test_a_stream_without_timestamps_is_counted(reader, tmp_path, name, codec):
    path = write_film(tmp_path / name, FILM[:60], codec, options={"bf": "0"})
    row = taken(reader, path)
    assert row["shots"][-1]["end_ms"] == pytest.approx(2400, abs=90)
    times = [frame["t_ms"] for frame in row["frames"]]
    assert times == sorted(set(times))


def test_timestamps_that_the_container_cannot_hold_are_counted(reader, tmp_path):
    times = [40 * number - 2_000 for number in range(60)]
    muxer = {"avoid_negative_ts": "disabled"}
    path = write_film(tmp_path / "a.mkv", FILM[:60], times_ms=times, options={"bf": "0"}, muxer=muxer)
    row = taken(reader, path)
    assert row["shots"][-1]["end_ms"] == pytest.approx(2400, abs=90)


def test_timestamps_that_start_again_go_on(reader, tmp_path):
    part = write_film(tmp_path / "part.ts", FILM[:75], options={"g": "25", "bf": "0"}).read_bytes()
    (tmp_path / "a.ts").write_bytes(part * 3)
    row = taken(reader, tmp_path / "a.ts")
    assert row["shots"][-1]["end_ms"] == pytest.approx(9000, abs=200)
    assert len(row["samples"]) >= 17


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_film_of_few_frames_has_one_keyframe(reader, tmp_path, count):
    row = taken(reader, write_film(tmp_path / "a.mp4", FILM[:count]))
    assert (len(row["frames"]), len(row["shots"])) == (1, 1)
    assert row["shots"][0]["end_ms"] == 40 * count


def test_a_film_that_starts_without_a_key_frame(reader, tmp_path):
    import av

    whole = write_film(tmp_path / "whole.ts", FILM, options={"g": "40", "bf": "0", "sc_threshold": "0"})
    path = tmp_path / "a.ts"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.dts is not None and number >= 10:
                packet.stream = stream
                target.mux(packet)
    row = taken(reader, path)
    assert row["frames"][0]["t_ms"] >= 1000
    (tmp_path / "none.ts").write_bytes(b"")
    with av.open(str(whole)) as source, av.open(str(tmp_path / "none.ts"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None and not packet.is_keyframe:
                packet.stream = stream
                target.mux(packet)
    with pytest.raises(BadMediaError, match="no picture could be decoded"):
        reader.pictures(tmp_path / "none.ts", "video", SPEC, DEADLINE_S)


def test_damage_is_stepped_over(reader, tmp_path):
    path = write_film(tmp_path / "a.mkv", FILM, options={"g": "10", "bf": "0"})
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 300] = bytes(300)
    path.write_bytes(data)
    found = reader.pictures(path, "video", SPEC, DEADLINE_S)
    row = found.table.to_pylist()[0]
    assert row["shots"][-1]["end_ms"] == pytest.approx(4000, abs=50)
    path.write_bytes(data[: len(data) // 2])
    assert reader.pictures(path, "video", SPEC, DEADLINE_S).table.to_pylist()[0]["shots"][-1]["end_ms"] < 3000


def test_what_holds_no_film_is_refused(reader, tmp_path):
    cover = write_audio(tmp_path / "a.mp3", tone(2), "libmp3lame", cover=True)
    for path in (cover, write_audio(tmp_path / "a.wav", tone(1), "pcm_s16le")):
        with pytest.raises(BadMediaError, match="no moving pictures"):
            reader.pictures(path, "video", SPEC, DEADLINE_S)
    (tmp_path / "a.jpg").write_bytes(jpeg(scene(1)))
    (tmp_path / "b.mp4").write_bytes(b"words " * 100)
    for name in ("a.jpg", "b.mp4"):
        with pytest.raises(BadMediaError):
            reader.pictures(tmp_path / name, "video", SPEC, DEADLINE_S) if name == "b.mp4" else reader.tiny(
                tmp_path / "b.mp4", DEADLINE_S
            )


def test_time_and_memory_are_bounded(tmp_path):
    path = write_film(tmp_path / "a.mp4", FILM)
    small = MediaChild(2**28)
    try:
        with pytest.raises(MediaTimeoutError):
            small.pictures(path, "video", SPEC, 0.001)
        with pytest.raises(MediaResourceError, match="decode_memory_bytes"):
            small.pictures(path, "video", PictureSpec(60, 600, PixelSpec(4_000)), DEADLINE_S)
        assert small.pictures(path, "video", SPEC, DEADLINE_S).table.num_rows == 1
    finally:
        small.close()


def test_a_frame_that_is_gone_is_bad_media(reader, tmp_path):
    path = write_film(tmp_path / "a.mp4", FILM)
    frames = taken(reader, path)["frames"]
    frames[-1]["pts"] += 1
    with pytest.raises(BadMediaError, match="no longer found"):
        reader.pick(path, "video", frames, SPEC, DEADLINE_S)


def test_a_long_distance_between_key_frames_is_walked_once(reader, tmp_path):
    path = write_film(tmp_path / "a.mp4", FILM * 3, options={"g": "10000", "sc_threshold": "0"})
    check_times(path, taken(reader, path))


def test_every_frame_at_the_size_of_the_shot_model(reader, tmp_path):
    path = write_film(tmp_path / "a.mp4", FILM)
    tiny = reader.tiny(path, DEADLINE_S).frames
    assert (tiny.shape, tiny.dtype, tiny.flags.writeable) == ((100, 27, 48, 3), np.uint8, False)
    wanted = Image.fromarray(FILM[40]).resize((48, 27), Image.Resampling.BICUBIC)
    assert apart(Image.fromarray(tiny[40]), wanted) < 6


@pytest.mark.parametrize("source", ["nasa", "film"])
def test_real_films(reader, source):
    path = shared_media() / "video/nasa_13013.mp4" if source == "nasa" else film_clip()
    row = taken(reader, path, PictureSpec(pixels=PixelSpec(32)))
    row["frames"], row["thumbnails"] = row["frames"][:4], row["thumbnails"][:4]
    check_times(path, row)


def stage(tmp_path: Path, spec: PictureSpec = SPEC) -> Pictures:
    return Pictures(60, 600, 2**28, NodeCache(tmp_path / "cache", 2**30), spec, None)


def a_row(path: Path, kind: str, lanes: list[str]) -> dict[str, Any]:
    stamp = stamp_of(path)
    return {
        "asset_id": 1,
        "sha256": hash_file(path)[0],
        "uri": str(path),
        "byte_size": stamp.byte_size,
        "mtime_ns": stamp.mtime_ns,
        "media_kind": kind,
        "lanes": lanes,
        "duration_ms": 4000,
    }


def test_the_stage_takes_films_and_images_together(tmp_path):
    film = write_film(tmp_path / "a.mp4", FILM)
    picture = tmp_path / "a.jpg"
    picture.write_bytes(jpeg(scene(2)))
    broken = tmp_path / "b.jpg"
    broken.write_bytes(jpeg(scene(2))[:500])
    both = ["frames", "images"]
    rows = [a_row(film, "video", ["frames"]), a_row(picture, "image", both), a_row(broken, "image", both)]
    table = with_column(rows_table(rows), "frames", [None] * 3)
    pictures = stage(tmp_path)
    try:
        found = run_stage(pictures, table).to_pylist()
    finally:
        pictures.close()
    assert [len(row["frames"] or ()) for row in found] == [4, 1, 0]
    assert [row["pixels"] is None for row in found] == [True, False, True]
    assert [row["error"] and row["error"]["failure"] for row in found] == [None, None, "bad_media"]
    assert found[2]["shots"] is None


def test_the_stage_picks_committed_frames_for_a_new_model(tmp_path):
    film = write_film(tmp_path / "a.mp4", FILM)
    pictures = stage(tmp_path)
    try:
        fresh = with_column(rows_table([a_row(film, "video", ["frames", "images"])]), "frames", [None])
        first = run_stage(pictures, fresh)
        later = with_column(rows_table([a_row(film, "video", ["images"])]), "frames", first["frames"].to_pylist())
        again = run_stage(pictures, later)
        assert again["error"].to_pylist() == [None]
        assert again["pixels"].to_pylist() == first["pixels"].to_pylist()
        assert again["frames"].to_pylist() == first["frames"].to_pylist()
        film.write_bytes(film.read_bytes() + b"more")
        changed = run_stage(pictures, later).to_pylist()[0]
        assert "changed since it was registered" in changed["error"]["message"]
    finally:
        pictures.close()


def test_identity_knows_detector_and_density_but_no_image_model(tmp_path):
    plain = stage(tmp_path).identity()
    assert plain == stage(tmp_path, PictureSpec(40, 120, None)).identity()
    assert plain != stage(tmp_path, PictureSpec(6, 20, None)).identity()


def test_columns_lie_over_the_shared_memory(reader, tmp_path):
    table = reader.pictures(write_film(tmp_path / "a.mp4", FILM), "video", SPEC, DEADLINE_S).table
    before = pa.total_allocated_bytes()
    pixels = table["pixels"].chunk(0).values.field("rgb")
    assert pa.total_allocated_bytes() == before
    assert pixels.buffers()[2].size >= 32 * 32 * 3 * len(pixels)
    assert not pixels.buffers()[2].is_mutable


def test_a_video_made_by_the_suite_is_read(reader, tmp_path):
    path = write_video(tmp_path / "a.mp4", 3, tone(3), fps=10)
    check_times(path, taken(reader, path))


def test_a_video_is_scaled_by_the_one_thread_that_decodes_it(tmp_path):
    path = write_film(tmp_path / "a.mp4", [scene(1, (1280, 720))] * 2)
    with open_reel(str(path)) as reel:
        before = len(list(Path("/proc/self/task").iterdir()))
        for frame in reel.decode():
            for paint in (reel.painter.small, reel.painter.tiny, reel.painter.grey, reel.painter.picture):
                paint(frame)
        assert len(list(Path("/proc/self/task").iterdir())) == before
