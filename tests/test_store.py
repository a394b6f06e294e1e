from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from cluster.errors import BadMediaError, MediaResourceError, classify
from cluster.media import remote, store
from cluster.media.hashing import ChangingError, Stamp, hash_file, stamp_of
from cluster.media.node_cache import NodeCache

CAP = 2**20 * 16
URI = "s3://bucket/take one.mp4.gz"
CONTENT = bytes(range(256)) * 10_000
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "bucket"
    root.mkdir()
    (root / "take one.mp4.gz").write_bytes(CONTENT)
    remote = SubTreeFileSystem(str(root), LocalFileSystem())
    monkeypatch.setattr(store, "_filesystem", lambda uri: (remote, uri.removeprefix("s3://bucket/")))
    return root


def test_a_local_file_is_hashed_where_it_lies(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(CONTENT)
    stamp = Stamp(len(CONTENT), path.stat().st_mtime_ns)
    assert hash_file(path) == (SHA, stamp)
    fetched = store.Fetched(SHA, path, stamp)
    assert store.fetch(str(path), NodeCache(tmp_path / "cache", CAP)) == fetched
    assert store.find_registered(str(path), SHA, stamp, NodeCache(tmp_path / "cache", CAP)) == fetched
    assert not (tmp_path / "cache").exists()


def test_a_key_is_read_once_into_a_content_addressed_cache(bucket, tmp_path, monkeypatch):
    cache = NodeCache(tmp_path / "cache", CAP)
    fetched = store.fetch(URI, cache)
    assert fetched == store.Fetched(SHA, cache.folder / SHA[:2] / SHA, stamp_of(fetched.path))
    assert fetched.path.read_bytes() == CONTENT
    assert _files(cache.folder) == [fetched.path]
    monkeypatch.setattr(store, "_filesystem", _raising(AssertionError("read twice")))
    assert store.find_registered(URI, SHA, None, cache) == fetched


def test_an_absent_copy_is_fetched_again_and_a_changed_key_is_refused(bucket, tmp_path):
    assert store.find_registered(URI, SHA, None, NodeCache(tmp_path / "cache", CAP)).path.read_bytes() == CONTENT
    (bucket / "take one.mp4.gz").write_bytes(b"other")
    with pytest.raises(BadMediaError, match="changed since it was registered"):
        store.find_registered(URI, SHA, None, NodeCache(tmp_path / "another", CAP))


def test_a_missing_key_keeps_its_kind_and_other_trouble_is_transient(bucket, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"s3://bucket/absent.mp4"):
        store.fetch("s3://bucket/absent.mp4", NodeCache(tmp_path / "cache", CAP))
    monkeypatch.setattr(store, "_filesystem", _raising(OSError("AWS Error NETWORK_CONNECTION")))
    monkeypatch.setattr(remote, "FIRST_DELAY_S", 0.0)
    with pytest.raises(ConnectionError, match="NETWORK_CONNECTION") as caught:
        store.fetch(URI, NodeCache(tmp_path / "cache", CAP))
    assert classify(caught.value) == "transient"
    assert _files(tmp_path / "cache") == []


def test_a_full_cache_is_a_resource_failure_and_leaves_nothing(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", _raising(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(MediaResourceError, match="no room"):
        store.fetch(URI, NodeCache(tmp_path / "cache", CAP))
    assert _files(tmp_path / "cache") == []


def test_a_file_without_a_stamp_on_record_is_hashed_again(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(CONTENT)
    assert store.find_registered(str(path), SHA, None, NodeCache(tmp_path, CAP)).sha256 == SHA
    with pytest.raises(BadMediaError, match="changed since it was registered"):
        store.find_registered(str(path), "0" * 64, None, NodeCache(tmp_path, CAP))


def test_a_file_that_grows_while_it_is_hashed_gets_no_hash(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(CONTENT)
    digest = hashlib.file_digest

    def slowly(file: Any, kind: str) -> Any:
        with path.open("ab") as more:
            more.write(b"more")
        return digest(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", slowly)
    with pytest.raises(ChangingError, match=f"{len(CONTENT)} bytes before, {len(CONTENT) + 4} after"):
        hash_file(path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "socket"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path, kind):
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    with pytest.raises(BadMediaError, match="not a file"):
        hash_file(path)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]


def _raising(error: Exception) -> Callable[..., Any]:
    def refuse(*_: Any) -> Any:
        raise error

    return refuse
