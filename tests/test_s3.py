"""Object stores, against a real S3-compatible server that counts what it is asked and breaks on demand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.db import report
from cluster.errors import RushesError, UsageError, classify
from cluster.media import remote, store
from cluster.media.blobs import read_blob, write_blob
from cluster.media.hashing import ChangingError
from cluster.media.inputs import list_inputs
from cluster.media.node_cache import NodeCache
from cluster.settings import load_settings
from tests.api_client import api_over
from tests.archive import run
from tests.commands import call_anew
from tests.media_factory import tone, write_video, write_wav
from tests.s3_store import BUCKET, Asked, S3Store, s3_store
from tests.test_hostile import failures

CAP = 2**30
FRAMES: Any = {"lanes": ("frames",)}
LONG = bytes(range(256)) * (100 << 10)
RANGES = -(-len(LONG) // remote.RANGE_BYTES)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Store]:
    with s3_store() as made:
        yield made


@pytest.fixture
def s3(server: S3Store, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """The server with an empty bucket, no faults, and this process's way to it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "FIRST_DELAY_S", 0.01)
    for key in server.names():
        server.delete(key)
    server.asked.clear()
    server.fault = lambda asked: None
    return server


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", 2, tone(2)).read_bytes()


def fetch(uri: str, tmp_path: Path) -> store.Fetched:
    return store.fetch(uri, NodeCache(tmp_path / "cache", CAP))


def first(times: int, fault: str, asks: Callable[[Asked], bool]) -> Callable[[Asked], str | None]:
    """This fault for the first so many requests of the kind."""
    met: list[Asked] = []

    def decide(asked: Asked) -> str | None:
        if not asks(asked) or len(met) == times:
            return None
        met.append(asked)
        return fault

    return decide


def second_range(asked: Asked) -> bool:
    return asked.start == remote.RANGE_BYTES


def test_an_object_is_read_once_by_ranges_and_named_by_its_bytes(s3, tmp_path):
    fetched = fetch(s3.put("long.mp4", LONG), tmp_path)
    assert (fetched.sha256, fetched.path.read_bytes()) == (hashlib.sha256(LONG).hexdigest(), LONG)
    assert fetched.etag == hashlib.md5(LONG).hexdigest()
    assert sorted((asked.start, asked.end) for asked in s3.reads) == [
        (start, min(start + remote.RANGE_BYTES, len(LONG)) - 1) for start in range(0, len(LONG), remote.RANGE_BYTES)
    ]


@pytest.mark.parametrize("fault", ["503", "500", "reset", "cut"])
def test_a_range_that_breaks_is_asked_for_again_alone(s3, tmp_path, fault):
    uri, times = s3.put("long.mp4", LONG), 3
    s3.fault = first(times, fault, second_range)
    assert fetch(uri, tmp_path).sha256 == hashlib.sha256(LONG).hexdigest()
    assert len(s3.reads) == RANGES + times


def test_a_store_that_falls_silent_is_asked_again(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "SILENCE_S", 1.0)
    remote._s3.cache_clear()
    uri = s3.put("short.mp4", LONG[:1000])
    s3.fault = first(1, "stall", lambda asked: asked.start == 0)
    assert fetch(uri, tmp_path).path.read_bytes() == LONG[:1000]
    assert len(s3.reads) == 2
    remote._s3.cache_clear()


def test_a_store_that_stays_broken_is_transient_and_leaves_nothing(s3, tmp_path):
    uri = s3.put("long.mp4", LONG)
    s3.fault = lambda asked: "503" if second_range(asked) else None
    with pytest.raises(ConnectionError, match=f"{uri}.*attempts") as caught:
        fetch(uri, tmp_path)
    assert classify(caught.value) == "transient"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_what_no_second_attempt_mends_is_asked_for_once(s3, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such object.*s3://archive/absent\.mp4"):
        fetch("s3://archive/absent.mp4", tmp_path)
    uri, before = s3.put("here.mp4", b"x"), len(s3.asked)
    s3.fault = lambda asked: "403"
    with pytest.raises(PermissionError, match=r"denies it.*s3://archive/here\.mp4"):
        fetch(uri, tmp_path)
    assert len(s3.asked) == before + 1
    with pytest.raises(RushesError, match="denies it: check the credentials"):
        list_inputs([uri])


def test_an_object_that_is_replaced_while_it_is_read_has_no_name(s3, tmp_path):
    uri = s3.put("long.mp4", LONG)

    def replace(asked: Asked) -> None:
        if second_range(asked):
            s3.put("long.mp4", LONG[::-1])

    s3.fault = replace
    with pytest.raises(ChangingError, match="changed while it was read"):
        fetch(uri, tmp_path)
    s3.fault = lambda asked: s3.put("long.mp4", LONG[:10]) and None if second_range(asked) else None
    with pytest.raises(ChangingError):
        fetch(uri, tmp_path)


def test_a_large_prefix_is_listed_page_by_page_and_nothing_else_is_asked(s3):
    for number in range(2_500):
        s3.backend.put_object(BUCKET, f"many/{number % 7}/{number:04} take.mp4", b"x")
    listing = list_inputs([f"s3://{BUCKET}/many"])
    assert len(listing.files) == len(listing.keys - {f"s3://{BUCKET}/many/{number}" for number in range(7)}) == 2_500
    assert len(s3.asked) <= 6


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIAHIDDEN:hidden@archive/a.mp4",
        "s3://AKIAHIDDEN@archive/a.mp4",
        "s3://AKIAHIDDEN:hid/hidden@archive/a.mp4",
        "s3://AKIAHIDDEN:hid?hidden@archive/a.mp4",
        "s3://archive/a.mp4?secret_key=hidden",
        "s3://archive/a.mp4?region=eu&X-Amz-Signature=hidden",
        "abfs://box:hidden@account.host/a.mp4",
    ],
)
def test_an_address_that_holds_a_secret_is_refused_without_telling_it(uri, db_url, db, monkeypatch):
    with pytest.raises(UsageError, match="holds a secret") as caught:
        run(db_url, [uri])
    assert "hidden" not in str(caught.value).lower()
    assert db.execute("SELECT count(*) FROM runs").fetchone() == (0,)
    monkeypatch.setenv("RUSHES_STORE", uri)
    with pytest.raises(UsageError, match="holds a secret"):
        load_settings()


def test_an_option_that_no_store_has_is_named(s3):
    with pytest.raises(UsageError, match=r"unknown option .regoin.*region"):
        list_inputs([f"s3://{BUCKET}/a.mp4?regoin=eu"])


def test_an_address_that_no_store_serves_is_one_line(s3):
    for uri, says in (
        ("s3://", "names no bucket"),
        ("s3:///x", "no bucket"),
        (f"s3://{BUCKET}/a//b.mp4", "Empty path"),
    ):
        with pytest.raises(UsageError, match=says):
            list_inputs([uri])


def test_a_key_with_an_empty_part_is_named_and_costs_only_itself(s3):
    s3.put("day//double.mp4", b"x")
    s3.put("day/double.mp4", b"x")
    listing = list_inputs([f"s3://{BUCKET}/day"])
    assert [file.uri for file in listing.files] == [f"s3://{BUCKET}/day/double.mp4"]
    [(uri, message, failure)] = listing.unreadable
    assert (uri, failure) == (f"s3://{BUCKET}/day//double.mp4", "bad_media")
    assert "empty part" in message


def test_an_address_may_say_where_its_store_is(s3, tmp_path, monkeypatch):
    s3.put("a b.mp4", b"x")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    uri = f"s3://{BUCKET}/a%20b.mp4?endpoint_override={s3.url.removeprefix('http://')}&scheme=http"
    assert fetch(uri, tmp_path).path.read_bytes() == b"x"


def test_keys_become_rows_and_are_read_again_only_when_their_content_changed(s3, db_url, db, film):
    uri = s3.put("day 1/film.mp4", film)
    prefix, flags = f"s3://{BUCKET}/day%201", {"store": f"s3://{BUCKET}/store"}
    assert run(db_url, [prefix], flags, **FRAMES).ok == 1
    assert len(s3.reads) == 1
    thumbnails = [sha.hex() for (sha,) in db.execute("SELECT thumbnail FROM frames")]
    assert {read_blob(flags["store"], sha)[:2] for sha in thumbnails} == {b"\xff\xd8"}
    # as it was: only listed
    s3.asked.clear()
    assert run(db_url, [prefix], flags, **FRAMES).state == "nothing"
    assert {asked.key for asked in s3.asked} <= {"", "day 1"}
    # written again, the same: looked at, and from then on as it was
    s3.put("day 1/film.mp4", film, age_s=60)
    for looks in (1, 0):
        s3.asked.clear()
        assert run(db_url, [prefix], flags, **FRAMES).state == "nothing"
        assert [asked.key for asked in s3.asked].count("day 1/film.mp4") == looks
        assert s3.reads == []
    # another content
    s3.put("day 1/film.mp4", film + b"\0" * 8, age_s=30)
    assert run(db_url, [prefix], flags, **FRAMES).ok == 1
    assert len(s3.reads) == 1
    # gone
    s3.delete("day 1/film.mp4")
    run(db_url, [prefix], flags, **FRAMES)
    rows = db.execute("SELECT uri, gone_at IS NULL FROM sources").fetchall()
    assert rows == [(uri.replace(" ", "%20"), False)]


def test_a_key_that_is_denied_costs_only_itself(s3, db_url, db, film):
    s3.put("a.mp4", film)
    s3.put("b.mp4", film + b"\0")
    s3.fault = lambda asked: "403" if asked.key == "b.mp4" else None
    summary = run(db_url, [f"s3://{BUCKET}"], **FRAMES)
    assert (summary.ok, summary.failed) == (1, 1)
    [(name, (kind, message))] = failures(db).items()
    assert (name, kind) == ("b.mp4", "transient")
    assert "denies it" in message
    s3.fault = lambda asked: None
    assert run(db_url, [f"s3://{BUCKET}"], **FRAMES).ok == 1
    assert report.open_failures(db, report.FailureFilter()) == []


def test_an_asset_of_a_store_is_served_whole_in_parts_and_cut(s3, db_url, db, film):
    s3.put("film.mp4", film)
    assert run(db_url, [f"s3://{BUCKET}"], **FRAMES).ok == 1
    [(sha,)] = db.execute("SELECT encode(sha256, 'hex') FROM assets").fetchall()
    with api_over(db_url) as api:
        part = api.client.get(f"/v1/media/{sha}/original", headers={"range": "bytes=-500"})
        assert (part.status_code, part.content) == (206, film[-500:])
        assert api.client.get(f"/v1/media/{sha}/frames/100.jpg").content[:2] == b"\xff\xd8"
        assert api.client.get(f"/v1/media/{sha}/clip?start_ms=0&end_ms=500").status_code == 200


def test_a_store_on_s3_takes_gives_and_waits_like_a_folder(s3):
    root = f"s3://{BUCKET}/store"
    s3.fault = first(1, "503", lambda asked: asked.method == "PUT")
    sha = write_blob(root, b"\xff\xd8 a picture")
    assert read_blob(root, sha) == b"\xff\xd8 a picture"


def test_a_command_over_a_store_ends_well(s3, db_url, tmp_path):
    s3.put("a.wav", write_wav(tmp_path / "a.wav", tone(1)).read_bytes())
    env = {**os.environ, "RUSHES_DATABASE_URL": db_url, "RUSHES_RUNNER": "inline"}
    done = call_anew(["ingest", f"s3://{BUCKET}", "--lanes", "frames"], env)
    assert (done.returncode, done.stderr) == (0, "")
    assert call_anew(["ingest", "s3://no-such-bucket/x"], env).returncode == 2
