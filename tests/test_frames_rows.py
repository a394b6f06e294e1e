"""Frames and image vectors are written whole, in place of the old ones, and read back as they were."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.db import results
from cluster.db.pictures import pack_samples, read_frames, unpack_samples, write_image_vectors
from cluster.db.results import commit_row
from cluster.faults import FaultPoint
from tests.corpus_rows import claimed, new_asset, new_run, unit_vector
from tests.picture_rows import PICTURE_PRINTS, commit_pictures, flipped, frame, image_space, phash, picture_row


def count(db, table):
    return db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_frames_are_read_back_as_they_were_written(db):
    frames = [frame(0, phash(1), 0), frame(1, phash(2), 1001, informative=False), frame(2, b"\xff" * 8, 2002)]
    asset_id = commit_pictures(db, "film.mp4", frames)
    assert read_frames(db, asset_id) == frames
    assert db.execute("SELECT outputs FROM units WHERE lane = 'frames'").fetchone() == (3,)


def test_the_bands_are_the_four_quarters_of_the_hash(db):
    hashed = bytes.fromhex("0123456789abcdef")
    commit_pictures(db, "a.jpg", [frame(0, hashed, 0, shot=None)])
    row = db.execute("SELECT band0, band1, band2, band3, phash::text FROM frames").fetchone()
    assert row == (0x0123, 0x4567, 0x89AB, 0xCDEF, f"{int.from_bytes(hashed, 'big'):064b}")


def test_new_frames_replace_the_old_ones_and_what_hung_on_them(db):
    space = image_space(db)
    asset_id = commit_pictures(db, "film.mp4", [frame(0, phash(1), 0), frame(1, phash(2), 900)], space=space)
    other = commit_pictures(db, "b.mp4", [frame(0, phash(1), 0)], space=space)
    db.execute("INSERT INTO near_duplicates VALUES (%s, %s, 'sequence', 1, 1, 1, 0, NULL)", (asset_id, other))
    db.execute("UPDATE pictures SET is_compared = true")
    run_id = new_run(db)
    db.execute("UPDATE units SET state = 'pending' WHERE asset_id = %s", (asset_id,))
    units = claimed(db, run_id, asset_id, ("frames", "images"), PICTURE_PRINTS)
    row = picture_row(asset_id, units, [frame(0, phash(3), 0)])
    assert commit_row(db, run_id, row, {"image": space}) == "done"
    assert [f["phash"] for f in read_frames(db, asset_id)] == [phash(3)]
    assert count(db, space.table_name) == 2
    assert count(db, "near_duplicates") == 0
    compared = dict(db.execute("SELECT asset_id, is_compared FROM pictures").fetchall())
    assert compared == {asset_id: False, other: True}


def test_vectors_that_do_not_match_the_frames_are_refused_whole(db):
    space = image_space(db)
    frames = [frame(0, phash(1), 0), frame(1, phash(2), 900)]
    asset_id = commit_pictures(db, "film.mp4", frames, space=space)
    with pytest.raises(AssertionError, match="image vectors of frames"), db.transaction():
        write_image_vectors(db, space, asset_id, [{"idx": 0, "vector": unit_vector(1)}], frames)
    assert count(db, space.table_name) == 2


def test_samples_keep_their_times_and_hashes_in_the_order_of_time():
    samples = [{"t_ms": 500, "phash": flipped(phash(7), [0])}, {"t_ms": 0, "phash": b"\x80" + bytes(7)}]
    times, hashes = unpack_samples(*pack_samples(samples))
    assert times.tolist() == [0, 500]
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == [1 << 63, int.from_bytes(flipped(phash(7), [0]), "big")]


@pytest.mark.parametrize("point", [FaultPoint.FRAMES_WRITTEN, FaultPoint.IMAGES_WRITTEN, FaultPoint.UNITS_SETTLED])
def test_a_commit_that_breaks_off_leaves_no_picture(point, db, monkeypatch):
    space, run_id = image_space(db), new_run(db)
    asset_id = new_asset(db, "a.mp4", media_kind="video")
    units = claimed(db, run_id, asset_id, ("frames", "images"), PICTURE_PRINTS)
    row = picture_row(asset_id, units, [frame(0, phash(1), 0)])

    def crash(reached, key=""):
        if reached is point:
            raise ConnectionResetError("the process ends here")

    monkeypatch.setattr(results, "reach", crash)
    with pytest.raises(ConnectionResetError):
        commit_row(db, run_id, row, {"image": space})
    assert [count(db, table) for table in ("pictures", "shots", "frames", space.table_name)] == [0, 0, 0, 0]
    assert db.execute("SELECT DISTINCT state FROM units").fetchall() == [("running",)]
    monkeypatch.undo()
    assert commit_row(db, run_id, row, {"image": space}) == "done"
