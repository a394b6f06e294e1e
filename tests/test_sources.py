"""Files that move, go and come back: the corpus knows them by content and forgets nothing by itself."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from cluster.db import ledger
from cluster.db.register import sources_below
from cluster.errors import UsageError
from cluster.media import store
from cluster.media.inputs import Folder, list_inputs
from jobs.summary import SourceChanges, describe
from tests.archive import run
from tests.corpus_rows import LANES, PRINTS, claimed, new_asset, new_run
from tests.media_factory import silence, write_video, write_wav

NOT_YET = {"since": datetime(2100, 1, 1, tzinfo=UTC)}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Films without sound: registered in full, nothing to run."""
    folder = tmp_path / "archive"
    for seconds, name in enumerate(("a.mp4", "b.mp4", "inner/c.mp4"), 1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / name, seconds, None)
    return folder


def gone(db) -> list[str]:
    rows = db.execute("SELECT uri FROM sources WHERE gone_at IS NOT NULL ORDER BY uri").fetchall()
    return [Path(uri).name for (uri,) in rows]


def assets(db) -> int:
    return db.execute("SELECT count(*) FROM assets").fetchone()[0]


def test_a_file_that_moved_is_the_same_asset_and_no_work(db_url, db, archive):
    run(db_url, [str(archive)])
    (archive / "a.mp4").rename(archive / "inner/z.mp4")
    moved = run(db_url, [str(archive)])
    assert (moved.state, moved.sources, moved.planned) == ("nothing", SourceChanges(moved=1), 0)
    assert "known sources: 1 moved" in describe(moved)
    assert (assets(db), gone(db)) == (3, ["a.mp4"])
    assert run(db_url, [str(archive)]).sources == SourceChanges()


def test_a_file_that_moved_out_of_the_listed_folder_is_found_moved_from_its_new_place(db_url, db, archive, tmp_path):
    run(db_url, [str(archive)])
    (tmp_path / "new").mkdir()
    (archive / "a.mp4").rename(tmp_path / "new/a.mp4")
    assert run(db_url, [str(tmp_path / "new")]).sources == SourceChanges(moved=1)
    assert gone(db) == ["a.mp4"]


@pytest.mark.parametrize("leave_mount_point", [True, False])
def test_a_disk_that_is_not_mounted_marks_and_its_return_unmarks(db_url, db, archive, tmp_path, leave_mount_point):
    run(db_url, [str(archive)])
    archive.rename(tmp_path / "away")
    if leave_mount_point:
        archive.mkdir()
    away = run(db_url, [str(archive)])
    assert (away.exit_code, away.sources) == (0, SourceChanges(gone=3))
    assert (assets(db), gone(db)) == (3, ["a.mp4", "b.mp4", "c.mp4"])
    if leave_mount_point:
        archive.rmdir()
    (tmp_path / "away").rename(archive)
    assert run(db_url, [str(archive)]).sources == SourceChanges(back=3)
    assert gone(db) == []


def test_a_missing_folder_that_never_had_sources_and_a_missing_file_stay_mistakes(db_url, archive):
    run(db_url, [str(archive)])
    (archive / "a.mp4").unlink()
    for name in ("a.mp4", "inne", "elsewhere"):
        with pytest.raises(UsageError, match="does not exist"):
            run(db_url, [str(archive / name)])


def test_what_was_merely_not_listed_is_not_marked(db_url, db, archive, tmp_path, monkeypatch):
    (archive / "a.mp4").rename(archive / ".hidden.mp4")
    (archive / "b.mp4").rename(archive / "film.data")
    run(db_url, [str(archive), str(archive / ".hidden.mp4"), str(archive / "film.data")])
    assert assets(db) == 3
    unreadable = archive / "inner"
    iterdir, stat = Path.iterdir, os.stat

    def no_listing(path: Path):
        if path == unreadable:
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    def no_look(path, *args, **kwargs):
        if str(path).startswith(f"{unreadable}/"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(Path, "iterdir", no_listing)
    monkeypatch.setattr(os, "stat", no_look)
    run(db_url, [str(archive)])
    run(db_url, [f"{archive}/*.data"])
    run(db_url, [str(archive)], limit=1)
    assert gone(db) == []


def test_folders_with_like_names_are_told_apart(db):
    for uri in ("/media/ab/x.wav", "/media/a/x.wav", "/media/a%/y.wav"):
        new_asset(db, uri.removeprefix("/media/"))
    assert sources_below(db, Folder("/media/a/")) == ["/media/a/x.wav"]
    assert sources_below(db, Folder("/media/a%/")) == ["/media/a%/y.wav"]


def test_keys_of_an_object_store_go_and_come_back(archive, tmp_path, monkeypatch):
    bucket = SubTreeFileSystem(str(archive), LocalFileSystem())
    monkeypatch.setattr(
        store, "_filesystem", lambda uri: (bucket, {"s3://bucket/inner?r=eu": "inner"}.get(uri, "none"))
    )
    listing = list_inputs(["s3://bucket/inner?r=eu"])
    assert listing.folders == [Folder("s3://bucket/inner/", "?r=eu")]
    known = [
        "s3://bucket/inner/c.mp4?r=eu",
        "s3://bucket/inner/d.mp4?r=eu",
        "s3://bucket/inner/d.mp4",
        "s3://else/d.mp4",
    ]
    assert listing.gone(known) == ["s3://bucket/inner/d.mp4?r=eu"]
    emptied = list_inputs(["s3://bucket/gone"], had_sources=lambda folder: folder == Folder("s3://bucket/gone/"))
    assert emptied.gone(["s3://bucket/gone/x.mp4"]) == ["s3://bucket/gone/x.mp4"]


def test_an_asset_without_a_source_is_not_attempted_but_counted_and_returns(db_url, db, tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    for name in ("kept", "lost"):
        write_wav(folder / f"{name}.wav", silence(1 if name == "kept" else 2), 16_000)
    (folder / "copy.wav").write_bytes((folder / "kept.wav").read_bytes())
    run(db_url, [str(folder)], **NOT_YET)
    (folder / "lost.wav").unlink()
    (folder / "kept.wav").unlink()
    dry = run(db_url, dry_run=True, lanes=("speech",))
    assert (dry.planned, dry.vanished, gone(db)) == (1, 1, [])
    done = run(db_url, lanes=("speech",))
    assert (done.exit_code, done.ok, done.failed, done.vanished) == (0, 1, 0, 1)
    assert any("1 asset(s) vanished" in line for line in describe(done))
    assert gone(db) == ["kept.wav", "lost.wav"]
    assert db.execute("SELECT count(*) FROM failures").fetchone() == (0,)
    write_wav(folder / "lost.wav", silence(2), 16_000)
    back = run(db_url, [str(folder)], **NOT_YET)
    assert (back.vanished, gone(db)) == (0, ["kept.wav"])


def test_lanes_that_read_no_media_need_no_source(db):
    run_id, asset_id = new_run(db), new_asset(db, "a")
    claimed(db, run_id, asset_id)
    db.execute("UPDATE units SET state = 'done', outputs = 0 WHERE lane = 'speech'")
    db.execute("UPDATE units SET state = 'pending' WHERE lane <> 'speech'")
    db.execute("UPDATE sources SET gone_at = now()")
    [row], waiting = ledger.pending_rows(db, ledger.Selection([asset_id]), PRINTS, LANES)
    assert (row.lanes, row.uri, row.byte_size, waiting) == (("texts",), "/media/a", 10, 0)
    assert ledger.vanished_assets(db, ledger.Selection([asset_id]), PRINTS, LANES) == [asset_id]
    assert ledger.vanished_assets(db, ledger.Selection([asset_id]), PRINTS, ["speech", "texts"]) == []
    forced = ledger.Selection([asset_id], again=("failed", "done"))
    assert ledger.vanished_assets(db, forced, PRINTS, ["speech", "texts"]) == [asset_id]


def test_forcing_leaves_the_speech_of_an_asset_without_a_source_alone(db_url, db, corpus_url, corpus):
    corpus.execute("UPDATE sources SET gone_at = now()")
    dry = run(corpus_url, force=True, dry_run=True)
    assert "assets by lane: texts 3" in dry.notes
    assert run(corpus_url, force=True, limit=1).ok == 1
    states = corpus.execute("SELECT DISTINCT state FROM units WHERE lane = 'speech' AND outputs IS NOT NULL").fetchall()
    assert states == [("done",)]
