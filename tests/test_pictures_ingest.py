"""Pictures and films through the main job: every frame findable, copies found, vectors the model library's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from psycopg.conninfo import conninfo_to_dict

from benchmarks.altered import CLIPS, alter_clip
from cluster.db import report, spaces
from cluster.db.check import check_corpus
from cluster.db.connect import open_connection
from cluster.db.dump import canonical_dump, differences
from cluster.db.duplicates.find import compare_again, waiting
from cluster.faults import VARIABLE
from cluster.media.blobs import read_blob
from jobs.summary import describe
from tests.archive import run
from tests.conftest import clone_database
from tests.film_factory import scene as moving
from tests.film_factory import write_film
from tests.media_factory import silence, write_wav
from tests.picture_factory import jpeg, played, scene
from tests.test_cli import rushes
from tests.tiny_clip import tiny_clip

LOOK = ("frames", "images")
SIZE = (400, 300)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The image role as settings: a small model with random weights."""
    return role(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Two pictures, a smaller copy of one, half a JPEG, a film, the film at half size, a silent recording."""
    folder = tmp_path_factory.mktemp("pictures") / "all"
    folder.mkdir()
    (folder / "one.jpg").write_bytes(jpeg(scene(1, SIZE)))
    Image.fromarray(scene(1, SIZE)).resize((200, 150)).save(folder / "one small.png")
    Image.fromarray(scene(2, SIZE)).save(folder / "other.png")
    (folder / "broken.jpg").write_bytes(jpeg(scene(3, SIZE))[:-2000])
    write_film(folder / "film.mp4", moving(10, 5), moving(11, 4), moving(12, 6))
    alter_clip(folder / "film.mp4", folder / "half.mp4", CLIPS["half size"])
    write_wav(folder / "silence.wav", silence(2), 16_000)
    return folder


@pytest.fixture(scope="module")
def seen(server_url, archive, image, tmp_path_factory):
    """One database with the archive ingested: its address, the summary, the settings; tests work on clones."""
    for url in clone_database(server_url, "template_corpus"):
        flags = {"image": image, "data_dir": tmp_path_factory.mktemp("data")}
        yield url, run(url, [str(archive)], flags), flags


@pytest.fixture
def seen_url(server_url, seen):
    """A clone of it, of this test alone."""
    yield from clone_database(server_url, conninfo_to_dict(seen[0])["dbname"])


@pytest.fixture
def corpus(seen_url):
    with open_connection(seen_url) as conn:
        yield conn


def role(folder, seed=0):
    checkpoint = tiny_clip(folder, seed)
    return {"weights": f"path:{checkpoint}", "architecture": str(folder / "tiny.json")}


def dump(url):
    with open_connection(url) as conn:
        assert not any(check_corpus(conn).values())
        return canonical_dump(conn)


def stored(conn):
    """(name, idx) -> (t_ms, vector) of every frame in the active image space."""
    space = spaces.active_space(conn, "image")
    rows = conn.execute(
        f"SELECT n.name, f.idx, f.t_ms, embedding FROM {space.table_name} JOIN frames f USING (frame_id)"
        " JOIN asset_names n USING (asset_id)".encode(),
        binary=True,
    )
    return {(Path(name).name, idx): (t_ms, vector.to_numpy()) for name, idx, t_ms, vector in rows}


def count(conn, what):
    return conn.execute(f"SELECT count(*) FROM {what}".encode()).fetchone()[0]


def test_every_picture_has_frames_thumbnails_vectors_and_its_copies(seen, corpus):
    _, summary, flags = seen
    assert (summary.planned, summary.ok, summary.failed, summary.exit_code) == (7, 6, 1, 3)
    [failure] = report.open_failures(corpus, report.FailureFilter())
    assert (Path(failure["uri"]).name, failure["failure"], failure["stage"]) == ("broken.jpg", "bad_media", "pictures")
    frames = dict(corpus.execute("SELECT n.name, count(*) FROM frames JOIN asset_names n USING (asset_id) GROUP BY 1"))
    frames = {Path(name).name: number for name, number in frames.items()}
    assert frames.keys() == {"one.jpg", "one small.png", "other.png", "film.mp4", "half.mp4"}
    assert [frames[name] for name in ("one.jpg", "one small.png", "other.png")] == [1, 1, 1]
    assert frames["film.mp4"] == frames["half.mp4"] >= 3
    vectors = stored(corpus)
    assert len(vectors) == sum(frames.values()) == count(corpus, "visual_members")
    assert count(corpus, "visual_clusters") >= 1
    for (name,) in corpus.execute("SELECT DISTINCT encode(thumbnail, 'hex') FROM frames").fetchall():
        assert read_blob(str(flags["data_dir"] / "store"), name).startswith(b"\xff\xd8")
    found = corpus.execute(
        "SELECT a.name, b.name, method FROM near_duplicates JOIN asset_names a ON a.asset_id = asset_a"
        " JOIN asset_names b ON b.asset_id = asset_b"
    ).fetchall()
    assert {(*sorted(Path(name).name for name in pair[:2]), pair[2]) for pair in found} == {
        ("one small.png", "one.jpg", "picture"),
        ("film.mp4", "half.mp4", "sequence"),
    }
    assert any("2 near duplicate(s) found" in line for line in describe(summary))
    assert not any(check_corpus(corpus).values())


def test_the_stored_vectors_are_those_of_the_library_alone_and_in_a_batch(corpus, archive, image, db_url, seen):
    import open_clip
    import torch

    vectors = stored(corpus)
    open_clip.add_model_config(Path(image["architecture"]))
    checkpoint = image["weights"].removeprefix("path:")
    model, _, preprocess = open_clip.create_model_and_transforms("tiny", pretrained=checkpoint)
    model.eval()
    for (name, _), (t_ms, vector) in vectors.items():
        path = archive / name
        picture = played(path, t_ms) if path.suffix == ".mp4" else Image.open(path).convert("RGB")
        with torch.inference_mode():
            [alone] = model.encode_image(preprocess(picture)[None], normalize=True).numpy()
        np.testing.assert_allclose(vector, alone, atol=1e-4, err_msg=name)
    run(db_url, [str(archive / "other.png")], seen[2], lanes=LOOK)
    with open_connection(db_url) as conn:
        [(_, alone)] = stored(conn).values()
    np.testing.assert_allclose(vectors["other.png", 0][1], alone, atol=1e-4)


def test_a_second_run_finds_nothing_to_do_and_a_forced_one_changes_nothing(seen, seen_url, archive):
    url, _, flags = seen
    before = dump(url)
    assert run(seen_url, [str(archive)], flags).state == "nothing"
    assert differences(before, dump(seen_url)) == []
    assert run(seen_url, [str(archive)], flags, force=True).ok == 6
    assert differences(before, dump(seen_url)) == []


def test_pictures_that_a_dead_run_left_are_compared_even_where_the_other_lane_failed(seen, seen_url, archive):
    with open_connection(seen_url) as conn:
        conn.execute("UPDATE units SET state = 'failed', reason = 'bug' WHERE lane = 'images'")
        compare_again(conn)
    assert run(seen_url, [str(archive / "one.jpg")], seen[2]).known == {"failed": 1}
    with open_connection(seen_url) as conn:
        assert waiting(conn) == []


def test_another_image_model_sees_the_same_frames_again(seen, seen_url, corpus, archive, tmp_path):
    rows = "SELECT xmin::text, f.* FROM frames f ORDER BY frame_id"
    frames, before = corpus.execute(rows).fetchall(), stored(corpus)
    similarities = "SELECT asset_a, asset_b, similarity FROM near_duplicates ORDER BY 1, 2"
    agreed = corpus.execute(similarities).fetchall()
    old = spaces.active_space(corpus, "image")
    flags = seen[2] | {"image": role(tmp_path / "clip", seed=1)}
    summary = run(seen_url, [str(archive)], flags, lanes=("images",))
    assert (summary.ok, summary.failed) == (5, 0)
    new = spaces.active_space(corpus, "image")
    assert new.space_id != old.space_id
    members = corpus.execute("SELECT count(*) FROM visual_members WHERE space_id = %s", (new.space_id,)).fetchone()
    assert members == (len(before),)
    assert corpus.execute(rows).fetchall() == frames
    after = stored(corpus)
    assert {key: t_ms for key, (t_ms, _) in after.items()} == {key: t_ms for key, (t_ms, _) in before.items()}
    assert all(np.abs(after[key][1] - before[key][1]).max() > 0.01 for key in after)
    assert not any(check_corpus(corpus).values())
    assert run(seen_url, [str(archive)], seen[2], lanes=("images",)).state == "nothing"
    assert spaces.active_space(corpus, "image").space_id == old.space_id
    assert corpus.execute(similarities).fetchall() == agreed


def test_without_an_image_model_there_are_frames_and_the_lane_of_images_is_refused(db_url, archive):
    summary = run(db_url, [str(archive / "one.jpg"), str(archive / "one small.png")], lanes=LOOK)
    assert (summary.ok, summary.lanes) == (2, ("frames",))
    with open_connection(db_url) as conn:
        assert (count(conn, "frames"), count(conn, "near_duplicates"), count(conn, "spaces")) == (2, 1, 0)
        assert not any(check_corpus(conn).values())
    done = rushes("ingest", str(archive), "--lanes", "images", url=db_url)
    assert done.returncode == 2
    assert "lane images is off: the profile has no image model; set RUSHES_IMAGE_WEIGHTS" in done.stderr


def test_in_a_block_of_pictures_only_those_that_are_broken_or_kill_the_reader_fail(
    db_url, image, tmp_path, monkeypatch
):
    folder = tmp_path / "block"
    folder.mkdir()
    for number in range(32):
        (folder / f"{number}.jpg").write_bytes(jpeg(scene(number, (96, 64))))
    (folder / "7.jpg").write_bytes(jpeg(scene(7, (96, 64)))[:-300])
    fault = {"point": "reading", "action": "kill", "folder": str(tmp_path / "fault"), "always": True, "match": "/9.jpg"}
    monkeypatch.setenv(VARIABLE, json.dumps(fault))
    summary = run(db_url, [str(folder)], {"image": image}, lanes=LOOK)
    assert (summary.ok, summary.failed, summary.missing) == (30, 2, 0)
    with open_connection(db_url) as conn:
        failed = report.open_failures(conn, report.FailureFilter())
        assert {(Path(row["uri"]).name, row["failure"]) for row in failed} == {
            ("7.jpg", "bad_media"),
            ("9.jpg", "crash"),
        }
        assert count(conn, "frames") == len(stored(conn)) == 30
        assert not any(check_corpus(conn).values())


def same_rows_as_inline(runner, one_url, server_url, archive, flags):
    for url in clone_database(server_url, "template_corpus"):
        run(url, [str(archive)], flags, lanes=LOOK)
        summary = run(one_url, [str(archive)], flags | {"runner": runner}, lanes=LOOK)
        assert (summary.runner, summary.ok, summary.failed) == (runner, 5, 1)
        assert differences(dump(url), dump(one_url)) == []


@pytest.mark.ray_process
def test_the_worker_gives_the_rows_of_the_inline_runner(db_url, server_url, archive, image):
    same_rows_as_inline("worker", db_url, server_url, archive, {"image": image})


@pytest.mark.ray
def test_ray_gives_the_rows_of_the_inline_runner(db_url, server_url, archive, image):
    same_rows_as_inline("ray", db_url, server_url, archive, {"image": image})
