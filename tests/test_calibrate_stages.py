"""Rates are measured on the real stages, kept by hardware, and used by the plan; nodes are known by type."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.device import cpu_name
from cluster.db.rates import Measured, store_measured, stored_measured
from cluster.errors import RushesError, UsageError
from cluster.hardware import parse_nodes
from cluster.plan import Work, explain, make_plan
from cluster.settings import load_settings
from jobs import calibrate, nodes
from jobs.planner import Asked, answer
from jobs.stage_costs import costs_for, stage_identities
from tests.media_factory import tone, write_video, write_wav
from tests.test_plan import CHAIN

SETTINGS = load_settings(None)
IDENTITIES = stage_identities(SETTINGS)


def measured(stage, seconds, *, hardware="Some CPU", device_gib=0.0):
    return Measured(hardware, stage, IDENTITIES[stage], seconds, 1.0, 0.2, device_gib, 60.0, 1)


def ray_node(node_id, *, labels=None, alive=True, **resources):
    return {
        "NodeID": node_id, "Alive": alive, "NodeManagerAddress": f"10.0.0.{node_id}", "Labels": labels or {},
        "Resources": resources,
    }  # fmt: skip


class FakeRay:
    """What `cluster_nodes` asks of Ray."""

    def __init__(self, table, free=None):
        self._table, self._free = table, free or {}
        self._private = self
        self.state = self

    def nodes(self):
        return self._table

    def available_resources_per_node(self):
        return self._free


def test_the_nodes_of_a_cluster_are_known_by_type_with_the_memory_of_their_cards():
    label = {"ray.io/accelerator-type": "H200"}
    table = [
        ray_node(1, CPU=0.0, memory=2**30),
        ray_node(2, labels=label, CPU=24.0, GPU=2.0, memory=200 * 2**30),
        ray_node(3, **{"CPU": 8.0, "GPU": 1.0, "memory": 30 * 2**30, "accelerator_type:T4": 1.0}),
        ray_node(4, CPU=16.0, memory=60 * 2**30),
        ray_node(5, CPU=4.0, GPU=1.0, memory=2**30),
        ray_node(6, alive=False, CPU=4.0),
    ]
    found = nodes.cluster_nodes(FakeRay(table, {3: {"GPU": 0.75}}))
    assert [(n.kind, n.name, n.gpu_gib, n.gpus_held) for n in found] == [
        ("h200", "10.0.0.2", (140.0, 140.0), 0.0),
        ("t4", "10.0.0.3", (14.0,), 0.25),
        ("cpu", "10.0.0.4", (), 0.0),
        ("", "10.0.0.5", (0.0,), 0.0),
    ]


def test_what_an_autoscaler_is_asked_for_names_the_cards():
    bundles, labels = nodes.bundles_of(parse_nodes("h200x8,cpu:1:32"))
    assert bundles == [{"GPU": 8.0}, {"CPU": 32.0}]
    assert labels == [{"ray.io/accelerator-type": "in(H200)"}, {}]
    wanted = parse_nodes("h200:4,cpu:2")
    assert nodes.missing(wanted, parse_nodes("h200:3,cpu:2")) == {"h200": 1}
    assert nodes.missing(wanted, parse_nodes("h200x4,cpu:1:64")) == {}
    assert nodes.described(wanted, parse_nodes("h200:3")) == "nodes: 3 of 4 h200, 0 of 2 cpu"


def test_nodes_that_do_not_come_are_named_and_a_type_without_any_is_an_error(monkeypatch):
    import ray
    from ray.autoscaler import sdk

    asked, said = [], []
    monkeypatch.setattr(sdk, "request_resources", lambda **words: asked.append(words))
    monkeypatch.setattr(nodes, "cluster_nodes", lambda found: parse_nodes("h200:1"))
    assert ray
    assert len(nodes.wait_for_nodes(parse_nodes("h200:2"), 0.0, said.append)) == 1
    assert said == ["nodes: 1 of 2 h200"]
    assert asked[0]["bundles"] == [{"GPU": 1.0}] * 2
    with pytest.raises(RushesError, match=r"no node of type cpu came within 0 s \(nodes: 1 of 2 h200, 0 of 1 cpu\)"):
        nodes.wait_for_nodes(parse_nodes("h200:2,cpu"), 0.0)


def test_rates_are_kept_by_hardware_and_made_anew(db):
    first, other = measured("transcribe", 100.0), measured("transcribe", 9.0, hardware="NVIDIA H200", device_gib=2.0)
    store_measured(db, [first, other])
    store_measured(db, [replace(first, s_per_media_hour=90.0)])
    assert [(one.hardware, one.s_per_media_hour) for one in stored_measured(db, IDENTITIES)] == [
        ("NVIDIA H200", 9.0),
        ("Some CPU", 90.0),
    ]
    assert stored_measured(db, {"transcribe": "another model"}) == []


def test_a_measured_rate_counts_on_its_own_hardware_alone():
    stored = [
        measured("transcribe", 100.0, hardware=cpu_name()),
        measured("transcribe", 900.0, hardware="Slow CPU"),
        measured("transcribe", 30.0, hardware="NVIDIA L4", device_gib=2.0),
    ]
    here, there = (costs_for(SETTINGS, CHAIN, stored, here)["transcribe"] for here in (True, False))
    assert (here.cpu_s, there.cpu_s) == (100.0, 900.0)
    assert here.on("l4") + here.feed_s == pytest.approx(30.0)
    assert here.measured == {"cpu", "l4"}
    assert here.on("t4") == costs_for(SETTINGS, CHAIN, [])["transcribe"].on("t4")


def test_a_described_cluster_is_planned_without_a_database(tmp_path):
    settings = load_settings(None, data_dir=tmp_path / "none")
    found = answer(settings, Asked(("speech",), 100.0, "l4:2", prices={"l4": 0.8}))
    assert found.plan.max_connections is None
    assert found.costs()["per_hour"] == pytest.approx(1.6)
    assert not (tmp_path / "none").exists()
    with pytest.raises(UsageError, match="give one of them"):
        answer(settings, Asked(("speech",), nodes="l4", address="auto"))
    with pytest.raises(UsageError, match="no such node type"):
        answer(settings, Asked(("speech",), nodes="l4", prices={"l5": 1.0}))


def test_the_plan_uses_what_the_corpus_knows_of_that_hardware(db_url, db):
    settings = load_settings(None, database_url=db_url)
    before = answer(settings, Asked(("speech",), 100.0, "l4:2")).plan
    cards = {"transcribe": 2.0, "diarize": 2.0}
    store_measured(db, [measured(s, x, hardware="NVIDIA L4", device_gib=1.0) for s, x in cards.items()])
    after = answer(settings, Asked(("speech",), 100.0, "l4:2")).plan
    assert after.hours_per_hour > before.hours_per_hour
    assert set(before.estimated) - set(after.estimated) == set(cards)
    assert after.max_connections is not None


def test_the_real_stages_are_measured_without_touching_the_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "MOST_PASSES", 1)
    settings = load_settings(None, data_dir=tmp_path / "data")
    write_wav(tmp_path / "tone.wav", tone(2), 16_000)
    write_video(tmp_path / "film.mp4", 2, None)
    found = calibrate.calibrate(settings, [str(tmp_path / "tone.wav"), str(tmp_path / "film.mp4")])
    assert [one.stage for one in found] == [*CHAIN, "pictures", "thumbnails"]
    assert {one.hardware for one in found} == {cpu_name()}
    assert all(one.s_per_media_hour >= 0 and one.device_gib == 0 for one in found)
    assert {one.stage: one.identity for one in found} == {one.stage: IDENTITIES[one.stage] for one in found}
    assert not (tmp_path / "data").exists()
    costs = costs_for(settings, CHAIN, found)
    plan = make_plan(Work(1e6, 100), parse_nodes("cpu:2"), CHAIN, rates=costs)
    assert plan.estimated == ()
    assert "(measured)" in explain(plan, Work(1e6, 100))[-1]


@pytest.mark.parametrize("name", ["gone.wav", "note.txt"])
def test_what_is_no_media_is_named(tmp_path, name):
    (tmp_path / "note.txt").write_text("no sound")
    with pytest.raises(UsageError, match=rf"{name} cannot be measured on"):
        calibrate.rows_of(SETTINGS, [str(tmp_path / name)])


def test_the_slowest_of_several_nodes_stands():
    found = calibrate.merged([measured("decode", 3.0), measured("decode", 5.0), measured("decode", 4.0)])
    assert [one.s_per_media_hour for one in found] == [5.0]
