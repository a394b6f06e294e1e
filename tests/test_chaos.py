"""One disturbance of each kind: the same command completes the job, and the corpus says what it would have said."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from benchmarks import hosts
from benchmarks.chaos import CHARGED, Outcome, Verdict, disturbed, failed, parse, summed, undisturbed
from benchmarks.chaos_blow import POINTS, Blow, Kind, Struck, draw
from benchmarks.chaos_world import Ended, make_world
from cluster.db.dump import Dump
from cluster.faults import FaultPoint

CLIPS = 3
BLOWS = [
    Blow(Kind.DRIVER, FaultPoint.BEFORE_TRANSCRIBE, visit=2, whole=False),
    Blow(Kind.ACTOR, FaultPoint.BEFORE_VOICES, visit=2),
    Blow(Kind.WRITER, FaultPoint.FRAMES_WRITTEN, visit=4, exact=True),
    Blow(Kind.DECODE_CHILD, FaultPoint.READING, visit=2, exact=True),
    Blow(Kind.CONNECTION, FaultPoint.COMMIT_FENCED, visit=2, pick=1),
    Blow(Kind.SERVER, FaultPoint.BEFORE_TEXTS, visit=2, whole=False),
]


@pytest.fixture(scope="module")
def world():
    with make_world("worker", CLIPS) as made:
        yield made


@pytest.fixture(scope="module")
def reference(world):
    return undisturbed(world)[0]


@pytest.mark.ray_process
@pytest.mark.parametrize("blow", BLOWS, ids=lambda blow: str(blow.kind))
def test_a_disturbed_run_ends_like_an_undisturbed_one(blow, world, reference):
    outcome = disturbed(world, reference, blow)
    assert outcome.struck is not None
    assert (outcome.differences, outcome.problems) == ([], [])
    assert outcome.commands == (2 if blow.kind is Kind.DRIVER else 1)
    assert outcome.charges == [] or blow.kind in CHARGED


def test_a_seed_draws_the_same_blows_and_the_points_take_turns():
    for kind in Kind:
        numbers = range(len(POINTS[kind]))
        drawn = [draw(kind, number, 1, 5, "worker") for number in numbers]
        assert drawn == [draw(kind, number, 1, 5, "worker") for number in numbers]
        assert {blow.point for blow in drawn} == set(POINTS[kind])
        assert drawn != [draw(kind, number, 2, 5, "worker") for number in numbers]


def test_only_the_noting_process_ends_itself(tmp_path):
    """A worker that kills itself at a point leaves the driver alive: that is no blow to the driver."""
    drawn = [draw(kind, number, 3, 5, "worker") for kind in Kind for number in range(60)]
    for blow in drawn:
        assert json.loads(blow.fault(tmp_path))["action"] == ("kill" if blow.exact else "note")
    within = {kind: {blow.point for blow in drawn if blow.exact and blow.kind is kind} for kind in Kind}
    assert within[Kind.DRIVER] & set(POINTS[Kind.ACTOR]) == set()
    assert within[Kind.DRIVER]
    assert within[Kind.DECODE_CHILD] == {FaultPoint.READING}
    assert within[Kind.CONNECTION] == within[Kind.SERVER] == set()


def test_a_kind_with_one_difference_or_without_a_blow_fails():
    blow = Blow(Kind.ACTOR, FaultPoint.CLAIMED)
    good = Outcome(blow, Struck(1, 0.2), commands=1, wall_s=9.0)
    bad = Outcome(blow, Struck(1, 0.4), commands=2, wall_s=11.0, differences=["segment 1: text"])
    missed = Outcome(blow, None)
    assert failed({"actor": [good, missed], "driver": [good, bad], "writer": [missed]}) == ["driver", "writer"]
    figures = summed([good, bad, missed])
    assert (figures["runs"], figures["missed"], figures["equal_dumps"]) == (2, 1, 1)
    assert figures["commands_needed"] == {"1": 1, "2": 1}
    assert figures["kill_delay_s"] == {"min": 0.2, "median": 0.3, "max": 0.4}


def test_stages_in_the_driver_cannot_be_killed_apart_from_it():
    with pytest.raises(SystemExit):
        parse(["--runner", "inline"])
    assert parse(["--runner", "inline", "--kinds", "driver"]).kinds == [Kind.DRIVER]


def test_a_run_that_ended_before_its_hosts_were_lost_proves_nothing():
    same, ends = Verdict(Dump(), [], Counter()), [Ended(0, {"state": "nothing"}, "")]
    for struck, problems in ((hosts.LOSSES, 0), (hosts.LOSSES[:2], 1), ((), 1)):
        outcome = hosts.Outcome(hosts.draw(1, 1, 10), list(struck), commands=2)
        hosts._judge(outcome, same, same, ends)
        assert len(outcome.problems) == problems, outcome.problems
