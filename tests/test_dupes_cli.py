"""`rushes dupes` as a person types it, and the pictures of real files from decoder to decision."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.altered import CLIPS, PICTURES, Cut, alter_clip, alter_picture, look
from cluster.db.duplicates.find import compare_waiting
from tests.film_factory import with_opening
from tests.media_factory import shared_media
from tests.picture_rows import commit_pictures, flipped, phash
from tests.test_cli import rushes
from tests.test_duplicates import film, pairs, picture, scenes, softly


@pytest.fixture
def archive(db: Any) -> Any:
    """Three pictures alike, a film and a clip out of it, and things that are like nothing."""
    for bit, name in enumerate("abc"):
        picture(db, f"{name}.jpg", flipped(phash(1), [bit]))
    picture(db, "lone.jpg", phash(2))
    whole = scenes(10, 60)
    film(db, "film.mp4", whole)
    film(db, "clip.mp4", softly(whole[24:64]))
    return db


def said(*words: str, url: str) -> str:
    done = rushes("dupes", *words, url=url)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def refused(*words: str, url: str, code: int = 2) -> str:
    done = rushes("dupes", *words, url=url)
    assert done.returncode == code, done.stdout
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_person_finds_lists_decides_and_takes_it_back(archive: Any, db_url: str) -> None:
    assert said("find", "--dry-run", url=db_url) == "dry run: 6 assets would be compared with all others\n"
    assert said("list", url=db_url).endswith("not compared yet: 6 assets; `rushes dupes find` does it\n")
    assert said("find", url=db_url) == "compared 6 assets: 4 pairs; look at them: rushes dupes list\n"
    assert said("find", url=db_url).startswith("nothing to compare")
    out = said("list", url=db_url)
    assert out.startswith("group 1: 3 assets, 3 pairs\n")
    assert "media/clip.mp4 is media/film.mp4 from 0:00:12.0 (" in out
    assert "100% of media/clip.mp4" in out
    assert "media/a.jpg is like media/b.jpg (2.0 bits apart)" in out
    assert "lone" not in out
    out = said("resolve", "a.jpg", "b.jpg", "c.jpg", "--author", "Kim", url=db_url)
    assert "media/b.jpg and " in out
    assert "events 1, 2; `rushes dupes undo 2` takes the last back" in out
    assert "different" in said("resolve", "film.mp4", "clip.mp4", "--different", url=db_url)
    assert said("list", url=db_url) == "no near duplicate that waits for a decision\n"
    assert said("find", "--again", url=db_url).startswith("compared 6 assets: 4 pairs")
    assert said("list", url=db_url) == "no near duplicate that waits for a decision\n"
    assert "decided: copy" in said("list", "--all", url=db_url)
    shown = said("show", "b.jpg", url=db_url)
    assert "is a copy of " in shown
    assert "event 1 by Kim: media/b.jpg is a copy of media/a.jpg (stands)" in shown
    assert "stands for " in said("show", "a.jpg", url=db_url)
    assert said("undo", url=db_url) == "took back event 3 (media/film.mp4 and media/clip.mp4 are different)\n"
    assert "clip.mp4" in said("list", url=db_url)
    assert "undone by 4" in said("history", url=db_url)
    assert "film" not in said("history", "a.jpg", url=db_url)


def test_json_names_assets_by_their_content(archive: Any, db_url: str) -> None:
    said("find", url=db_url)
    groups = json.loads(said("list", "--json", url=db_url))
    assert [len(group["pairs"]) for group in groups] == [3, 1]
    [pair] = groups[1]["pairs"]
    names = {one["sha256"]: one["name"] for one in groups[1]["assets"]}
    assert {names[pair["asset_a"]], names[pair["asset_b"]]} == {"/media/film.mp4", "/media/clip.mp4"}
    assert (pair["method"], abs(pair["offset_ms"]), pair["decided"]) == ("sequence", 12_000, None)
    made = json.loads(said("resolve", "film.mp4", "clip.mp4", "--json", url=db_url))
    assert made == {"events": [1], "decisions": 1}
    shown = json.loads(said("show", "clip.mp4", "--json", url=db_url))
    assert shown["copy_of"]["name"] == "/media/film.mp4"
    [event] = json.loads(said("history", "--json", url=db_url))
    assert (event["verdict"], event["kept"]) == ("copy", "/media/film.mp4")


def test_a_dry_run_decides_nothing_and_what_was_decided_is_said(archive: Any, db_url: str) -> None:
    compare_waiting(archive)
    assert "dry run: 1 decision, nothing was changed" in said("resolve", "a.jpg", "b.jpg", "--dry-run", url=db_url)
    assert said("history", url=db_url) == "nobody decided anything yet\n"
    said("resolve", "a.jpg", "b.jpg", url=db_url)
    assert "decided already" in said("resolve", "a.jpg", "b.jpg", url=db_url)


def test_what_makes_no_sense_is_one_line_with_the_way_out(archive: Any, db_url: str) -> None:
    compare_waiting(archive)
    assert "two or more assets" in refused("resolve", "a.jpg", url=db_url)
    assert "cannot be a copy of itself" in refused("resolve", "a.jpg", "a.jpg", url=db_url)
    assert "no asset matches 'x.jpg'" in refused("resolve", "a.jpg", "x.jpg", url=db_url)
    assert "each once" in refused("resolve", "a.jpg", "a.jpg", "--different", url=db_url)
    assert "nothing to undo" in refused("undo", url=db_url)
    assert "no event 7" in refused("undo", "7", url=db_url)
    assert "leave out --all" in refused("list", "--exact", "--all", url=db_url)
    said("resolve", "a.jpg", "b.jpg", "--author", "Kim", url=db_url)
    told = refused("resolve", "b.jpg", "a.jpg", url=db_url, code=1)
    assert "media/b.jpg is a copy of media/a.jpg (event 1 by Kim)" in told
    assert "rushes dupes undo 1" in told


def test_equal_files_are_one_asset_with_its_sources(archive: Any, db_url: str) -> None:
    from cluster.db.register import add_source

    assert said("list", "--exact", url=db_url) == "no two files are equal\n"
    [asset_id] = archive.execute("SELECT asset_id FROM sources WHERE uri = '/media/lone.jpg'").fetchone()
    add_source(archive, "/elsewhere/same.jpg", asset_id, 10, 1, None)
    out = said("list", "--exact", url=db_url)
    assert "2 sources of the same content\n  /elsewhere/same.jpg\n  /media/lone.jpg\n" in out
    [asset] = json.loads(said("list", "--exact", "--json", url=db_url))
    assert asset["sources"] == ["/elsewhere/same.jpg", "/media/lone.jpg"]


def commit_file(db: Any, reader: Any, path: Any, kind: str) -> int:
    found = look(reader, path, kind)
    return commit_pictures(db, path.name, found["frames"], samples=found["samples"])


def test_ten_films_with_one_black_opening_and_title_card_and_a_copy_of_one(db, reader, tmp_path):
    films = [with_opening(tmp_path / f"{number}.mp4", number) for number in range(10)]
    copy = alter_clip(films[4], tmp_path / "copy.mp4", Cut(scale=0.5, from_start=0.1))
    for path in [*films, copy]:
        commit_file(db, reader, path, "video")
    assert compare_waiting(db) == 1
    [(names, found)] = pairs(db).items()
    assert names == ("4.mp4", "copy.mp4")
    assert 1_900 <= found[4] <= 2_900, "a tenth of 25 s is gone at its start"


def test_altered_copies_of_photographs_are_found_and_different_ones_never_paired(db, reader, tmp_path):
    sources = sorted((shared_media() / "duplicates").glob("*.jpg"))
    for source in sources:
        commit_file(db, reader, source, "image")
        for number, kind in enumerate(PICTURES):
            target = alter_picture(source, tmp_path / f"{source.stem}-{number:02}.jpg", kind)
            commit_file(db, reader, target, "image")
    compare_waiting(db)
    found = pairs(db)
    assert all(a[:12] == b[:12] for a, b in found), "two different photographs were paired"
    sure = ("resize to 50 %", "JPEG quality 30", "brightness +25 %", "brightness -25 %", "letterbox", "white border")
    kinds = list(PICTURES)
    for source in sources:
        near = {a if b == source.name else b for a, b in found if source.name in (a, b)}
        assert {f"{source.stem}-{kinds.index(kind):02}.jpg" for kind in sure} <= near


def test_a_real_clip_that_was_altered_in_any_listed_way_is_found(db, reader, tmp_path):
    source = shared_media() / "video" / "nasa_13013.mp4"
    commit_file(db, reader, source, "video")
    for number, cut in enumerate(CLIPS.values()):
        commit_file(db, reader, alter_clip(source, tmp_path / f"{number}.mp4", cut), "video")
    compare_waiting(db)
    found = {kind for number, kind in enumerate(CLIPS) if (f"{number}.mp4", source.name) in pairs(db)}
    assert found == set(CLIPS)
