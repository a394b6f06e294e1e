"""`rushes speakers label`, `merge`, `split`, `rename`, `undo` and `history` as a person types them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobs.cli.speakers.places import parse_place, parse_time
from tests.corpus_rows import new_asset
from tests.people import archive, named, put_in_cluster
from tests.test_cli import rushes


@pytest.mark.parametrize(
    ("text", "ms"),
    [("0", 0), ("75.5", 75_500), ("90:00", 5_400_000), ("0:01:02.345", 62_345), (" 2:0:0", 7_200_000)],
)  # fmt: skip
def test_a_time_is_seconds_or_a_clock(text: str, ms: int) -> None:
    assert parse_time(text) == ms


@pytest.mark.parametrize(
    "text", ["", "-1", "1:60", "1:60:00", "1:2:3:4", "nan", "1e3", "\u0663", "9" * 40, "999999:00:00"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    from cluster.errors import UsageError

    with pytest.raises(UsageError, match=r"is no time|later than any recording|minutes and seconds"):
        parse_time(text)


def test_a_place_is_an_asset_and_its_time_whatever_the_path_looks_like(db: Any) -> None:
    plain, odd = new_asset(db, "talk"), new_asset(db, "me@home/talk@12")
    places = {"talk": (plain, None), "talk@1:15": (plain, 75_000), "talk@12": (odd, None), "talk@12@3": (odd, 3_000)}
    for text, (asset_id, at_ms) in places.items():
        found, found_ms = parse_place(db, text)
        assert (found["asset_id"], found_ms) == (asset_id, at_ms)


def said(done: Any) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_person_labels_splits_merges_renames_and_takes_it_back(db: Any, db_url: str) -> None:
    ids = archive(db, {"a.wav": ["anna", "bob"], "b.wav": ["anna"], "c.wav": ["anna"], "d.wav": ["carla"]})
    number = put_in_cluster(db, [(ids[name], 0) for name in ("a.wav", "b.wav", "c.wav")])
    before = named(db)
    out = said(rushes("speakers", "label", "Anna", "b.wav", "--author", "Kim", url=db_url))
    assert out.startswith("Anna (new): voice A at 0:00:00.0 of media/b.wav\n")
    assert "media/b.wav keeps the voices it had under other settings (its file is gone)" in out
    assert "Anna has 3 voice(s) (1 by a person, 2 by cluster), 3 segment(s) in 3 asset(s)" in out
    assert f"cluster {number}: every other voice has the name now" in out
    assert "event 1; `rushes speakers undo 1` takes it back" in out
    done = json.loads(said(rushes("speakers", "label", "Bob", "a.wav", "--at", "0:04.1", "--json", url=db_url)))
    assert (done["event"], done["speaker"], done["start_ms"], done["assets"]) == (
        2, "Bob", 4000, [{"asset": "media/a.wav", "segments": 2, "known": 2, "unknown": 0}],
    )  # fmt: skip
    said(rushes("speakers", "split", "Anna", "--into", "Dora", "c.wav", "a.wav@0", url=db_url))
    assert named(db) == {"a.wav": ["Dora", "Bob"], "b.wav": ["Anna"], "c.wav": ["Dora"], "d.wav": [None]}
    assert said(rushes("speakers", "merge", "Dora", "anna", url=db_url)).startswith("Dora is Anna\n")
    said(rushes("speakers", "rename", "Anna", "Anne", url=db_url))
    said(rushes("speakers", "label", "Bob", "a.wav", "--at", "0", "--only-segment", url=db_url))
    assert named(db)["a.wav"] == ["Bob", "Bob"]
    log = json.loads(said(rushes("speakers", "history", "--json", url=db_url)))
    assert [entry["what"] for entry in log] == [
        "Bob: media/a.wav at 0:00.0 (this segment only)",
        "Anna is called Anne",
        "Dora is Anna",
        "Dora (split off): media/c.wav at 0:00.0 and 1 more place(s)",
        "Bob: media/a.wav at 0:04.0",
        "Anna: media/b.wav at 0:00.0",
    ]
    assert (log[-1]["author"], log[-1]["stands"]) == ("Kim", True)
    for event in range(6, 0, -1):
        assert said(rushes("speakers", "undo", url=db_url)).startswith(f"took back event {event} (")
    assert named(db) == before
    out = said(rushes("speakers", "label", "Ana", "--cluster", str(number), "--dry-run", url=db_url))
    assert out.startswith("Ana (new): voice A at 0:00:00.0 of media/a.wav\n")
    assert out.endswith("dry run: nothing was changed\n")
    assert named(db) == before
    assert "undone by 7" in said(rushes("speakers", "history", "bob", url=db_url))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["label", "Anna"], 2, "give NAME and ASSET, 1 word(s) are here"),
        (["label", "Anna", "Lee", "a.wav"], 2, "a name with spaces needs quotes"),
        (["label", "--nobody", "a.wav"], 2, "--nobody needs --at TIME"),
        (["label", "Anna", "a.wav", "--only-segment"], 2, "--only-segment needs --at TIME"),
        (["label", "Anna", "--cluster", "3", "--at", "1"], 2, "leave out --at and --only-segment"),
        (["label", "--nobody", "--cluster", "3"], 2, "--nobody is about one voice"),
        (["label", "Anna", "--cluster", "3"], 2, "there is no cluster 3"),
        (["label", "Anna", "x.wav"], 2, "no asset matches 'x.wav'"),
        (["label", "Anna", "a.wav", "--at", "noon"], 2, "'noon' is no time"),
        (["label", "Anna", "a.wav", "--at", "1:00"], 1, "nobody speaks at 60.0 s of media/a.wav"),
        (["label", "", "a.wav"], 2, "'' is no name of a person"),
        (["label", "Anna", "a.wav", "--author", " "], 2, "--author takes 1 to 200 characters"),
        (["merge", "Anna", "Bob"], 2, "nobody is called 'Anna'; nobody has a name yet"),
        (["rename", "Anna", "Bob"], 2, "nobody is called 'Anna'"),
        (["split", "Anna", "a.wav"], 2, "give NAME --into OTHER ASSET[@TIME]..."),
        (["split", "--cluster", "3", "--into", "Bob"], 2, "leave out NAME, ASSET and --into"),
        (["split", "--cluster", "3"], 2, "there is no cluster 3"),
        (["undo"], 2, "there is nothing to undo"),
        (["undo", "7"], 2, "there is no event 7"),
        (["history", "Anna"], 2, "nobody is called 'Anna'"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(
    words: list[str], code: int, message: str, mistaken: tuple[str, Any]
) -> None:
    url, conn = mistaken
    done = rushes("speakers", *words, url=url)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert message in done.stderr
    assert conn.execute("SELECT count(*) FROM speaker_events").fetchone() == (0,)
    assert conn.execute("SELECT count(*) FROM speakers").fetchone() == (0,)


@pytest.fixture(scope="module")
def mistaken(server_url: str) -> Any:
    """One corpus for all the mistakes, which change nothing."""
    from cluster.db.connect import open_connection
    from tests.conftest import clone_database

    cloned = clone_database(server_url, "template_corpus")
    url = next(cloned)
    with open_connection(url) as conn:
        archive(conn, {"a.wav": ["anna", "bob"]})
        yield url, conn
    next(cloned, None)
