"""An archive that does not hold still, disks that are full, hours of nothing: through the whole job."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from benchmarks.fuzz import run_job
from cluster.db import report
from cluster.db.check import check_corpus
from cluster.media import hashing, store
from cluster.media.child import MediaChild
from jobs.cli.progress import LineReporter
from tests.archive import run
from tests.media_factory import silence, sparse_wav, tone, write_video, write_wav
from tests.test_cli import ROOT
from tests.test_hostile import failures, require_sound_corpus, states

SPEECH = {"lanes": ("speech",)}


class Meanwhile(LineReporter):
    """Lets `act` happen after registration and before the first file is decoded."""

    def __init__(self, act) -> None:
        super().__init__(quiet=True, verbose=False)
        self.act = act

    def planned(self, plan, work) -> None:
        act, self.act = self.act, lambda: None
        act()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sources(conn) -> dict[str, tuple[str, int]]:
    """Name -> SHA-256 of its asset and the size on record."""
    rows = conn.execute("SELECT uri, encode(sha256, 'hex'), s.byte_size FROM sources s JOIN assets USING (asset_id)")
    return {Path(uri).name: tuple(rest) for uri, *rest in rows.fetchall()}


def test_what_changes_between_registration_and_decoding_is_never_taken_for_what_was_registered(db_url, db, tmp_path):
    names = ("kept", "touched", "overwritten", "replaced", "vanished", "emptied", "piped")
    paths = {name: write_wav(tmp_path / f"{name}.wav", tone(1, hz=300 + 50 * i)) for i, name in enumerate(names)}

    def act() -> None:
        os.utime(paths["touched"], ns=(0, 10**18))
        write_wav(paths["overwritten"], tone(2))
        write_wav(tmp_path / "new", tone(3)).replace(paths["replaced"])
        paths["vanished"].unlink()
        os.truncate(paths["emptied"], 0)
        paths["piped"].unlink()
        os.mkfifo(paths["piped"])

    summary = run(db_url, [str(tmp_path)], reporter=Meanwhile(act), **SPEECH)
    assert (summary.exit_code, summary.ok, summary.failed, summary.missing) == (3, 2, 5, 0)
    told = failures(db)
    assert told.pop("vanished.wav")[0] == "transient"
    assert {name.removesuffix(".wav") for name in told} == {"overwritten", "replaced", "emptied", "piped"}
    assert {failure for failure, _ in told.values()} == {"bad_media"}
    assert all("changed since it was registered" in message for _, message in told.values())
    assert "ingest it again" in told["overwritten.wav"][1]
    require_sound_corpus(db)

    again = run(db_url, [str(tmp_path)], **SPEECH)
    assert (again.ok, again.failed) == (2, 1)
    ended = states(db)
    assert [ended[f"{name}.wav"] for name in ("overwritten", "replaced")] == ["done", "done"]
    assert sources(db)["overwritten.wav"][0] == sha256(paths["overwritten"])
    assert failures(db)["emptied.wav"] == ("bad_media", "the file is empty")
    require_sound_corpus(db)


def test_a_vanished_file_that_comes_back_is_done_at_the_next_try(db_url, db, tmp_path):
    path = write_wav(tmp_path / "a.wav", tone(1))
    away = tmp_path / "away"
    first = run(db_url, [str(tmp_path)], reporter=Meanwhile(lambda: path.rename(away)), **SPEECH)
    assert (first.failed, first.exit_code) == (1, 3)
    assert "is no longer there" in failures(db)["a.wav"][1]
    away.rename(path)
    assert run(db_url, [str(tmp_path)], retry_failed=True, **SPEECH).ok == 1
    assert failures(db) == {}


def test_a_file_that_is_still_being_written_gets_no_false_hash(db_url, db, tmp_path, monkeypatch):
    """`growing` is written to whenever it is read, `settled` only the first time, `swapped` before its probe."""
    for number, name in enumerate(("growing", "settled", "swapped")):
        write_wav(tmp_path / f"{name}.wav", tone(1, hz=300 + 50 * number))
    digest, probe, done = hashlib.file_digest, MediaChild.probe, set()

    def slow_digest(file: Any, kind: str) -> Any:
        path = Path(file.name) if isinstance(file.name, str) else Path(f"/proc/self/fd/{file.name}").readlink()
        found = digest(file, kind)
        if path.name == "growing.wav" or (path.name == "settled.wav" and path.name not in done):
            done.add(path.name)
            with path.open("ab") as more:
                more.write(tone(0.1).tobytes())
        return found

    def late_probe(child: MediaChild, path: Path, deadline_s: float) -> Any:
        if path.name == "swapped.wav" and path.name not in done:
            done.add(path.name)
            write_wav(path, tone(2, hz=700))
        return probe(child, path, deadline_s)

    monkeypatch.setattr(hashing.hashlib, "file_digest", slow_digest)
    monkeypatch.setattr(MediaChild, "probe", late_probe)
    summary = run(db_url, [str(tmp_path)], **SPEECH)
    assert done == {"growing.wav", "settled.wav", "swapped.wav"}
    assert (summary.ok, summary.failed) == (2, 1)
    failure, message = failures(db)["growing.wav"]
    assert (failure, "keeps changing while it is read" in message) == ("transient", True)
    on_record = sources(db)
    assert set(on_record) == {"settled.wav", "swapped.wav"}
    for name, (sha, size) in on_record.items():
        assert (sha, size) == (sha256(tmp_path / name), (tmp_path / name).stat().st_size)
    assert db.execute("SELECT count(*) FROM assets").fetchone() == (2,)
    require_sound_corpus(db)
    monkeypatch.undo()
    assert run(db_url, [str(tmp_path)], **SPEECH).ok == 1
    assert failures(db) == {}


def test_a_file_that_cannot_be_opened_costs_only_itself_and_is_told_once(db_url, db, tmp_path, monkeypatch):
    write_wav(tmp_path / "neighbour.wav", tone(1))
    locked = write_wav(tmp_path / "locked.wav", tone(2))
    fetch = store.fetch

    def refuse(uri: str, cache_dir: Path) -> Any:
        if uri == str(locked):
            raise PermissionError(errno.EACCES, "Permission denied", uri)
        return fetch(uri, cache_dir)

    monkeypatch.setattr(store, "fetch", refuse)
    assert run(db_url, [str(tmp_path)], **SPEECH).exit_code == 3
    assert failures(db) == {"locked.wav": ("transient", "permission denied")}
    assert run(db_url, [str(tmp_path)], **SPEECH).state == "nothing"
    assert run(db_url, [str(tmp_path)], retry_failed=True, **SPEECH).failed == 1
    monkeypatch.undo()
    assert run(db_url, [str(tmp_path)], **SPEECH).ok == 1


def test_a_full_cache_disk_is_a_resource_failure_of_its_key_alone(db_url, db, tmp_path, monkeypatch):
    bucket, local = tmp_path / "bucket", tmp_path / "local"
    bucket.mkdir()
    local.mkdir()
    write_video(bucket / "far.mp4", 1, tone(1))
    write_wav(local / "near.wav", tone(1))
    remote = SubTreeFileSystem(str(bucket), LocalFileSystem())
    monkeypatch.setattr(store, "_filesystem", lambda uri: (remote, uri.removeprefix("s3://bucket").lstrip("/")))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        summary = run(db_url, ["s3://bucket", str(local)], **SPEECH)
    assert (summary.ok, summary.failed) == (1, 1)
    [failure] = report.open_failures(db, report.FailureFilter())
    assert (failure["uri"], failure["failure"]) == ("s3://bucket/far.mp4", "resource")
    assert "no room in the cache folder" in failure["message"]
    require_sound_corpus(db)
    assert run(db_url, ["s3://bucket", str(local)], **SPEECH).ok == 1
    assert failures(db) == {}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts one small disk of the size asked for."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(size: str) -> Path:
        words = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(place)]
        if subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("no permission to mount a small disk")
        return place

    yield mount
    subprocess.run(["umount", "--lazy", str(place)], capture_output=True, check=False)


def fill(place: Path) -> None:
    subprocess.run(["dd", "if=/dev/zero", f"of={place}/fill", "bs=4k"], capture_output=True, check=False)


def ingest_in_a_process(archive: Path, place: Path, **env: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "jobs.cli.main", "ingest", str(archive), "--lanes", "speech"]
    environment = {**os.environ, "RUSHES_DATA_DIR": str(place / "data"), **env}
    return subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_full_data_disk_loses_no_work(db_url, db, tmp_path, disk):
    """Only the summary file has no room; the database lies elsewhere and has everything."""
    place, archive = disk("64k"), tmp_path / "archive"
    archive.mkdir()
    write_wav(archive / "a.wav", silence(1))
    fill(place)
    done = ingest_in_a_process(archive, place, RUSHES_DATABASE_URL=db_url)
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert states(db) == {"a.wav": "done"}
    require_sound_corpus(db)
    assert run(db_url, [str(archive)], **SPEECH).state == "nothing"


def test_an_embedded_database_without_room_is_one_line_and_works_again_with_room(tmp_path, disk):
    place, archive = disk("100m"), tmp_path / "archive"
    archive.mkdir()
    assert ingest_in_a_process(archive, place).returncode == 0
    write_wav(archive / "a.wav", silence(1))
    fill(place)
    full = ingest_in_a_process(archive, place)
    assert full.returncode == 1
    assert "Traceback" not in full.stderr
    assert f"the embedded database in {place}/data/postgres does not start" in full.stderr
    (place / "fill").unlink()
    roomy = ingest_in_a_process(archive, place)
    assert (roomy.returncode, "1 ok" in roomy.stdout) == (0, True), roomy.stderr


def test_hours_of_silence_take_the_memory_of_their_sound_and_no_more(db_url, db, tmp_path):
    hours = 3
    sound_bytes = hours * 3600 * 16_000 * 2
    sparse_wav(tmp_path / "night.wav", hours * 3600)
    job = run_job(tmp_path, {"RUSHES_DATABASE_URL": db_url, "RUSHES_RUNNER": "worker"})
    assert (job.exit_code, job.summary["ok"]) == (0, 1), job.stderr
    assert job.summary["media_h"] == pytest.approx(hours)
    # Models and libraries take three quarters of a GiB: a second copy of the sound would not fit.
    assert job.peak_bytes["worker"] < sound_bytes + 2**30
    assert job.peak_bytes["media_child"] < 2**28
    assert job.peak_bytes["driver"] < 2**28
    assert job.wall_s < 600
    assert db.execute("SELECT count(*) FROM segments").fetchone() == (0,)
    assert not any(check_corpus(db).values())
