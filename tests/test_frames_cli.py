"""`rushes frames`: the keyframes of an asset, and the picture that a player shows at a time as a file."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from actors.thumbnails import Thumbnails
from cluster.db.register import NewAsset, add_asset, add_source
from cluster.db.results import commit_row
from cluster.media import instant
from cluster.media.hashing import hash_file
from cluster.media.pictures import PictureSpec
from tests.corpus_rows import claimed, new_asset, new_run
from tests.media_factory import film_clip, tone, write_video, write_wav
from tests.picture_rows import PICTURE_PRINTS
from tests.test_cli import rushes

PRINT = {"frames": PICTURE_PRINTS["frames"]}


def take_in(conn, reader, path, kind, root):
    """Register a file and commit its frames, as the frames lane does."""
    sha256, stamp = hash_file(path)
    probed = reader.probe(path, 60)
    asset_id = add_asset(
        conn,
        NewAsset(sha256=sha256, byte_size=stamp.byte_size, media_kind=kind, audio_stream=None,
                 duration_ms=probed.duration_ms),
    )  # fmt: skip
    add_source(conn, str(path), asset_id, stamp.byte_size, stamp.mtime_ns, None)
    run_id = new_run(conn)
    table = Thumbnails(str(root)).process(reader.pictures(path, kind, PictureSpec(), 60).table)
    row = {**table.to_pylist()[0], "asset_id": asset_id, "uri": str(path), "error": None, "timings": []}
    units = claimed(conn, run_id, asset_id, ["frames"], PRINT)
    assert commit_row(conn, run_id, {**row, "units": units}, {}) == "done"
    return asset_id


def photo(path, size=(64, 40), seed=0):
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)
    return path


def shown_at(path, at_s):
    """What a plain loop finds: the last frame whose time is not after `at_s`."""
    import av

    found = None
    with av.open(str(path)) as container:
        track = container.streams.video[0]
        zero = container.start_time / 1e6
        for frame in container.decode(track):
            if float(frame.pts * track.time_base) - zero > at_s + 1e-6:
                break
            found = frame
        return found.reformat(format="rgb24", interpolation="BICUBIC").to_ndarray()


def test_frames_are_listed_with_their_times_shots_and_thumbnails(db, db_url, reader, tmp_path):
    film = write_video(tmp_path / "film.mp4", 4)
    take_in(db, reader, film, "video", tmp_path / "data/store")
    take_in(db, reader, photo(tmp_path / "photo.png"), "image", tmp_path / "data/store")
    [first, *_] = json.loads(rushes("frames", "list", "film.mp4", "--json", url=db_url).stdout)
    assert (first["shot"], first["shot_start_ms"], first["is_informative"]) == (0, 0, True)
    assert Image.open(first["thumbnail"]).size == (64, 48)
    told = rushes("frames", "list", "film.mp4", url=db_url).stdout
    assert f"{first['t_ms'] / 1000:.3f}" in told
    assert "0: 0:00:00.0-0:00:04.0" in told
    [still] = json.loads(rushes("frames", "list", "photo.png", "--json", url=db_url).stdout)
    assert (still["t_ms"], still["shot"]) == (0, None)
    assert Image.open(still["thumbnail"]).size == (64, 40)


def test_the_picture_that_is_saved_is_the_one_that_a_player_shows_then(db, db_url, reader, tmp_path):
    film = film_clip()
    take_in(db, reader, film, "video", tmp_path / "data/store")
    for time, at_s in (("0", 0.0), ("1:03.21", 63.21)):
        done = rushes("frames", "save", str(film), time, "-o", str(tmp_path / "one.png"), url=db_url)
        assert done.returncode == 0, done.stderr
        assert np.array_equal(np.asarray(Image.open(tmp_path / "one.png")), shown_at(film, at_s))
    listed = json.loads(rushes("frames", "list", str(film), "--json", url=db_url).stdout)
    keyframe = listed[len(listed) // 2]
    done = rushes("frames", "save", str(film), f"{keyframe['t_ms'] / 1000}", "-o", str(tmp_path / "k.png"), url=db_url)
    assert f"shown from {keyframe['t_ms'] / 1000:.3f} s" in done.stdout
    saved = Image.open(tmp_path / "k.png")
    small = np.asarray(saved.resize(Image.open(keyframe["thumbnail"]).size), np.int16)
    assert np.abs(small - np.asarray(Image.open(keyframe["thumbnail"]), np.int16)).mean() < 8


def test_a_picture_sought_from_a_keyframe_is_the_one_met_from_the_start(reader, tmp_path):
    film = str(write_video(tmp_path / "film.mp4", 12))
    table = reader.pictures(film, "video", PictureSpec(), 60).table
    frames = [{**frame, "phash": frame["phash"].hex()} for frame in table.to_pylist()[0]["frames"]]
    anchors = [frames[-1], {**frames[-1], "phash": "00" * 8}, {**frames[-1], "pts": frames[-1]["pts"] + 1}, None]
    for t_ms in (frames[-1]["t_ms"], 11_450, 11_999):
        found = []
        for anchor in anchors:
            asked = {"kind": "video", "t_ms": t_ms, "format": "PNG", "anchor": anchor}
            file = io.BytesIO()
            told = instant.take_instant(film, asked, file)
            found.append((told["t_ms"], told["until_ms"], file.getvalue()))
        assert found[0][0] <= t_ms < found[0][1]
        assert found == found[:1] * 4


def test_an_image_is_saved_whole_and_upright(db, db_url, reader, tmp_path):
    source = photo(tmp_path / "photo.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(source).save(tmp_path / "turned.png", exif=exif)
    take_in(db, reader, tmp_path / "turned.png", "image", tmp_path / "data/store")
    done = rushes("frames", "save", "turned.png", "-o", str(tmp_path / "out.png"), url=db_url)
    assert "40 x 64" in done.stdout
    wanted = np.asarray(Image.open(source).transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), wanted)
    assert rushes("frames", "save", "turned.png", "-o", str(tmp_path / "out.JPG"), url=db_url).returncode == 0
    assert Image.open(tmp_path / "out.JPG").format == "JPEG"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["list", "nothing"], 2, "no asset matches"),
        (["list", "sound.wav"], 1, "sound.wav is sound alone: it has no frames"),
        (["list", "later.mp4"], 1, "later.mp4 has no frames yet: `rushes ingest --lanes frames`"),
        (["list", "broken.mp4"], 1, "could not be read"),
        (["save", "sound.wav", "0", "-o", "x.png"], 1, "is sound alone"),
        (["save", "film.mp4", "4:00", "-o", "x.png"], 2, "240 s is after the last picture, which is shown until 2 s"),
        (["save", "film.mp4", "soon", "-o", "x.png"], 2, "'soon' is no time"),
        (["save", "film.mp4", "0", "-o", "x.gif"], 2, "ends in .jpg, .jpeg, .png"),
        (["save", "film.mp4", "0", "-o", "no/such/x.png"], 2, "the folder"),
        (["save", "film.mp4", "0", "-o", "folder.png"], 2, "is a folder"),
        (["save", "film.mp4", "0"], 2, "--output"),
        (["save", "changed.mp4", "0", "-o", "x.png"], 1, "changed since it was registered"),
        (["save", "gone.mp4", "0", "-o", "x.png"], 1, "no source of it is there now"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(words, code, message, unhappy, db_url, tmp_path):
    out = tmp_path / "out"
    (out / "folder.png").mkdir(parents=True)
    words = [str(out / word) if words[i - 1] == "-o" else word for i, word in enumerate(words)]
    done = rushes("frames", *words, url=db_url)
    assert done.returncode == code, done.stderr
    assert message in done.stderr.replace("│", "").replace("\n", " ")
    assert [path.name for path in out.iterdir()] == ["folder.png"]


@pytest.fixture
def unhappy(db, reader, tmp_path):
    """Assets of every kind that has no picture to give."""
    root = tmp_path / "data/store"
    take_in(db, reader, write_video(tmp_path / "film.mp4", 2), "video", root)
    take_in(db, reader, write_video(tmp_path / "changed.mp4", 2, size=(80, 60)), "video", root)
    take_in(db, reader, write_video(tmp_path / "gone.mp4", 2, size=(96, 64)), "video", root)
    write_video(tmp_path / "changed.mp4", 3, size=(80, 60))
    (tmp_path / "gone.mp4").unlink()
    write_wav(tmp_path / "sound.wav", tone(1))
    new_asset(db, "sound.wav")
    new_asset(db, "later.mp4", media_kind="video", audio_stream=None)
    new_asset(db, "broken.mp4", media_kind=None, audio_stream=None, duration_ms=None)
    return Path(tmp_path)


def test_an_asset_without_frames_yet_can_be_looked_at_all_the_same(db, db_url, reader, tmp_path):
    film = write_video(tmp_path / "film.mp4", 2)
    take_in(db, reader, film, "video", tmp_path / "data/store")
    db.execute("DELETE FROM frames")
    assert rushes("frames", "save", "film.mp4", "1.5", "-o", str(tmp_path / "x.png"), url=db_url).returncode == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), shown_at(film, 1.5))


def test_what_an_asset_shows_is_told_where_what_it_says_is(db, db_url, reader, tmp_path):
    take_in(db, reader, write_video(tmp_path / "mute.mp4", 4), "video", tmp_path / "data/store")
    take_in(db, reader, photo(tmp_path / "photo.png"), "image", tmp_path / "data/store")
    for name, lane in (("mute.mp4", "speech"), ("photo.png", "speech")):
        db.execute(
            "INSERT INTO units (asset_id, lane, fingerprint, state, reason) SELECT asset_id, %s, 's1', 'skipped',"
            " 'no audio stream' FROM sources WHERE uri LIKE %s",
            (lane, f"%{name}"),
        )
    shown = rushes("show", "mute.mp4", url=db_url).stdout
    assert "video 0:04" in shown
    assert "  done\n" in shown
    assert "frames, 1 shots, 64 x 48" in shown
    assert "no audio stream; " in shown
    shown = rushes("show", "photo.png", url=db_url).stdout
    assert "image -\n" in shown
    assert shown.endswith("  done\n  64 x 40\n")
    told = json.loads(rushes("show", "photo.png", "--json", url=db_url).stdout)
    assert told["pictures"] == {"width": 64, "height": 40, "shots": 0, "frames": 1}
    totals = json.loads(rushes("status", "--json", url=db_url).stdout)["totals"]
    assert (totals["assets"], totals["images"], totals["frames"] > 1) == (2, 1, True)
    status = rushes("status", url=db_url).stdout
    assert f"1 images; 0 segments, 0 voices, 0 chunks, {totals['frames']} frames" in status
    assert ", 1 frames" in rushes("forget", "photo.png", "--dry-run", url=db_url).stdout
