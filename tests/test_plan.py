"""The plan is a pure function; what does not fit is refused with its sum."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.plan import (
    Group,
    Node,
    Plan,
    PlanError,
    Work,
    check,
    explain,
    make_plan,
    object_store_bytes,
)
from cluster.profiles import ROLES
from cluster.reservation import check_reservation, describe_reservation, serve_shares
from cluster.settings import load_settings
from jobs import runners

CHAIN = ("decode", "speech_activity", "transcribe", "diarize", "segments", "voices", "texts")
LOOK = ("pictures", "thumbnails", "images")
LONG = Work(media_s=36_000, assets=40)


def test_small_jobs_run_in_one_worker_and_a_forced_runner_wins():
    small = Work(media_s=600, assets=5)
    assert make_plan(small, [Node(2, 24)], CHAIN).runner == "worker"
    assert make_plan(small, [Node(2, 24)], CHAIN, runner="ray").runner == "ray"
    assert make_plan(small, [Node(16, 128, (80.0,))], CHAIN).runner == "worker"
    assert make_plan(LONG, [Node(2, 24)], CHAIN, runner="inline").runner == "inline"


def test_cpus_get_one_fused_replica_each():
    plan = make_plan(LONG, [Node(2, 24)], CHAIN)
    assert [(g.name, g.actors, g.threads) for g in plan.groups] == [("fused", 2, 1)]
    assert plan.groups[0].cpus_each == pytest.approx(0.9)


def test_tight_memory_splits_recognition_from_torch():
    plan = make_plan(LONG, [Node(4, 8)], CHAIN)
    assert [g.name for g in plan.groups] == ["hear", "speak"]
    assert plan.groups[0].stages + plan.groups[1].stages == CHAIN


def test_gpus_are_shared_by_fractions():
    plan = make_plan(LONG, [Node(16, 128, (80.0, 80.0))], CHAIN)
    assert [(g.name, g.actors, g.gpus_each) for g in plan.groups] == [("hear", 2, 0.5), ("speak", 2, 0.5)]


def test_the_cards_of_this_machine_are_counted_unless_hidden_or_unwanted(tmp_path, monkeypatch):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(runners, "DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert len(runners.this_node(load_settings(None)).gpu_gib) == 2
    for visible, count in (("1", 1), ("", 0), ("-1", 0), ("0,1", 2)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert len(runners.this_node(load_settings(None)).gpu_gib) == count
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for role in ROLES:
        monkeypatch.setenv(f"RUSHES_{role.upper()}_DEVICE", "cpu")
    assert runners.this_node(load_settings(None)).gpu_gib == ()


def test_shares_that_exceed_the_cards_are_refused_with_the_sum():
    group = Group("hear", ("decode",), 3, 1.0, 1, gpus_each=0.4)
    with pytest.raises(PlanError, match=r"3 x 0\.4 hear = 1\.20 exceed 1 GPU"):
        check(Plan("ray", (group,), "", 1, "", 1), [Node(4, 16, (16.0,))], 100)


def test_connections_are_refused_before_the_server_refuses_them():
    with pytest.raises(PlanError, match="max_connections 100"):
        make_plan(Work(1e6, 10_000), [Node(128, 512)], CHAIN)


@given(
    st.integers(1, 40),
    st.floats(5, 256),
    st.lists(st.floats(8, 141), max_size=4),
    st.floats(1, 1e7),
    st.integers(1, 5000),
    st.sampled_from((CHAIN, LOOK, CHAIN + LOOK, CHAIN[-1:] + LOOK)),
)
def test_every_plan_is_feasible_or_refused(cpus, memory_gib, gpus, media_s, assets, chain):
    node = Node(cpus, memory_gib, tuple(gpus))
    try:
        plan = make_plan(Work(media_s, assets), [node], chain)
    except PlanError:
        return
    assert sum((g.stages for g in plan.groups), ()) == chain
    assert sum(g.actors * g.gpus_each for g in plan.groups) <= len(gpus)
    assert all(g.cpus_each > 0 and g.threads >= 1 and g.actors >= 1 for g in plan.groups)
    if plan.runner == "ray":
        assert sum(g.actors * g.cpus_each for g in plan.groups) <= cpus
        if not gpus:
            looked = [g for g in plan.groups if g.name == "look" and g.actors > 1]
            assert sum(g.actors * g.gib_each for g in looked) <= memory_gib / (2 if chain != LOOK else 1)
    assert explain(plan, Work(media_s, assets))


def test_sound_that_hops_between_pools_has_room_in_the_object_store():
    fused = make_plan(LONG, [Node(2, 24)], CHAIN)
    split = make_plan(LONG, [Node(4, 8)], CHAIN)
    six_hours_s = 21_600
    assert object_store_bytes(fused, [six_hours_s]) == object_store_bytes(fused, [1])
    alone = object_store_bytes(split, [six_hours_s])
    assert alone > 2 * six_hours_s * 32_000
    # Where an actor has a second one at hand, there may be one more sound.
    many = [six_hours_s] * 8 * split.groups[0].actors
    assert object_store_bytes(split, many) - alone == split.groups[0].actors * six_hours_s * 32_000


def test_actors_on_cards_take_only_cpus_beside_them():
    plan = make_plan(LONG, [Node(64, 256), Node(8, 64, (80.0,)), Node(16, 64, (80.0, 80.0))], CHAIN)
    assert [(group.actors, group.cpus_each) for group in plan.groups] == [(3, 3.6), (3, 3.6)]


@given(
    st.lists(st.sampled_from(("text", "image", "reranker", "audio")), min_size=1, unique=True),
    st.floats(0.0, 1.0),
    st.integers(1, 8),
)
def test_the_services_shares_add_up_to_its_reservation_and_none_is_nothing(roles, gpu_share, replicas):
    try:
        shares = serve_shares(roles, gpu_share, replicas)
    except PlanError:
        return
    total = sum(shares.values()) * replicas
    assert total <= gpu_share + 1e-4
    assert total > gpu_share - 1e-4 * (replicas + 1)
    assert all(shares.values()) or not any(shares.values())
    assert "service:" in describe_reservation(shares, replicas, 1)


def test_a_backfill_takes_what_the_service_leaves_of_each_card():
    alone, beside = (make_plan(LONG, [Node(16, 128, (80.0, 80.0), held)], CHAIN + LOOK) for held in (0.0, 0.25))
    for before, after in zip(alone.groups, beside.groups, strict=True):
        assert after.actors == before.actors
        assert after.gpus_each == pytest.approx(0.75 * before.gpus_each, abs=1e-4)
    assert sum(g.actors * g.gpus_each for g in beside.groups) <= 2 - 0.25
    assert "beside 0.25 that the service or others hold" in beside.why
    full_card_and_a_half = make_plan(LONG, [Node(16, 128, (80.0, 80.0), 1.5)], CHAIN)
    assert [(g.actors, g.gpus_each) for g in full_card_and_a_half.groups] == [(1, 0.25), (1, 0.25)]


@pytest.mark.parametrize("held", [0.8, 1.0])
def test_a_backfill_that_is_left_too_little_is_refused_with_the_sum(held):
    with pytest.raises(PlanError, match=rf"0\.45 \+ 0\.45 = 0\.90 of backfill beside the {held:g} of 1 GPU"):
        make_plan(LONG, [Node(16, 128, (80.0,), held)], CHAIN)


def test_what_the_service_holds_of_a_cards_memory_counts():
    make_plan(LONG, [Node(16, 128, (8.0,), 0.25, 4.5)], CHAIN)
    with pytest.raises(PlanError, match=r"1 x 1 hear \+ 1 x 1\.8 speak \+ 4\.5 held = 7\.3 GiB exceed a card of 6"):
        make_plan(LONG, [Node(16, 128, (6.0,), 0.25, 4.5)], CHAIN)


def test_a_service_that_finds_no_room_is_refused_with_the_sum():
    shares = serve_shares(("text", "audio"), 0.25)
    check_reservation(shares, 1, 1, 0.25)
    with pytest.raises(PlanError, match=r"2 x \(text 0\.\d+ \+ audio 0\.\d+\) = 0\.5 of a GPU, and 0\.4 of 1 GPU"):
        check_reservation(shares, 2, 1, 0.4)
