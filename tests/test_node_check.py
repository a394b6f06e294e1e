"""What a node must have before it takes work, asked of the node itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from cluster import node_check
from cluster.node_check import LEAST_ROOM_BYTES, Ask, check_here, code_here, versions_here
from cluster.plan import Group
from cluster.settings import load_settings, settings_to_dict
from jobs import node_check as over_ray
from jobs.cluster_tasks import live_nodes, on_each
from jobs.node_check import NotReadyError, no_longer_ready, require_ready, require_weights, weights_of
from jobs.spec import JobSpec
from jobs.stage_actor import StageActor
from jobs.warming import warm_cluster, warm_here
from tests.fake_hub import hub
from tests.test_cli import rushes

ABSENT = f"hub:nobody/nothing@{'0' * 40}"
GROUPS = [Group("fused", ("decode", "transcribe", "voices", "texts"), 1, 1.0, 1)]


@pytest.fixture
def ask(db_url: str) -> Ask:
    settings = settings_to_dict(load_settings())
    return Ask(
        settings, db_url, {"text": load_settings().model_choice("text").weights}, versions_here(), code_here(), True
    )


@pytest.fixture
def spec(db_url: str) -> JobSpec:
    return JobSpec("0" * 32, db_url, settings_to_dict(load_settings()), ("speech", "texts"), {}, {})


def found(ask: Ask) -> dict[str, tuple[str, str, str]]:
    return {finding.name: (finding.state, finding.found, finding.fix) for finding in check_here(ask)}


@pytest.fixture(scope="module")
def node() -> Iterator[None]:
    """A Ray of one node, of this file alone."""
    from jobs.ray_context import ray_session

    with ray_session(address=None, cpus=1, niceness=0, object_store_bytes=100 * 2**20):
        yield


def lacking(spec: JobSpec) -> JobSpec:
    return replace(spec, settings={**spec.settings, "text": {"weights": ABSENT}})


def test_a_node_that_has_everything_says_so(ask):
    assert {name: state for name, (state, *_) in found(ask).items() if state == "FAIL"} == {}
    assert list(found(ask)) == ["code", "weights", "database", "clock", "node cache"]
    assert "node cache" not in found(replace(ask, caches=False))


@pytest.mark.parametrize(
    ("change", "check", "says", "fix"),
    [
        ({"weights": {"text": ABSENT}}, "weights", "text: nobody/nothing at 00000000", "rushes models warm"),
        ({"versions": {"ray": "1.0"}}, "code", "(driver: 1.0)", "rushes backfill"),
        ({"versions": {"no-such-package": "1.0"}}, "code", "no-such-package absent (driver: 1.0)", "lock file"),
        ({"code": "0" * 64}, "code", "is not the driver's", "rushes backfill"),
        ({"url": "postgresql://127.0.0.1:1/none"}, "database", "cannot reach", "RUSHES_DATABASE_URL"),
    ],
)
def test_what_a_node_lacks_is_named_with_its_fix(ask, change, check, says, fix):
    state, text, way_out = found(replace(ask, **change))[check]
    assert state == "FAIL"
    assert says in text
    assert fix in way_out


def test_a_clock_that_is_off_is_a_warning(ask, monkeypatch):
    monkeypatch.setattr("cluster.db.doctor.SKEW_WARNED_ABOVE_S", -1.0)
    state, _, fix = found(ask)["clock"]
    assert (state, fix) == ("warn", "run NTP on both machines")


def test_a_cache_without_room_fails(ask, monkeypatch, tmp_path):
    free = 0

    def usage(_: Any) -> Any:
        return type("Usage", (), {"free": free})

    monkeypatch.setattr("cluster.node_check.shutil.disk_usage", usage)
    assert found(ask)["node cache"][0] == "FAIL"
    free = LEAST_ROOM_BYTES
    assert found(ask)["node cache"][0] == "ok"
    assert not (tmp_path / "data" / "cache").exists()
    monkeypatch.setattr("cluster.node_check.tempfile.TemporaryFile", _denied)
    state, text, fix = found(ask)["node cache"]
    assert (state, "permission denied" in text, "RUSHES_DATA_DIR" in fix) == ("FAIL", True, True)


def _denied(**_: Any) -> Any:
    raise PermissionError(13, "Permission denied")


def test_the_code_of_a_node_is_its_bytes(monkeypatch, tmp_path):
    before = code_here()
    assert code_here() == before
    (tmp_path / "cluster").mkdir()
    monkeypatch.setattr(node_check, "__file__", str(tmp_path / "cluster" / "node_check.py"))
    assert code_here() != before


def test_only_the_weights_of_the_stages_are_asked_for(spec):
    assert set(weights_of(spec, ["decode", "texts"])) == {"text"}
    assert weights_of(replace(spec, chain="benchmarks.replay:chain"), ["texts"]) == {}
    require_weights(spec, ["texts"])
    require_weights(lacking(spec), ["decode"])


def test_an_actor_on_a_node_without_weights_takes_no_work(spec):
    with pytest.raises(NotReadyError, match=r"not ready: text: nobody/nothing.*rushes models warm"):
        StageActor(replace(lacking(spec), downloads=False).to_json(), ["texts"], 1, False, False)


def test_warming_fetches_and_checks_and_tells_what_it_cannot_have(tmp_path, monkeypatch):
    revision, content = "1" * 40, {"model.bin": b"weights" * 1000, "config.json": b"{}"}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    name = f"hub:someone/model@{revision}"
    assert [(row.state, row.ready) for row in warm_here([name, ABSENT[4:]], dry_run=True)] == [
        ("to fetch", True), ("absent", False),
    ]  # fmt: skip
    with hub("someone/model", revision, content) as (address, asked):
        env = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": str(tmp_path / "hub")}
        done = rushes("models", "warm", RUSHES_TEXT_WEIGHTS=name, **env)
        assert (done.returncode, done.stderr.count("error")) == (0, 0), done.stderr
        assert f"this node: whole {name}" in done.stdout
        assert sorted(asked) == sorted(content)
    [warmed] = warm_here([name])
    assert (warmed.state, warmed.ready) == ("whole", True)
    next((tmp_path / "hub").rglob("blobs/*")).write_bytes(b"damaged")
    [warmed] = warm_here([name])
    assert (warmed.state, warmed.ready) == ("damaged", False)
    assert "rushes models pull" in warmed.problem


@pytest.mark.ray
def test_every_node_is_asked_and_a_run_is_refused_with_what_each_lacks(node, spec, monkeypatch):
    require_ready(spec, GROUPS, ["/here/a.wav"])
    with pytest.raises(NotReadyError, match=r"(?s)nothing was started:\n  \S+: weights: text: nobody/nothing.*drain"):
        require_ready(lacking(spec), GROUPS, ["/here/a.wav"])
    assert no_longer_ready(spec, GROUPS, []) == []
    with pytest.raises(NotReadyError, match="no node is ready any more, what was committed is safe"):
        no_longer_ready(lacking(spec), GROUPS, [])
    # nodes that no group fits on need nothing
    require_ready(lacking(spec), [replace(GROUPS[0], cpus_each=10_000.0)], ["/here/a.wav"])
    monkeypatch.setattr(over_ray, "DEADLINE_S", 0.01)
    with pytest.raises(NotReadyError, match=r"no answer in 0 s"):
        require_ready(spec, GROUPS, [])


@pytest.mark.ray
def test_weights_are_warmed_on_each_node_of_a_cluster(node):
    settings = load_settings()
    [rows] = warm_cluster(settings, [settings.model_choice("text").weights, ABSENT], "auto", dry_run=True)
    assert [(row.state, row.ready) for row in rows] == [("here", True), ("to fetch", True)]
    assert {row.node for row in rows} == {one.name for one in live_nodes()}


@pytest.mark.ray
def test_a_task_that_ends_its_process_is_told_of_its_node(node):
    [(asked, answer)] = on_each(_leave, 3, live_nodes(), 60.0)
    assert asked.cpus == 1
    assert type(answer).__name__ == "RushesError"


def _leave(code: int) -> None:
    import os

    os._exit(code)


def test_a_card_without_a_driver_is_a_warning_unless_a_model_must_have_it(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert over_ray._cuda(load_settings(None)).state == "warn"
    asked = load_settings(None, transcriber={"device": "cuda"})
    found = over_ray._cuda(asked)
    assert (found.state, "transcriber cannot run" in found.text) == ("FAIL", True)
