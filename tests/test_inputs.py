from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from cluster.errors import UsageError
from cluster.media import store
from cluster.media.inputs import Folder, Listing, list_inputs


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    root = tmp_path / "archive"
    for name in ("b.mp4", "a.WAV", "notes.txt", ".hidden.mp4", "inner/c.mkv", ".trash/d.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def names(listing: Listing) -> list[str]:
    return [Path(file.uri).name for file in listing.files]


def test_a_folder_gives_its_media_sorted_and_counts_the_rest(archive):
    listing = list_inputs([str(archive)])
    assert names(listing) == ["a.WAV", "b.mp4", "c.mkv"]
    assert (listing.ignored, listing.unreadable) == (1, [])
    first = listing.files[0]
    status = Path(first.uri).stat()
    assert (first.byte_size, first.mtime_ns, first.etag) == (status.st_size, status.st_mtime_ns, None)


def test_an_empty_folder_is_no_error(tmp_path):
    assert list_inputs([str(tmp_path)]) == Listing([], 0, [], [Folder(f"{tmp_path}/")])


def test_a_named_file_is_tried_whatever_its_suffix(archive, monkeypatch):
    monkeypatch.chdir(archive)
    listing = list_inputs(["notes.txt", "./notes.txt", (archive / "notes.txt").as_uri(), ".hidden.mp4"])
    assert [file.uri for file in listing.files] == [str(archive / "notes.txt"), str(archive / ".hidden.mp4")]


@pytest.mark.parametrize("name", ["absent.mp4", "", "no/such/*.mp4", "a\0b", "file:///absent.mp4", "http://host/a.mp4"])
def test_a_name_that_leads_nowhere_is_a_usage_error_that_says_it(name):
    with pytest.raises(UsageError) as caught:
        list_inputs([name])
    assert name.removeprefix("file://") in str(caught.value).replace("\\x00", "\0")


def test_a_file_address_of_another_machine_is_refused():
    with pytest.raises(UsageError, match="another machine"):
        list_inputs(["file://elsewhere/a.mp4"])


def test_quoted_globs_are_expanded(archive):
    assert names(list_inputs([f"{archive}/**/*.m*"])) == ["b.mp4", "c.mkv"]


def test_a_name_that_looks_like_a_glob_is_taken_as_it_is(tmp_path):
    (tmp_path / "take[1].mp4").write_bytes(b"x")
    assert names(list_inputs([str(tmp_path / "take[1].mp4")])) == ["take[1].mp4"]


def test_lists_from_a_file_and_from_standard_input(archive, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"\ufeff# the archive\n\n  {archive}/b.mp4  \r\n", encoding="utf-8")
    listing = list_inputs(["-"], [str(listed)], io.StringIO(f"{archive}/inner\n{archive}/b.mp4\n"))
    assert names(listing) == ["c.mkv", "b.mp4"]
    with pytest.raises(UsageError, match=r"absent\.txt"):
        list_inputs([], ["absent.txt"])
    with pytest.raises(UsageError, match="standard input"):
        list_inputs(["-"])


def test_a_symlink_loop_ends_and_links_keep_their_own_name(archive, tmp_path):
    (archive / "inner/up").symlink_to(archive)
    (archive / "link.mp4").symlink_to(archive / "b.mp4")
    assert names(list_inputs([str(archive)])) == ["a.WAV", "b.mp4", "link.mp4", "c.mkv"]
    alias = tmp_path / "alias"
    alias.symlink_to(archive)
    assert list_inputs([str(alias)]).files[0].uri == str(alias / "a.WAV")


def test_a_broken_link_to_media_is_unreadable_and_others_are_ignored(archive):
    (archive / "gone.mp4").symlink_to(archive / "absent")
    (archive / "gone.txt").symlink_to(archive / "absent")
    listing = list_inputs([str(archive)])
    assert listing.unreadable == [(str(archive / "gone.mp4"), "No such file or directory", "transient")]
    assert listing.ignored == 2


def test_a_pipe_is_refused_by_name_and_ignored_in_a_folder(archive):
    os.mkfifo(archive / "pipe.mp4")
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        list_inputs([str(archive / "pipe.mp4")])
    assert list_inputs([str(archive)]).ignored == 2


def test_odd_names_survive_and_undecodable_ones_are_reported(tmp_path):
    odd = ["a\nb.mp4", "quote'\".mp4", "\N{SLICE OF PIZZA}.mp4"]
    for name in odd:
        (tmp_path / name).write_bytes(b"x")
    raw = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    Path(os.fsdecode(raw)).write_bytes(b"x")
    listing = list_inputs([str(tmp_path)])
    assert sorted(names(listing)) == sorted(odd)
    assert listing.unreadable == [(f"{tmp_path}/caf\\xe9.mp4", "its name is not valid UTF-8: rename it", "bad_media")]


def test_object_store_keys_and_prefixes(archive, monkeypatch):
    bucket = SubTreeFileSystem(str(archive), LocalFileSystem())
    paths = {"s3://bucket": "", "s3://bucket/inner?region=eu": "inner/", "s3://bucket/b.mp4": "b.mp4"}
    monkeypatch.setattr(store, "_filesystem", lambda uri: (bucket, paths.get(uri, "absent")))
    (archive / "inner/two words%.mp4").write_bytes(b"x")
    prefix = list_inputs(["s3://bucket/inner?region=eu"])
    assert [file.uri for file in prefix.files] == [
        "s3://bucket/inner/c.mkv?region=eu",
        "s3://bucket/inner/two%20words%25.mp4?region=eu",
    ]
    assert [file.byte_size for file in list_inputs(["s3://bucket/b.mp4"]).files] == [5]
    whole = list_inputs(["s3://bucket"])
    assert (len(whole.files), whole.ignored) == (4, 1)
    with pytest.raises(UsageError, match="s3://bucket/absent"):
        list_inputs(["s3://bucket/absent.mp4"])
