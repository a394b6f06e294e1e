"""The thumbnails stage, as a row meets it."""

from __future__ import annotations

import pytest

from actors.thumbnails import Thumbnails
from cluster.errors import UsageError
from cluster.media.blobs import read_blob
from cluster.stage import check_columns, run_stage
from cluster.types import COLUMNS, ROW, rows_table, with_column
from tests.picture_rows import frame, phash


def bare(idx):
    return {**frame(idx, phash(idx), idx * 1000), "thumbnail_sha256": None}


def table(frames, thumbnails, lanes=("frames", "images")):
    out = rows_table([{"asset_id": row, "lanes": list(lanes)} for row in range(len(frames))])
    return with_column(with_column(out, "frames", frames), "thumbnails", thumbnails)


def jpeg(idx, text="picture"):
    return {"idx": idx, "jpeg": f"{text} {idx}".encode()}


def test_each_frame_names_its_own_thumbnail_whatever_the_order(tmp_path):
    stage = Thumbnails(str(tmp_path / "store"))
    stage.load()
    frames = [[bare(0), bare(1), bare(2)], []]
    out = run_stage(stage, table(frames, [[jpeg(2), jpeg(0), jpeg(1)], []]))
    assert out.column("error").to_pylist() == [None, None]
    assert "thumbnails" not in out.column_names
    assert out.schema.field("frames").type == COLUMNS["frames"]
    [found, none] = out.column("frames").to_pylist()
    assert none == []
    assert [{**one, "thumbnail_sha256": None} for one in found] == frames[0]
    for one in found:
        assert read_blob(str(tmp_path / "store"), one["thumbnail_sha256"]) == f"picture {one['idx']}".encode()


def test_a_frame_without_its_thumbnail_fails_its_row_alone(tmp_path):
    out = run_stage(Thumbnails(str(tmp_path)), table([[bare(0), bare(1)], [bare(0)]], [[jpeg(0)], [jpeg(0)]]))
    first, second = out.column("error").to_pylist()
    assert "frames [1] have no thumbnail" in first["message"]
    assert first["lanes"] == ["frames", "images"]
    assert second is None


def test_a_row_with_images_alone_passes_by_untouched(tmp_path):
    committed = [frame(0, phash(1), 0)]
    out = run_stage(Thumbnails(str(tmp_path)), table([committed], [None], lanes=["images"]))
    assert out.column("frames").to_pylist() == [committed]
    assert out.column("error").to_pylist() == [None]
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_takes_nothing_fails_the_rows_and_names_the_setting(tmp_path):
    (tmp_path / "store").write_text("a file")
    out = run_stage(Thumbnails(str(tmp_path / "store")), table([[bare(0)], [bare(0)]], [[jpeg(0)], [jpeg(0)]]))
    for error in out.column("error").to_pylist():
        assert (error["failure"], "RUSHES_STORE" in error["message"]) == ("transient", True)
        assert error["attempts"] == 1
    with pytest.raises(UsageError, match="ftp://x"):
        Thumbnails("ftp://x").load()


def test_the_columns_add_up():
    left = check_columns([Thumbnails("/none")], {*ROW, "frames", "thumbnails"})
    assert "frames" in left
    assert "thumbnails" not in left
