"""Side-cars: what a downloader noted comes along, wins over guesses, and never fails the media."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from cluster.db.assets import add_label
from cluster.db.info import apply_info, said_of
from cluster.db.register import NewAsset, add_asset, add_source
from cluster.errors import RushesError
from cluster.formats import info_json
from cluster.formats.info_json import Info, read_info
from tests.archive import run
from tests.corpus_rows import new_asset
from tests.media_factory import silence, write_wav
from tests.test_cli import rushes

DOWNLOADED = {
    "id": "x1", "title": "A\u0000 talk\nin two lines", "channel": "News", "uploader": "Somebody",
    "upload_date": "20240309", "tags": ["one", "two", "one"], "categories": ["Talks"], "playlist_title": "Spring",
    "formats": [{"url": None}],
}  # fmt: skip


def write_info(path, **changes):
    path.write_text(json.dumps({**DOWNLOADED, **changes}))
    return path


def recorded(conn):
    return conn.execute("SELECT recorded_at, recorded_at_origin FROM assets ORDER BY asset_id").fetchall()


def test_the_keys_that_matter_are_read(tmp_path):
    info = read_info(write_info(tmp_path / "a.info.json"))
    assert info == Info(
        "A talk in two lines", "News", datetime(2024, 3, 9, tzinfo=UTC), ("one", "two", "Talks"), ("Spring",)
    )
    assert read_info(write_info(tmp_path / "b.info.json", channel=None)).channel == "Somebody"
    exact = read_info(write_info(tmp_path / "c.info.json", timestamp=1_700_000_000.5))
    assert exact.recorded_at == datetime(2023, 11, 14, 22, 13, 20, 500_000, UTC)
    (tmp_path / "d.info.json").write_text("{}")
    assert read_info(tmp_path / "d.info.json") == Info()
    assert read_info(write_info(tmp_path / "e.info.json", title="\ud800!")).title == "?!"
    assert read_info(write_info(tmp_path / "f.info.json", title="a\u001b[2J\u009bb")).title == "a [2J b"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": 7}, "title must be text, is 7"),
        ({"tags": "one"}, "tags must be a list of texts, is 'one'"),
        ({"tags": ["one", 2]}, "tags must be a list"),
        ({"upload_date": "20241345"}, "upload_date must be a date such as 20240309"),
        ({"upload_date": 20240309}, "upload_date must be a date"),
        ({"timestamp": True}, "timestamp must be a number"),
        ({"timestamp": 1e300}, "is no time"),
        ({"timestamp": float("nan")}, "is no time"),
        ({"channel": "x" * 301}, "channel has 301 characters, at most 300"),
    ],
)
def test_a_wrong_value_is_named(changes, message, tmp_path):
    path = write_info(tmp_path / "a.info.json", **changes)
    with pytest.raises(RushesError, match=message) as caught:
        read_info(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"timestamp": ' + b"9" * 5000 + b"}"]
)
def test_content_that_is_no_info_is_refused(content, tmp_path):
    (tmp_path / "a.info.json").write_bytes(content)
    with pytest.raises(RushesError, match=r"a\.info\.json"):
        read_info(tmp_path / "a.info.json")


def test_a_huge_file_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(info_json, "MAX_BYTES", 10)
    with pytest.raises(RushesError, match="larger than"):
        read_info(write_info(tmp_path / "a.info.json"))


def test_a_sidecar_comes_along_and_a_broken_one_is_a_note(db, db_url, tmp_path):
    write_wav(tmp_path / "2020-01-01 a.wav", silence(1), 16_000)
    write_wav(tmp_path / "b.wav", silence(2), 16_000)
    write_info(tmp_path / "2020-01-01 a.info.json")
    (tmp_path / "b.info.json").write_text("{broken")
    summary = run(db_url, [str(tmp_path)])
    assert (summary.ok, summary.failed) == (2, 0)
    assert [note for note in summary.notes if "b.info.json" in note and "side-car left out" in note]
    rows = said_of(db, [row[0] for row in db.execute("SELECT asset_id FROM assets")])
    assert {"title": "A talk in two lines", "channel": "News", "tags": ["Talks", "one", "two"],
            "collections": ["Spring"]} in rows.values()  # fmt: skip
    assert (datetime(2024, 3, 9, tzinfo=UTC), "info") in recorded(db)


def test_a_noted_date_outlives_a_later_registration(db):
    sha256 = "ab" * 32
    asset_id = add_asset(db, NewAsset(sha256=sha256, byte_size=1))
    apply_info(db, asset_id, Info(recorded_at=datetime(2024, 3, 9, tzinfo=UTC)))
    readable = NewAsset(
        sha256=sha256, byte_size=1, media_kind="audio", recorded_at="2020-01-01T00:00:00Z", recorded_at_origin="mtime"
    )
    assert add_asset(db, readable) == asset_id
    assert recorded(db) == [(datetime(2024, 3, 9, tzinfo=UTC), "info")]
    assert db.execute("SELECT media_kind FROM assets").fetchone() == ("audio",)


def test_names_that_differ_in_case_only_are_one_in_a_sidecar_too(db):
    one, other = (new_asset(db, name) for name in ("a.wav", "b.wav"))
    add_label(db, "tag", "News", [one])
    add_label(db, "collection", "Spring", [one])
    long = "x" * info_json.NAME_CHARS
    for _ in range(2):
        apply_info(db, one, Info(tags=("news", "Talk", "TALK", long), collections=("SPRING", "best")))
        apply_info(db, other, Info(tags=("NEWS", "talk"), collections=("spring",)))
    said = said_of(db, [one, other])
    assert (said[one]["tags"], said[one]["collections"]) == (["News", "Talk", long], ["Spring", "best"])
    assert (said[other]["tags"], said[other]["collections"]) == (["News", "Talk"], ["Spring"])


def test_sidecars_of_a_folder_go_to_the_sources_beside_them(db, db_url, tmp_path):
    ids = [new_asset(db, name) for name in ("a.mp4", "a.wav", "b c.x.mkv")]
    db.execute("DELETE FROM sources")
    for asset_id, name in zip(ids, ("a.mp4", "a.wav", "deep/b c.x.mkv"), strict=True):
        add_source(db, str(tmp_path / name), asset_id, 1, 1, None)
    (tmp_path / "deep").mkdir()
    write_info(tmp_path / "a.info.json", title="A")
    write_info(tmp_path / "deep" / "b c.x.info.json", title="B")
    write_info(tmp_path / "stranger.info.json", title=5)
    done = rushes("import", str(tmp_path), "--add-tag", "mine", "--add-collection", "all", url=db_url)
    assert done.returncode == 0, done.stderr
    assert "1 side-car(s) beside no registered source left out" in done.stdout
    said = said_of(db, ids)
    assert [said[i]["title"] for i in ids] == ["A", "A", "B"]
    assert all("mine" in said[i]["tags"] and said[i]["collections"] == ["Spring", "all"] for i in ids)
    write_info(tmp_path / "a.info.json", title=["wrong"])
    done = rushes("import", str(tmp_path), url=db_url)
    assert done.returncode == 3
    assert "failed: " in done.stderr
    assert "title must be text" in done.stderr


def test_a_sidecar_from_elsewhere_needs_an_asset_and_a_tag_needs_no_file(db, db_url, tmp_path):
    asset_id = new_asset(db, "a.wav")
    path = write_info(tmp_path / "download.info.json", playlist_title=None)
    done = rushes("import", str(path), url=db_url)
    assert (done.returncode, "say --asset" in done.stderr) == (1, True)
    assert rushes("import", str(path), "--asset", "a.wav", "--dry-run", url=db_url).returncode == 0
    assert said_of(db, [asset_id])[asset_id]["title"] is None
    assert rushes("import", str(path), "--asset", "a.wav", url=db_url).returncode == 0
    assert rushes("import", "--asset", "a.wav", "--add-collection", "best", url=db_url).returncode == 0
    assert said_of(db, [asset_id])[asset_id]["collections"] == ["best"]
    shown = rushes("show", "a.wav", url=db_url).stdout
    assert "title: A talk in two lines" in shown
    assert "tags: Talks, one, two" in shown
