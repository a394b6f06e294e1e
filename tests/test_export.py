"""Exports of many assets: names, places, what is refused and what goes on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from cluster.db.info import apply_info
from cluster.db.register import add_source
from cluster.db.results import commit_row
from cluster.db.transcripts import name_assets
from cluster.db.turns import give_turns
from cluster.formats.info_json import Info
from cluster.formats.rttm import NamedTurn
from jobs.export import ExportOptions, export
from tests.corpus_rows import PRINTS, claimed, computed_row, make_spaces, new_asset, new_run
from tests.test_cli import rushes


def fill(conn, *uris, text="hello world"):
    """One transcribed asset for each source; returns their ids."""
    made, run_id, ids = make_spaces(conn), new_run(conn), []
    for uri in uris:
        asset_id = new_asset(conn, str(uri))
        conn.execute("DELETE FROM sources WHERE asset_id = %s", (asset_id,))
        add_source(conn, str(uri), asset_id, 10, 1, None)
        row = computed_row(asset_id, claimed(conn, run_id, asset_id), text=text)
        assert commit_row(conn, run_id, row, made) == "done"
        ids.append(asset_id)
    return ids


def write(conn, folder, *formats, **options):
    return export(conn, name_assets(conn), ExportOptions(formats or ["srt"], folder, **options))


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def test_two_assets_of_one_name_are_told_apart_by_their_content_whatever_is_chosen(db, tmp_path):
    fill(db, "/m/one/talk.mp4", "/m/two/Talk.wav", "/m/other.wav")
    labels = {item.asset_id: item for item in name_assets(db)}
    done = write(db, tmp_path)
    expected = {f"{Path(item.name)}.srt" for item in labels.values()}
    assert set(names(tmp_path)) == expected
    assert len(done.files) == 3
    assert sum(item.sha256[:8] in item.name for item in labels.values()) == 2
    assert "other.srt" in expected
    alone = tmp_path / "alone"
    export(db, [item for item in labels.values() if item.name.startswith("talk-")], ExportOptions(["srt"], alone))
    assert set(names(alone)) <= expected
    before = (tmp_path / "other.srt").read_bytes()
    assert write(db, tmp_path).files == done.files
    assert (tmp_path / "other.srt").read_bytes() == before
    assert set(names(tmp_path)) - {f"alone/{name}" for name in names(alone)} == expected


def test_long_and_odd_names_become_file_names(db, tmp_path):
    fill(db, f"/m/{'ü' * 120}.wav", "s3://bucket/a/clip%20one.mp4?region=x", "/m/.wav")
    done = write(db, tmp_path, "srt", "json")
    assert done.failures == []
    assert len(names(tmp_path)) == 6
    assert "clip%20one.srt" in names(tmp_path)


def test_assets_without_a_transcript_are_counted_and_do_not_fail(db, tmp_path):
    fill(db, "/m/a.wav")
    new_asset(db, "b.wav")
    done = write(db, tmp_path)
    assert (names(tmp_path), done.without_transcript, done.failures) == (["a.srt"], ["b"], [])


def test_by_speaker_each_speaker_has_a_file(db, tmp_path):
    fill(db, "/m/a.wav")
    write(db, tmp_path, "txt", by_speaker=True)
    assert names(tmp_path) == ["a.A.txt", "a.B.txt", "a.UNKNOWN.txt"]
    assert (tmp_path / "a.B.txt").read_text() == "[00:00:01] B: hello world 1\n"
    whole = tmp_path / "whole"
    write(db, whole, "rttm")
    write(db, tmp_path, "rttm", by_speaker=True)
    lines = [line for path in tmp_path.glob("a.*.rttm") for line in path.read_text().splitlines()]
    assert sorted(lines) == sorted((whole / "a.rttm").read_text().splitlines())


def test_no_file_of_an_export_replaces_another_of_it(db, tmp_path):
    first, second = fill(db, "/m/a.wav", "/m/a.B.wav")
    for asset_id, name in ((first, "B.C"), (second, "C")):
        give_turns(db, asset_id, [NamedTurn(0, 900_000, name)], PRINTS)
    done = write(db, tmp_path, "txt", by_speaker=True)
    assert names(tmp_path) == ["a.B.C.txt"]
    assert (len(done.files), [item["what"] for item in done.failures]) == (1, [str(tmp_path / "a.B.C.txt")])


def test_dry_run_names_the_files_and_writes_none(db, tmp_path):
    fill(db, "/m/a.wav")
    done = write(db, tmp_path / "new", "srt", "parquet", dry_run=True)
    assert len(done.files) == 3
    assert not (tmp_path / "new").exists()


def test_beside_media_writes_next_to_each_source_and_replaces_nothing_of_others(db, tmp_path):
    for name in ("one/a.mp4", "two/a copy.mp4", "b.wav", "c.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    first, *_ = fill(db, tmp_path / "one/a.mp4", tmp_path / "b.wav", tmp_path / "c.wav", tmp_path / "away.wav")
    add_source(db, str(tmp_path / "two/a copy.mp4"), first, 10, 1, None)
    (tmp_path / "b.srt").write_text("mine")
    done = write(db, None)
    assert {Path(path).name for path in done.files} == {"a.srt", "a copy.srt", "c.srt"}
    assert {(Path(item["what"]).name, item["reason"].partition(":")[0]) for item in done.failures} == {
        ("b.srt", "it exists and says something else"),
        ("away.wav", "no source of it is there now"),
    }
    assert (tmp_path / "b.srt").read_text() == "mine"
    again = write(db, None)
    assert (again.files, len(again.unchanged)) == ([], 3)
    assert [Path(path).name for path in write(db, None, overwrite=True).files] == ["b.srt"]
    assert (tmp_path / "b.srt").read_text() == (tmp_path / "c.srt").read_text()


def test_beside_media_two_recordings_of_one_name_do_not_share_a_file(db, tmp_path):
    for name in ("a.mp4", "a.wav"):
        (tmp_path / name).touch()
    fill(db, tmp_path / "a.mp4", text="film")
    fill(db, tmp_path / "a.wav", text="sound")
    for overwrite in (False, True):
        done = write(db, None, "txt", overwrite=overwrite)
        assert [item["reason"].partition(":")[0] for item in done.failures] == [
            "two recordings or speakers share the name"
        ]
    assert "film" in (tmp_path / "a.txt").read_text()


def test_beside_media_is_refused_for_an_object_store(db, tmp_path):
    fill(db, "s3://bucket/talk.mp4")
    [failure] = write(db, None).failures
    assert failure == {
        "what": "s3://bucket/talk.mp4",
        "reason": "it lies in an object store: there is no folder to write to, use -o DIR",
    }


def test_a_place_that_takes_no_file_fails_alone_and_leaves_nothing_half_written(db, tmp_path):
    fill(db, "/m/a.wav", "/m/b.wav")
    (tmp_path / "a.srt").mkdir()
    done = write(db, tmp_path)
    assert [item["what"] for item in done.failures] == [str(tmp_path / "a.srt")]
    assert names(tmp_path) == ["b.srt"]


def test_title_and_channel_go_into_json_and_csv(db, tmp_path):
    [asset_id] = fill(db, "/m/a.wav", text="=HYPERLINK(1)")
    apply_info(db, asset_id, Info(title="+1, 'quoted' \"talk\"", channel="News"))
    write(db, tmp_path, "json", "csv")
    content = json.loads((tmp_path / "a.json").read_text())
    assert (content["title"], content["channel"]) == ("+1, 'quoted' \"talk\"", "News")
    assert len(content["sha256"]) == 64
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["title"] for row in rows] == ["'+1, 'quoted' \"talk\""] * 4
    assert rows[0]["text"] == "'=HYPERLINK(1) 0"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "export what?"),
        (["--all"], "add -o DIR"),
        (["x", "--all", "-o", "out"], "--all is every asset"),
        (["x", "-f", "parquet"], "parquet is a folder of files"),
        (["x", "--by", "letter", "-o", "out"], "choose speaker"),
        (["x", "-o", "out", "--beside-media"], "two places"),
        (["x", "-o", "out", "--overwrite"], "belongs to --beside-media"),
        (["x", "-o", __file__], "is a file"),
        (["--tag", "none", "-o", "out"], "no asset has the tag 'none'"),
    ],
)
def test_a_mistake_is_one_line(words, message, db_url):
    done = rushes("export", *words, url=db_url)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_the_command_prints_one_writes_many_and_tells_failures(corpus_url, tmp_path):
    one = rushes("export", "call.wav", "-f", "csv", url=corpus_url)
    assert one.returncode == 0
    assert one.stdout.startswith("asset,sha256,")
    many = rushes("export", "--all", "-f", "srt,parquet", "-o", str(tmp_path), "--json", url=corpus_url)
    assert many.returncode == 0
    content = json.loads(many.stdout)
    assert len(content["without_transcript"]) == 2
    assert sorted(content["files"]) == [str(tmp_path / name) for name in names(tmp_path)]
    mixed = rushes("export", "call.wav", "broken.mp4", "-o", str(tmp_path), url=corpus_url)
    assert mixed.returncode == 3
    assert "failed: broken: " in mixed.stderr
    assert "has no transcript: not readable" in mixed.stderr
