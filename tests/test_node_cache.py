"""The copies of a node: bounded, the unused first, never what is read, whatever dies in between."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from cluster.errors import MediaResourceError, classify
from cluster.media import node_cache
from cluster.media.node_cache import NodeCache
from cluster.media.store import Fetched, holding
from tests.test_cli import ROOT

MIB = 2**20


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeCache:
    """Room for three objects of one MiB."""
    monkeypatch.setattr(node_cache, "ROOM_WAIT_S", 0.3)
    monkeypatch.setattr(node_cache, "FIRST_DELAY_S", 0.05)
    return NodeCache(tmp_path / "cache", 3 * MIB)


def content(number: int) -> bytes:
    return bytes([number]) * MIB


def name(number: int) -> str:
    return hashlib.sha256(content(number)).hexdigest()


def bring(cache: NodeCache, number: int, **options: Any) -> Path:
    def fetch(file: BinaryIO, reserve: Callable[[int], None]) -> str:
        reserve(MIB)
        file.write(content(number))
        return name(number)

    return cache.bring(f"s3://bucket/{number}", fetch, **options).path


def here(cache: NodeCache) -> set[int]:
    return {number for number in range(9) if cache.place(name(number)).exists()}


def used_before(cache: NodeCache, number: int, age_s: float) -> None:
    path = cache.place(name(number))
    os.utime(path, (time.time() - age_s, path.stat().st_mtime))


def test_the_one_unused_for_longest_goes_first(cache):
    for number in (1, 2, 3):
        bring(cache, number)
        used_before(cache, number, 100 - number)
    found = cache.find(name(1))
    assert found is not None
    bring(cache, 4)
    assert here(cache) == {1, 3, 4}
    assert cache.size_bytes() == 3 * MIB
    # use is no change
    assert cache.find(name(1)) == found


def test_what_is_read_stays_and_who_wants_its_room_waits_for_it(cache):
    for number in (1, 2, 3):
        bring(cache, number)
    with cache.pinned(cache.place(name(1))), cache.pinned(cache.place(name(2))), cache.pinned(cache.place(name(3))):
        with pytest.raises(MediaResourceError, match=r"0\.00 GiB of 0\.00 GiB are in use") as caught:
            bring(cache, 4)
        assert classify(caught.value) == "resource"
    assert here(cache) == {1, 2, 3}
    node_cache.ROOM_WAIT_S = 30.0
    reading = cache.pinned(cache.place(name(2)))
    reading.__enter__()
    with cache.pinned(cache.place(name(1))), cache.pinned(cache.place(name(3))):
        threading.Timer(0.2, reading.__exit__, (None, None, None)).start()
        bring(cache, 4)
    assert here(cache) == {1, 3, 4}


def test_an_object_larger_than_the_cache_is_refused_with_the_figures(tmp_path):
    cache = NodeCache(tmp_path, 2**29)
    with pytest.raises(MediaResourceError, match=r"it is 1\.00 GiB and .* takes 0\.50 GiB: raise RUSHES_CACHE_BYTES"):
        cache.bring("key", lambda file, reserve: reserve(2**30) or "")
    assert cache.size_bytes() == 0


def test_a_full_disk_evicts_then_waits_then_gives_up(cache, monkeypatch):
    disk = 2 * MIB
    allocate = os.posix_fallocate

    def small_disk(handle: int, start: int, size: int) -> None:
        if cache.size_bytes() + size > disk:
            raise OSError(errno.ENOSPC, "No space left on device")
        allocate(handle, start, size)

    monkeypatch.setattr(os, "posix_fallocate", small_disk)
    for number in (1, 2, 3):
        bring(cache, number)
        used_before(cache, number, 100 - number)
    assert here(cache) == {2, 3}
    began = time.monotonic()
    with (
        cache.pinned(cache.place(name(2))),
        cache.pinned(cache.place(name(3))),
        pytest.raises(MediaResourceError, match="are free on its disk"),
    ):
        bring(cache, 4)
    assert time.monotonic() - began > 0.1
    assert [path for path in cache.folder.iterdir() if path.name.startswith(".part")] == []


@pytest.mark.parametrize("call", ["open", "fsync", "posix_fallocate"])
@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO])
def test_a_disk_that_is_lost_is_told_of_the_cache_and_tried_again(cache, monkeypatch, call, number):
    def lost(*_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, lost)
        with pytest.raises(MediaResourceError, match=rf"cache folder {cache.folder} takes no files") as caught:
            bring(cache, 1)
    assert classify(caught.value) == "resource"
    assert os.strerror(number).lower() in str(caught.value)
    bring(cache, 1)
    assert here(cache) == {1}


def test_of_several_that_want_one_content_one_fetches_it(cache):
    fetched: list[int] = []
    gate = threading.Barrier(4)

    def fetch(file: BinaryIO, reserve: Callable[[int], None]) -> str:
        fetched.append(1)
        reserve(MIB)
        time.sleep(0.1)
        file.write(content(1))
        return name(1)

    def want(_: int) -> Path:
        gate.wait()
        return cache.bring("s3://bucket/1", fetch, name(1)).path

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(want, range(4))) == {cache.place(name(1))}
    assert len(fetched) == 1


def test_a_fetch_that_fails_leaves_nothing_and_the_next_one_goes_through(cache):
    def broken(file: BinaryIO, reserve: Callable[[int], None]) -> str:
        reserve(MIB)
        raise ConnectionError("reset")

    with pytest.raises(ConnectionError):
        cache.bring("s3://bucket/1", broken)
    assert cache.size_bytes() == 0
    bring(cache, 1)
    assert here(cache) == {1}


def test_what_a_killed_process_left_is_swept_and_what_it_read_is_free(cache):
    bring(cache, 1)
    script = f"""
import sys, time
from pathlib import Path
from cluster.media.node_cache import NodeCache
cache = NodeCache(Path({str(cache.folder)!r}), {cache.most_bytes})
def fetch(file, reserve):
    reserve({2 * MIB})
    print("fetching", flush=True)
    time.sleep(600)
with cache.pinned(cache.place({name(1)!r})):
    cache.bring("s3://bucket/other", fetch)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "fetching\n"
        with pytest.raises(MediaResourceError):
            bring(cache, 2)
        other.send_signal(signal.SIGKILL)
    for number in (2, 3, 4):
        bring(cache, number)
    assert here(cache) == {2, 3, 4}
    assert cache.size_bytes() == 3 * MIB


def test_processes_that_share_a_node_never_pass_its_cap_or_lose_what_they_read(cache):
    script = f"""
import hashlib, random, sys
from pathlib import Path
sys.path.insert(0, "tests")
from cluster.media import node_cache
from cluster.media.node_cache import NodeCache
from cluster.media.store import Fetched, holding
node_cache.FIRST_DELAY_S = 0.01
cache = NodeCache(Path({str(cache.folder)!r}), {cache.most_bytes})
random.seed(int(sys.argv[1]))
for _ in range(40):
    number = random.randrange(8)
    data = bytes([number]) * {MIB}
    sha = hashlib.sha256(data).hexdigest()
    def fetch(file, reserve):
        reserve(len(data)); file.write(data); return sha
    def find():
        copy = cache.find(sha) or cache.bring(str(number), fetch, sha)
        return Fetched(sha, *copy)
    with holding(find, cache) as found:
        assert found.path.read_bytes() == data
        with cache._alone():
            assert cache.size_bytes() <= {cache.most_bytes}
"""
    workers = [subprocess.Popen([sys.executable, "-c", script, str(seed)], cwd=ROOT) for seed in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]


def test_a_copy_that_is_evicted_before_it_is_held_is_found_again(cache):
    finds = []

    def find() -> Fetched:
        copy = cache.find(name(1)) or cache.bring("1", lambda file, reserve: file.write(content(1)) and name(1))
        finds.append(copy)
        if len(finds) == 1:
            copy.path.unlink()
        return Fetched(name(1), *copy)

    with holding(find, cache) as found:
        assert found.path.read_bytes() == content(1)
    assert len(finds) == 2
