"""What was shown is found by vector and by hash, none missed within the bound, each moment once."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from cluster.db import picture_search, spaces
from cluster.db.duplicates.find import compare_waiting
from cluster.db.knn import EVERYWHERE, Scope
from cluster.db.picture_search import search_by_hash, search_by_vector
from cluster.db.search import SpaceGoneError
from cluster.errors import RushesError
from cluster.settings import load_settings
from jobs import picture_search as job
from jobs.cli.search import picture_lines
from tests.corpus_rows import new_asset, unit_vector
from tests.picture_rows import commit_pictures, flipped, frame, image_space, phash, unit
from tests.test_cli import rushes


def decide(conn, one, other, kept, offset_ms=None):
    """A person calls them copies; with an offset the machine had found them: t of the later one + offset."""
    pair = sorted((one, other))
    conn.execute(
        "INSERT INTO duplicate_events (author, verdict, asset_a, asset_b, kept) VALUES ('me', 'copy', %s, %s, %s)",
        (*pair, kept),
    )
    if offset_ms is not None:
        conn.execute("INSERT INTO near_duplicates VALUES (%s, %s, 'sequence', 1, 1, 1, %s, NULL)", (*pair, offset_ms))


def film(conn, name, vectors, *, space, shots=None, step_ms=1000):
    """A video with one keyframe for each vector, each in a shot of its own unless `shots` says otherwise."""
    numbers = range(len(vectors)) if shots is None else shots
    frames = [frame(i, phash(hash(name) + i), i * step_ms, shot=shot) for i, shot in enumerate(numbers)]
    asset_id = commit_pictures(conn, name, frames, space=space, vectors=vectors)
    conn.execute("DELETE FROM shots WHERE asset_id = %s", (asset_id,))
    conn.execute(
        "INSERT INTO shots SELECT asset_id, shot, min(t_ms), max(t_ms) + %s FROM frames WHERE asset_id = %s"
        " GROUP BY asset_id, shot",
        (step_ms, asset_id),
    )
    return asset_id


def test_frames_of_a_shot_are_one_answer_and_the_nearest_comes_first(db):
    space = image_space(db)
    a = film(db, "a.mp4", [unit(1, 0.3), unit(1, 0.1), unit(0, 1)], space=space, shots=[0, 0, 1])
    b = commit_pictures(db, "b.jpg", [frame(0, phash(9), 0, shot=None)], space=space, vectors=[unit(1, 0.2)])
    hits = search_by_vector(db, space, unit(1), limit=5).hits
    assert [(hit.asset_id, hit.idx, hit.media_kind) for hit in hits] == [
        (a, 1, "video"),
        (b, 0, "image"),
        (a, 2, "video"),
    ]
    first, second, _ = hits
    assert (first.t_ms, first.start_ms, first.end_ms, first.uri) == (1000, 0, 2000, "/media/a.mp4")
    assert (second.shot, second.start_ms, second.end_ms) == (None, None, None)
    assert first.similarity == pytest.approx(float(unit(1) @ unit(1, 0.1)), abs=1e-5)
    assert len(first.thumbnail) == 64
    assert search_by_vector(db, space, unit(1), limit=1).hits == hits[:1]


def test_a_film_that_cuts_to_and_fro_leaves_room_for_others(db):
    space = image_space(db)
    a = film(db, "a.mp4", [unit(1, 0.01 * i) for i in range(8)], space=space)
    b = film(db, "b.mp4", [unit(1, 1), unit(1, 1.1)], space=space)
    assert [hit.asset_id for hit in search_by_vector(db, space, unit(1), limit=5).hits] == [a, a, a, b, b]
    assert [hit.asset_id for hit in search_by_vector(db, space, unit(1), limit=7).hits] == [a] * 5 + [b, b]
    assert [hit.asset_id for hit in search_by_vector(db, space, unit(1), scope=Scope([a]), limit=7).hits] == [a] * 7


def test_many_frames_of_one_shot_do_not_hide_the_others(db, monkeypatch):
    monkeypatch.setattr(picture_search, "CANDIDATES", (5, 100))
    space = image_space(db)
    film(db, "a.mp4", [unit(1, 0.001 * i) for i in range(20)], space=space, shots=[0] * 20)
    b = film(db, "b.mp4", [unit(1, 1)], space=space)
    assert [hit.asset_id for hit in search_by_vector(db, space, unit(1), limit=2).hits][1] == b


def test_inside_chosen_assets_nothing_else_is_found(db):
    space = image_space(db)
    ids = [film(db, f"{i}.mp4", [unit(1, 0.1 * i)], space=space) for i in range(4)]
    assert [hit.asset_id for hit in search_by_vector(db, space, unit(1), scope=Scope(ids[2:]), limit=5).hits] == ids[2:]
    assert search_by_vector(db, space, unit(1), scope=Scope([]), limit=5).hits == []
    assert search_by_hash(db, phash(hash("0.mp4")), scope=Scope(ids[1:])).hits == []


def test_an_index_walk_finds_what_the_scan_finds(db):
    space = image_space(db)
    film(db, "a.mp4", [unit_vector(i) for i in range(300)], space=space)
    before = [search_by_vector(db, space, np.float32(unit_vector(1000 + i)), limit=10).hits for i in range(5)]
    db.execute(f"CREATE INDEX ON {space.table_name} USING hnsw (embedding vector_cosine_ops)")
    db.execute("SET enable_seqscan = off")
    after = [search_by_vector(db, space, np.float32(unit_vector(1000 + i)), limit=10).hits for i in range(5)]
    same = sum(hit in found for wanted, found in zip(before, after, strict=True) for hit in wanted)
    assert same >= 45


def test_a_space_that_was_dropped_meanwhile_is_told(db):
    space = image_space(db)
    for table in space.tables:
        db.execute(f"DROP TABLE {table}")
    with pytest.raises(SpaceGoneError):
        search_by_vector(db, space, unit(1))


def test_every_hash_within_the_bound_is_found_and_none_beyond_it(db):
    rng, base = np.random.default_rng(0), phash(1)
    turned = [flipped(base, rng.choice(64, count, replace=False).tolist()) for count in range(11) for _ in range(20)]
    film_id = commit_pictures(db, "a.mp4", [frame(i, h, i * 1000, shot=i) for i, h in enumerate(turned)])
    commit_pictures(db, "flat.jpg", [frame(0, base, 0, shot=None, informative=False)])
    hits = search_by_hash(db, base, limit=1000).hits
    found = {hit.idx: hit.distance for hit in hits}
    assert found == {i: i // 20 for i in range(8 * 20)}
    assert {hit.asset_id for hit in hits} == {film_id}
    assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
    assert hits[0].similarity is None


def test_the_hash_lookup_walks_the_bands(db):
    asset_id = commit_pictures(db, "a.mp4", [frame(0, phash(3), 0)])
    db.execute(
        "INSERT INTO frames (asset_id, idx, pts, time_base_num, time_base_den, t_ms, phash, is_informative, thumbnail)"
        " SELECT %s, i, i, 1, 1000, i, ('x' || left(md5(i::text), 16))::bit(64), true, sha256('')"
        " FROM generate_series(1, 20000) i",
        (asset_id,),
    )
    db.execute("ANALYZE frames")
    statements = []
    execute = db.execute

    class Watched:
        def execute(self, query, values=None, **more):
            statements.append((query, values))
            return execute(query, values, **more)

        def transaction(self):
            return db.transaction()

    search_by_hash(Watched(), phash(3))
    query, values = next(item for item in statements if "band0" in str(item[0]))
    plan = "\n".join(row[0] for row in execute(b"EXPLAIN " + query, values))
    assert plan.count("Bitmap Index Scan on frames_band") == 4


def test_a_copy_is_told_with_the_asset_that_stands_for_it(db):
    space = image_space(db)
    kept, copy, other = (
        commit_pictures(db, f"{name}.jpg", [frame(0, phash(i), 0, shot=None)], space=space, vectors=[unit(1, 0.1 * i)])
        for i, name in ((2, "kept"), (1, "copy"), (3, "other"))
    )
    assert len(search_by_vector(db, space, unit(1), limit=5).hits) == 3
    decide(db, kept, copy, kept)
    hits = search_by_vector(db, space, unit(1), limit=5).hits
    assert [hit.asset_id for hit in hits] == [kept, other]
    assert hits[0].copies == ("/media/copy.jpg",)
    decide(db, kept, other, other)
    (hit,) = search_by_vector(db, space, unit(1), limit=5).hits
    assert (hit.asset_id, hit.copies) == (other, ("/media/copy.jpg", "/media/kept.jpg"))
    assert [hit.asset_id for hit in search_by_vector(db, space, unit(1), scope=Scope([copy]), limit=5).hits] == [copy]
    db.execute("INSERT INTO duplicate_events (author, verdict, asset_a, asset_b, undoes)"
               " SELECT author, 'undo', asset_a, asset_b, event_id FROM duplicate_events")  # fmt: skip
    assert len(search_by_vector(db, space, unit(1), limit=5).hits) == 3


def test_moments_of_a_copy_are_told_once_by_their_time_and_those_of_its_own_stay(db):
    space = image_space(db)
    vectors = [unit(1, 0.1 * i) for i in range(3)]
    kept = film(db, "kept.mp4", vectors, space=space, step_ms=20_000)
    longer = film(db, "longer.mp4", [unit(1, 2), *vectors], space=space, step_ms=20_000)
    decide(db, kept, longer, kept, offset_ms=-20_000)
    hits = search_by_vector(db, space, unit(1), limit=10).hits
    assert [(hit.asset_id, hit.t_ms) for hit in hits] == [(kept, 0), (kept, 20_000), (kept, 40_000), (longer, 0)]
    assert [hit.copies for hit in hits] == [("/media/longer.mp4",)] * 3 + [()]


def test_copies_that_stand_for_each_other_in_a_circle_end(db):
    ids = [commit_pictures(db, f"{i}.jpg", [frame(0, phash(1), 0, shot=None)]) for i in range(3)]
    for copy, kept in ((0, 1), (1, 2), (2, 0)):
        decide(db, ids[copy], ids[kept], ids[kept])
    assert search_by_hash(db, phash(1)).hits


def noise(path, seed=0, size=(120, 80)):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def picture_facts(path, spec, kind="image"):
    from cluster.media.child import MediaChild
    from tests.media_reader import MEMORY

    child = MediaChild(MEMORY)
    try:
        return child.pictures(path, kind, spec, 60.0).table.to_pylist()[0]
    finally:
        child.close()


def test_a_picture_finds_its_smaller_copy_by_hash_and_the_answer_names_it(db, db_url, tmp_path):
    from cluster.media.pictures import PictureSpec

    whole, small = noise(tmp_path / "whole.png"), tmp_path / "small.jpg"
    Image.open(whole).resize((60, 40)).save(small, quality=60)
    (found,) = picture_facts(small, PictureSpec())["frames"]
    commit_pictures(db, "small.jpg", [{**found, "thumbnail_sha256": "ab" * 32}])
    commit_pictures(db, "other.jpg", [frame(0, phash(5), 0, shot=None)])
    done = rushes("search", "--image", str(whole), url=db_url)
    assert (done.returncode, done.stdout.count("bits differ")) == (0, 1)
    assert "media/small.jpg (" in done.stdout
    assert f"thumbnails/ab/{'ab' * 32}.jpg" in done.stdout
    assert "1 answer(s): only 1 pictures differ in 7 of 64 bits" in done.stdout
    (hit,) = json.loads(rushes("search", "--image", str(whole), "--json", url=db_url).stdout)
    assert hit["distance"] <= 7
    assert hit["thumbnail_path"].endswith(f"{'ab' * 32}.jpg")
    assert rushes("search", "--image", str(whole), "--asset", "other.jpg", url=db_url).stdout.startswith("0 answer")
    flat = tmp_path / "flat.png"
    Image.new("RGB", (50, 50), "black").save(flat)
    refused = rushes("search", "--image", str(flat), url=db_url)
    assert (refused.returncode, "flat or black" in refused.stderr) == (2, True)


def test_with_a_model_pictures_are_found_by_words_and_by_picture_through_it(db, tmp_path):
    from actors.images import Images
    from cluster.image_model import pixel_spec
    from cluster.media.pictures import PictureSpec
    from tests.tiny_clip import tiny_choice, tiny_clip

    stage = Images(tiny_choice(tiny_clip(tmp_path / "clip")))
    space = spaces.ensure_space(db, "image", stage.choice, stage.identity())
    paths, rows = [noise(tmp_path / f"{seed}.png", seed) for seed in range(3)], []
    for path in paths:
        facts = picture_facts(path, PictureSpec(pixels=pixel_spec(stage.choice)))
        rows.append((facts["frames"], np.frombuffer(facts["pixels"][0]["rgb"], np.uint8).reshape(1, 32, 32, 3)))
    stored = [stage.embed_pictures(rgb)[0] for _, rgb in rows]
    for path, (frames, _), vector in zip(paths, rows, stored, strict=True):
        commit_pictures(db, path.name, [{**frames[0], "thumbnail_sha256": "cd" * 32}], space=space, vectors=[vector])
    first = job.find_by_image(db, load_settings(), paths[1], EVERYWHERE, 3).hits[0]
    assert (first.uri, first.distance) == ("/media/1.png", None)
    assert first.similarity == pytest.approx(1, abs=1e-4)
    by_words = job.find_by_words(db, load_settings(), "a red car", EVERYWHERE, 3).hits
    cosines = np.stack(stored) @ stage.embed_query("a red car")
    assert [hit.similarity for hit in by_words] == pytest.approx(sorted(cosines, reverse=True), abs=1e-4)
    assert picture_lines(by_words[0], "/store/x.jpg")[1] == "  /store/x.jpg"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "give some words, or --image FILE"),
        (["bridge", "--image", "x.jpg"], 2, "words and --image exclude each other"),
        (["bridge", "--pictures", "--rerank"], 2, "--rerank reads passages of speech"),
        (["--image", "x.jpg", "--rerank"], 2, "--rerank reads passages of speech"),
        ([" ", "--pictures"], 2, "nothing to search for"),
        (["bridge", "--pictures"], 1, "profile 'bundled' has no image model"),
        (["--image", "/no/such.jpg"], 1, "no picture is searchable yet"),
    ],
)
def test_a_search_that_makes_no_sense_is_one_line(db_url, words, code, message):
    done = rushes("search", *words, url=db_url)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert message in done.stderr


def test_a_query_that_is_no_picture_is_named(db, db_url, tmp_path, wav):
    commit_pictures(db, "a.jpg", [frame(0, phash(1), 0, shot=None)])
    (tmp_path / "words.jpg").write_text("no picture")
    cut = noise(tmp_path / "cut.png")
    cut.write_bytes(cut.read_bytes()[:200])
    for path, message in (
        ("/no/such.jpg", "/no/such.jpg cannot be opened: no such file"),
        (tmp_path, "it is a folder"),
        (tmp_path / "words.jpg", "words.jpg cannot be read as a picture"),
        (cut, "cut.png cannot be read as a picture"),
        (wav, "holds audio, and --image takes a picture"),
    ):
        done = rushes("search", "--image", str(path), url=db_url)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert message in done.stderr


def test_a_model_that_has_nothing_stored_yet_says_what_to_run(db, monkeypatch, tmp_path):
    from tests.tiny_clip import tiny_folder

    new_asset(db, "a.mp4")
    monkeypatch.setenv("RUSHES_IMAGE_WEIGHTS", f"path:{tiny_folder(tmp_path / 'clip')}")
    with pytest.raises(RushesError, match="rushes ingest --lanes images"):
        job.find_by_words(db, load_settings(), "bridge", EVERYWHERE, 5)


def test_a_still_from_between_two_keyframes_is_found_at_its_own_time(db):
    shown = [(0, phash(1)), (500, phash(2)), (1000, flipped(phash(2), [3])), (1500, phash(4))]
    film_id = commit_pictures(db, "film.mp4", [frame(0, phash(1), 0), frame(1, phash(4), 1500)], samples=shown)
    assert search_by_hash(db, phash(2)).hits == []
    compare_waiting(db)
    [hit] = search_by_hash(db, flipped(phash(2), [3, 60])).hits
    assert (hit.asset_id, hit.t_ms, hit.distance, hit.start_ms, hit.end_ms) == (film_id, 1000, 1, 0, 60_000)
    assert hit.idx in (0, 1)
    assert search_by_hash(db, phash(2), scope=Scope([film_id + 1])).hits == []
    [hit] = search_by_hash(db, phash(4)).hits
    assert (hit.t_ms, hit.idx) == (1500, 1)


def test_a_flat_frame_answers_no_search_by_vector(db):
    space = image_space(db)
    frames = [frame(0, phash(1), 0, informative=False), frame(1, phash(2), 900)]
    commit_pictures(db, "a.mp4", frames, space=space, vectors=[unit(1), unit(0.5, 1)])
    assert [hit.idx for hit in search_by_vector(db, space, unit(1)).hits] == [1]
