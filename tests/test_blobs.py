"""Thumbnails in the store: named by their content, whole or not at all, swept when nobody needs them."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from cluster.errors import FailureClass, UsageError, classify
from cluster.media import blobs, store
from cluster.settings import load_settings

JPEG = b"\xff\xd8 a picture \xff\xd9"
SHA = hashlib.sha256(JPEG).hexdigest()


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A store in an object store, and the folder that stands for it."""
    folder = tmp_path / "bucket"
    folder.mkdir()
    remote = SubTreeFileSystem(str(folder), LocalFileSystem())
    monkeypatch.setattr(store, "_filesystem", lambda uri: (remote, uri.removeprefix("s3://bucket/")))
    blobs._place.cache_clear()
    yield folder
    blobs._place.cache_clear()


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def make_old(path):
    then = time.time() - blobs.GRACE_S - 60
    os.utime(path, (then, then))


def test_a_picture_lies_under_its_content_and_is_read_back(tmp_path):
    root = str(tmp_path / "store")
    assert blobs.write_blob(root, JPEG) == SHA
    assert files(root) == [f"thumbnails/{SHA[:2]}/{SHA}.jpg"]
    assert blobs.blob_path(root, SHA) == f"{root}/thumbnails/{SHA[:2]}/{SHA}.jpg"
    assert Path(blobs.blob_path(root, SHA)).read_bytes() == JPEG
    assert blobs.read_blob(root, SHA) == JPEG
    assert blobs.write_blob(f"file://{root}", JPEG) == SHA
    assert files(root) == [f"thumbnails/{SHA[:2]}/{SHA}.jpg"]


def test_an_object_store_holds_the_same(bucket, tmp_path):
    assert blobs.write_blob("s3://bucket/corpus", JPEG) == SHA
    assert files(bucket) == [f"corpus/thumbnails/{SHA[:2]}/{SHA}.jpg"]
    assert blobs.read_blob("s3://bucket/corpus", SHA) == JPEG
    assert blobs.blob_path("s3://b/c?region=eu", SHA) == f"s3://b/c/thumbnails/{SHA[:2]}/{SHA}.jpg?region=eu"
    make_old(bucket / f"corpus/thumbnails/{SHA[:2]}/{SHA}.jpg")
    [[blob]] = blobs.old_blobs("s3://bucket/corpus", time.time())
    assert blobs.drop_blob("s3://bucket/corpus", blob, time.time())
    assert files(bucket) == []


def test_writing_again_mends_a_damaged_copy_and_renews_its_time(tmp_path):
    root = str(tmp_path)
    blobs.write_blob(root, JPEG)
    path = Path(blobs.blob_path(root, SHA))
    path.write_bytes(b"half")
    make_old(path)
    with pytest.raises(blobs.NoBlobError, match="is damaged"):
        blobs.read_blob(root, SHA)
    blobs.write_blob(root, JPEG)
    assert blobs.read_blob(root, SHA) == JPEG
    assert time.time() - path.stat().st_mtime < 60


def test_a_missing_picture_says_how_to_get_it_back(tmp_path):
    with pytest.raises(blobs.NoBlobError, match="is not there: `rushes ingest --lanes frames --force`"):
        blobs.read_blob(str(tmp_path), SHA)


def test_a_picture_and_its_name_are_on_the_disk_before_a_row_tells_of_it(tmp_path, monkeypatch):
    kept = []

    def fsync(handle):
        place = Path(f"/proc/self/fd/{handle}").readlink()
        kept.append((place, files(place) if place.is_dir() else None))

    monkeypatch.setattr(os, "fsync", fsync)
    blobs.write_blob(str(tmp_path), JPEG)
    (part, _), (folder, names) = kept[-2:]
    assert part.name.startswith(".part-")
    assert (folder, names) == (tmp_path / "thumbnails" / SHA[:2], [f"{SHA}.jpg"])
    assert kept[0][0] == tmp_path / "thumbnails"


def test_a_write_that_breaks_off_leaves_no_picture(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "thumbnails" / SHA[:2]).mkdir(parents=True)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(blobs.StoreFullError, match=r"the store .* \(RUSHES_STORE\): No space left") as caught:
        blobs.write_blob(str(tmp_path), JPEG)
    assert classify(caught.value) == FailureClass.RESOURCE
    assert files(tmp_path) == []


def test_a_store_that_takes_nothing_is_a_transient_failure_that_names_the_setting(tmp_path):
    (tmp_path / "store").write_text("a file")
    for call in (blobs.check_store, lambda root: blobs.write_blob(root, JPEG)):
        with pytest.raises(blobs.StoreError, match="RUSHES_STORE") as caught:
            call(str(tmp_path / "store"))
        assert classify(caught.value) == FailureClass.TRANSIENT
        assert not caught.value.about_rows
    with pytest.raises(UsageError, match="ftp://nowhere"):
        blobs.check_store("ftp://nowhere/store")


def test_the_sweep_finds_old_files_alone_and_spares_what_is_written_meanwhile(tmp_path):
    root = str(tmp_path)
    names = [blobs.write_blob(root, f"picture {number}".encode()) for number in range(4)]
    broken = tmp_path / "thumbnails/ab/.part-xyz"
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.write_bytes(b"half")
    (tmp_path / "thumbnails/ab/notes.txt").write_text("somebody else's")
    for path in [*(Path(blobs.blob_path(root, name)) for name in names[:3]), broken, broken.with_name("notes.txt")]:
        make_old(path)
    found = [blob for batch in blobs.old_blobs(root, time.time()) for blob in batch]
    assert {blob.sha256 for blob in found} == {*names[:3], None}
    assert sum(blob.size_bytes for blob in found) == 3 * 9 + 4
    blobs.write_blob(root, b"picture 0")
    dropped = [blobs.drop_blob(root, blob, time.time()) for blob in found]
    assert dropped.count(False) == 1
    assert [blobs.drop_blob(root, blob, time.time()) for blob in found] == [False] * 4
    assert len(files(root)) == 3
    assert blobs.read_blob(root, names[0]) == b"picture 0"


def test_nothing_to_sweep_in_a_store_that_was_never_written(tmp_path):
    assert list(blobs.old_blobs(str(tmp_path / "none"), time.time())) == []
    assert not (tmp_path / "none").exists()


def test_the_store_lies_beside_the_data_unless_it_is_named(tmp_path, monkeypatch):
    assert load_settings(data_dir=tmp_path).store_root() == str(tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    assert load_settings(store="pictures").store_root() == str(tmp_path / "pictures")
    monkeypatch.setenv("RUSHES_STORE", "s3://bucket/corpus")
    assert load_settings().store_root() == "s3://bucket/corpus"
