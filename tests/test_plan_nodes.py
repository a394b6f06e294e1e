"""Plans over node types: whatever cluster, work and rates, what is planned fits, and what cannot is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import UsageError
from cluster.hardware import kind_of, kinds, labels_for, parse_nodes
from cluster.plan import Node, PlanError, Work, explain, make_plan
from cluster.plan_explain import cost_lines, costs, finish
from cluster.plan_place import place
from cluster.plan_rates import StageCost, estimate, estimates, with_measured
from cluster.settings import GroupSettings, load_settings
from jobs.planner import beside
from jobs.stage_costs import choice_of, estimates_for
from tests.test_plan import CHAIN, LOOK

WORK = Work(1200 * 3600.0, 1200)
ALL = CHAIN + LOOK
GROUPS = (
    ("a", ("decode", "speech_activity", "transcribe")),
    ("b", ("diarize", "segments")),
    ("c", ("voices", "texts")),
)


def wishes(share, **fields):
    return [GroupSettings(name=name, stages=stages, gpu_share=share, **fields) for name, stages in GROUPS]


def one_of(kind, cards=1):
    (node,) = parse_nodes(f"{kind}x{cards}" if kinds()[kind].card_gib else kind)
    return node


@st.composite
def clusters(draw):
    nodes = [
        replace(one_of(kind, cards), cpus=draw(st.integers(1, 64)), memory_gib=draw(st.floats(4, 512)))
        for kind in draw(st.lists(st.sampled_from(sorted(kinds())), min_size=1, max_size=5))
        for cards in [draw(st.integers(1, 4))]
    ]
    held = draw(st.sampled_from((0.0, 0.0, 0.25, 0.5, 0.8)))
    first = next((number for number, node in enumerate(nodes) if node.gpu_gib), None)
    return [replace(node, gpus_held=held) if number == first else node for number, node in enumerate(nodes)]


@st.composite
def rates(draw):
    found = {}
    for name in ALL:
        cost = estimate(name, on_card=draw(st.booleans()))
        factor = draw(st.floats(0.1, 20))
        found[name] = replace(
            cost,
            cpu_s=cost.cpu_s * factor,
            card_s={kind: seconds * factor for kind, seconds in cost.card_s.items()},
            host_gib=cost.host_gib * factor / 5,
            device_gib=draw(st.floats(0, 10)) if cost.on_card else 0.0,
        )
    return found


@settings(max_examples=150, deadline=None)
@given(clusters(), rates(), st.integers(1, 5000), st.sampled_from((CHAIN, LOOK, ALL, CHAIN[-1:] + LOOK)))
def test_every_plan_over_node_types_fits_or_is_refused(nodes, costs_, assets, stages):
    try:
        plan = make_plan(Work(1e6, assets), nodes, stages, runner="ray", rates=costs_, max_connections=400)
    except PlanError:
        return
    assert sorted(name for g in plan.groups for name in g.stages) == sorted(stages)
    assert all(g.actors >= 1 and g.cpus_each > 0 and g.threads >= 1 for g in plan.groups)
    assert plan.connections == sum(g.actors for g in plan.groups) + 2 <= 390
    rooms = place(plan.groups, nodes)
    for room in rooms:
        assert room.cpus >= -1e-6
        assert all(free >= -1e-6 for free in room.cards)
    for group in plan.groups:
        assert sum(room.actors[group.name] for room in rooms) == group.actors
        assert bool(group.gpus_each) == bool(
            any(costs_[name].on_card for name in group.stages) and any(n.cards for n in nodes if group.may_use(n))
        )
        assert group.gpus_each == 0 or group.gpus_each >= 1e-4
    assert sum(g.actors * g.cpus_each for g in plan.groups) <= 0.9 * sum(n.cpus for n in nodes) + 1e-6
    held = sum(n.gpus_held for n in nodes)
    assert sum(g.actors * g.gpus_each for g in plan.groups) + held <= sum(
        len(n.gpu_gib) for n in nodes
    ) + 1e-6 or not any(g.gpus_each for g in plan.groups)
    for found in plan.node_types:
        assert found.peak_gib <= found.card_gib + 0.01
    assert 0 < plan.hours_per_hour < float("inf")
    assert finish(plan, 1200) < float("inf")
    assert plan.hours_per_hour == pytest.approx(min(plan.bounds.values()), abs=0.001)
    assert explain(plan, WORK)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(("h200", "l4", "t4", "cpu")),
    st.integers(1, 4),
    st.sampled_from(("h200", "l4", "t4", "cpu")),
    st.sampled_from((CHAIN, ALL, CHAIN + LOOK[:2])),
)
def test_another_node_never_makes_it_slower(kind, count, more, stages):
    nodes = parse_nodes(f"{kind}:{count}")
    before = make_plan(WORK, nodes, stages, runner="ray", max_connections=None)
    after = make_plan(WORK, [*nodes, one_of(more)], stages, runner="ray", max_connections=None)
    assert after.hours_per_hour >= before.hours_per_hour * 0.999
    twice = make_plan(WORK, nodes * 2, stages, runner="ray", max_connections=None)
    assert twice.hours_per_hour >= before.hours_per_hour * 1.9


@settings(max_examples=60, deadline=None)
@given(
    clusters(),
    st.lists(st.floats(0.0001, 1), min_size=3, max_size=3),
    st.lists(st.integers(1, 6), min_size=3, max_size=3),
)
def test_groups_of_a_person_fit_or_are_refused(nodes, shares, actors):
    given_ = [
        GroupSettings(name=name, stages=stages, gpu_share=share, actors=count)
        for (name, stages), share, count in zip(GROUPS, shares, actors, strict=True)
    ]
    try:
        plan = make_plan(WORK, nodes, CHAIN, runner="ray", wishes=given_, max_connections=None)
    except PlanError:
        return
    assert [(g.name, g.gpus_each, g.actors) for g in plan.groups] == [(w.name, w.gpu_share, w.actors) for w in given_]
    assert all(min(room.cards, default=0.0) >= -1e-6 and room.cpus >= -1e-6 for room in place(plan.groups, nodes))


def test_three_groups_of_four_tenths_are_refused_with_the_sum_and_of_three_tenths_run():
    card = [one_of("l4")]
    with pytest.raises(PlanError, match=r"1 x 0\.4 a \+ 1 x 0\.4 b \+ 1 x 0\.4 c = 1\.20 exceed 1 GPU"):
        make_plan(WORK, card, CHAIN, runner="ray", wishes=wishes(0.4))
    assert [g.gpus_each for g in make_plan(WORK, card, CHAIN, runner="ray", wishes=wishes(0.3)).groups] == [0.3] * 3


def test_three_quarters_of_a_card_run_beside_the_service_and_more_does_not():
    nodes = beside(load_settings(None), [one_of("l4")])
    assert nodes[0].gpus_held == 0.25
    make_plan(WORK, nodes, CHAIN, runner="ray", wishes=wishes(0.25))
    with pytest.raises(PlanError, match=r"\+ 0\.25 held = 1\.06 exceed 1 GPU"):
        make_plan(WORK, nodes, CHAIN, runner="ray", wishes=wishes(0.27))


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ((("a", CHAIN[:-1]),), "no group has texts"),
        ((("a", (*CHAIN, "dream")),), r"no stage dream; the stages are decode, "),
        ((("a", CHAIN), ("b", ("texts",))), "texts stands in more than one group"),
        ((("a", CHAIN[3:]), ("b", CHAIN[:3])), "out of order: rows pass decode > speech_activity"),
        ((("a", CHAIN[:3]), ("a", CHAIN[3:])), "two groups are named a"),
        ((("a", (*CHAIN, *LOOK)),), "mixes stages of sound and of pictures"),
    ],
)
def test_groups_that_are_no_chain_are_refused(groups, said):
    named = [GroupSettings(name=name, stages=stages) for name, stages in groups]
    with pytest.raises(PlanError, match=said):
        make_plan(WORK, [one_of("h200")], ALL if "mixes" in said else CHAIN, wishes=named, chain=ALL)


@pytest.mark.parametrize("share", [0.0, 0.00001])
def test_a_share_that_is_none_is_refused_where_a_model_would_use_the_card(share):
    with pytest.raises(PlanError, match="is none"):
        make_plan(WORK, [one_of("l4")], CHAIN, runner="ray", wishes=wishes(share))


def test_cpus_of_a_group_leave_a_tenth_to_ray_and_fit_a_node():
    with pytest.raises(PlanError, match=r"= 9 exceed 7\.2, nine tenths"):
        make_plan(WORK, [one_of("l4")], CHAIN, runner="ray", wishes=wishes(0.3, cpus=3))
    nodes = [replace(one_of("l4"), cpus=4), replace(one_of("cpu"), cpus=64)]
    with pytest.raises(PlanError, match=r"needs 3 CPU and 0\.3 GPU on one node"):
        make_plan(WORK, nodes, CHAIN, runner="ray", wishes=wishes(0.3, cpus=3))


def test_more_actors_than_a_node_has_memory_for_are_refused_with_the_sum():
    (node,) = parse_nodes("cpu:1:64:16")
    with pytest.raises(PlanError, match=r"20 x .* = \d+\.\d GiB exceed the 16\.0 GiB of cpu-1"):
        make_plan(WORK, [node], CHAIN, wishes=wishes(None, actors=20))


def test_one_actor_of_each_pool_fits_on_one_node_or_the_loss_of_another_would_stop_it():
    nodes = [one_of("l4"), one_of("l4")]
    with pytest.raises(PlanError, match="after the loss of a node they would wait for each other"):
        make_plan(WORK, nodes, CHAIN, runner="ray", wishes=wishes(0.5, actors=1))


def test_pictures_without_a_model_on_the_card_run_on_the_nodes_without_one():
    stages = CHAIN + LOOK[:2]
    plan = make_plan(WORK, parse_nodes("h200:1:8,cpu:1:6"), stages, max_connections=None)
    look = next(g for g in plan.groups if g.name == "look")
    assert look.gpus_each == 0
    on = {found.kind: found.actors for found in plan.node_types}
    assert on["cpu"]["look"] > on["h200"].get("look", 0)
    assert "hear" not in on["cpu"]


def test_small_cards_are_left_out_where_they_hold_large_models_back():
    large = estimates_for(load_settings(None, profile="quality"), ALL)
    plan = make_plan(WORK, parse_nodes("h200:2,t4"), CHAIN, rates=large, max_connections=None)
    assert {g.kinds for g in plan.groups} == {("h200",)}
    assert plan.groups[0].labels == {"ray.io/accelerator-type": "in(H200)"}
    with pytest.raises(PlanError, match="exceed a card of 14 GiB"):
        make_plan(WORK, parse_nodes("t4,cpu"), CHAIN, rates=large, max_connections=None)


@pytest.mark.parametrize("profile", ["speed", "quality"])
@pytest.mark.parametrize(
    "words", ["h200x2", "h200x8", "h200x8:4", "h100x8", "a100-40x4", "l40sx8", "rtx4090", "rtx4090x4"]
)
def test_machines_of_several_cards_hold_the_larger_models(words, profile):
    large = estimates_for(load_settings(None, profile=profile), ALL)
    nodes = parse_nodes(words)
    plan = make_plan(WORK, nodes, ALL, rates=large, max_connections=None)
    counts = {g.name: g.actors for g in plan.groups}
    assert counts["hear"] == counts["speak"] == sum(node.cards for node in nodes)


@pytest.mark.parametrize("stages", [LOOK, CHAIN[-1:]])
def test_work_of_one_group_uses_every_card(stages):
    large = estimates_for(load_settings(None, profile="speed"), stages)
    plan = make_plan(Work(1e9, 5000), parse_nodes("h200x8"), stages, rates=large, max_connections=None)
    (group,) = plan.groups
    most_on_a_card = int(1 / group.gpus_each + 1e-6)
    assert group.actors == 8 * most_on_a_card


def test_cards_that_nobody_holds_do_not_fill_up_beside_one_that_the_service_began():
    large = estimates_for(load_settings(None, profile="speed"), ALL)
    nodes = [one_of("rtx4090"), one_of("rtx4090")]
    nodes[0] = replace(nodes[0], gpus_held=0.25, held_gib=4.5)
    plan = make_plan(WORK, nodes, ALL, rates=large, max_connections=None)
    assert all(found.peak_gib <= found.card_gib for found in plan.node_types)


def test_roles_that_stay_off_the_card_take_no_share_of_it(monkeypatch):
    for role in ("DIARIZER", "VOICE", "TEXT"):
        monkeypatch.setenv(f"RUSHES_{role}_DEVICE", "cpu")
    costs_ = estimates_for(load_settings(None), CHAIN)
    plan = make_plan(WORK, parse_nodes("h200"), CHAIN, rates=costs_, max_connections=None)
    assert {g.name: bool(g.gpus_each) for g in plan.groups} == {"hear": True, "speak": False}


def test_nodes_in_words():
    assert [(n.kind, len(n.gpu_gib), n.cpus) for n in parse_nodes("h200x8:2:96:900, cpu:1:32")] == [
        ("h200", 8, 96),
        ("h200", 8, 96),
        ("cpu", 0, 32),
    ]
    assert parse_nodes("h200x8:2:96:900")[0].memory_gib == 900
    for kind in kinds():
        assert {node.kind for node in parse_nodes(f"{kind},{kind}:2:8:32")} == {kind}
    assert len(parse_nodes("rtx4090x2")[0].gpu_gib) == 2
    for words in ("h300:4", "", "h200:0", "h200:4:0", "cpux2", "h200:99999", "h200 4", "h200::", "-1"):
        with pytest.raises(UsageError):
            parse_nodes(words)


@pytest.mark.parametrize(
    ("card", "kind"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("Tesla T4", "t4"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("A100", "a100-40"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("GeForce-RTX-4090", "rtx4090"),
        ("Matrox", ""),
    ],
)
def test_a_card_is_known_by_any_of_its_names(card, kind):
    assert kind_of(card) == kind


def test_nodes_without_a_card_are_those_whose_card_is_none_of_the_clusters():
    assert labels_for(["cpu"], {"t4", "h200"}) == {"ray.io/accelerator-type": "!in(H200,T4)"}
    assert labels_for(["cpu"], set()) == {}


def test_a_rate_is_an_estimate_until_every_stage_was_measured_on_that_hardware():
    nodes = parse_nodes("l4:2")
    plan = make_plan(WORK, nodes, CHAIN, max_connections=None)
    assert plan.estimated == CHAIN
    assert "(estimate)" in explain(plan, WORK)[-1]
    assert "max_connections not known" in explain(plan, WORK)[-1]
    measured = {
        name: with_measured(cost, "l4" if cost.on_card else "cpu", 4.0, 1.0, 0.1, 1.0 if cost.on_card else 0.0)
        for name, cost in estimates(CHAIN).items()
    }
    faster = make_plan(WORK, nodes, CHAIN, rates=measured, max_connections=None)
    assert faster.estimated == ()
    assert faster.hours_per_hour > plan.hours_per_hour
    elsewhere = make_plan(WORK, parse_nodes("t4:2"), CHAIN, rates=measured, max_connections=None)
    assert set(elsewhere.estimated) == {name for name, cost in measured.items() if cost.on_card}


def test_costs_follow_from_prices_and_the_rate():
    nodes = parse_nodes("h200:2,cpu")
    plan = make_plan(WORK, nodes, CHAIN, max_connections=None)
    node_kinds = [node.kind for node in nodes]
    found = costs(plan, node_kinds, {"h200": 3.5, "cpu": 0.4})
    assert found["per_hour"] == pytest.approx(7.4)
    assert found["per_1000_media_hours"] == pytest.approx(7400 / plan.hours_per_hour, abs=0.01)
    assert cost_lines(plan, node_kinds, {"h200": 3.5}) == ["cost: no price for cpu (--price cpu=...)"]
    assert cost_lines(plan, node_kinds, {}) == []


def test_every_model_of_the_shipped_profiles_has_an_estimate():
    for profile in ("bundled", "speed", "quality"):
        settings_ = load_settings(None, profile=profile)
        for name, cost in estimates_for(settings_, ALL).items():
            assert cost != StageCost(), (profile, name)
            assert cost.on_card == (choice_of(settings_, name) is not None), (profile, name)


def test_a_head_without_cpus_takes_no_work():
    plan = make_plan(WORK, [Node(0, 16), *parse_nodes("cpu:1:4")], CHAIN)
    assert sum(found.cpus for found in plan.node_types) == 4
    with pytest.raises(PlanError, match="no node offers a CPU"):
        make_plan(WORK, [Node(0, 16)], CHAIN)


def test_memory_is_no_more_than_cards_and_nodes_have():
    heavy = {name: replace(cost, device_gib=30.0) for name, cost in estimates(CHAIN).items()}
    with pytest.raises(PlanError, match=r"GiB exceed a card of 22 GiB"):
        make_plan(WORK, parse_nodes("l4"), CHAIN, rates=heavy)
