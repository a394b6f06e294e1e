"""Hosts are cut off, lose power and lose their head: the same command completes the job, and nobody is charged."""

from __future__ import annotations

import json
import time

import pytest

from benchmarks.chaos import verdict
from benchmarks.hosts import Losses, disturbed, draw
from benchmarks.hosts_world import HostsWorld, await_claims, make_hosts_world
from cluster.db.connect import open_connection
from cluster.db.dump import differences
from tests.archive import run
from tests.nodes.hosts import NoHostsError
from tests.nodes.light import CHAIN

CLIPS = 8
PATIENCE_S = 120.0
LEFT = "SELECT count(*) FROM units WHERE lane = 'speech' AND state IN ('pending', 'running')"


@pytest.fixture(scope="module")
def world():
    try:
        with make_hosts_world("light", CLIPS) as made:
            yield made
    except NoHostsError as error:
        pytest.skip(f"no hosts can be made here: {error}")


@pytest.fixture(scope="module")
def reference(world):
    url = world.database()
    flags = {"store": str(world.network.folder / "store"), "num_speakers": 2}
    summary = run(url, [str(world.media)], flags, chain=CHAIN, lanes=("speech", "voices", "texts"))
    assert (summary.state, summary.ok) == ("partial", CLIPS)
    return verdict(url)


@pytest.mark.ray_process
def test_hosts_are_lost_one_after_the_other_and_the_job_given_again_completes_it(world, reference, monkeypatch):
    left, submit = [], HostsWorld.submit

    def submitted(world, cluster, url, host=None):
        with open_connection(url) as conn:
            left.append(conn.execute(LEFT).fetchone()[0])
        return submit(world, cluster, url, host)

    monkeypatch.setattr(HostsWorld, "submit", submitted)
    losses = Losses(cut=0, killed=1, claims=(2, 4, 6), delays_s=(0.0, 0.0, 0.0), back=True)
    outcome = disturbed(world, reference, losses)
    assert outcome.struck == ["cut off", "worker killed", "head killed"]
    assert (outcome.differences, outcome.problems, outcome.charges) == ([], [], [])
    assert outcome.commands == 2
    # The head that died left work, and the command given again did it.
    before, after_the_loss, at_the_end = left
    assert (before, after_the_loss > 0, at_the_end) == (0, True, 0), left


@pytest.mark.ray_process
def test_a_driver_elsewhere_says_that_the_head_is_gone_and_goes_on_beyond_a_database_that_paused(world, reference):
    cluster, url = world.cluster(workers=2), world.database()
    try:
        command = world.submit(cluster, url, host=cluster.workers[0])
        assert await_claims(url, 2, command, PATIENCE_S)
        world.server.stop()
        time.sleep(3.0)
        world.server.start()
        assert await_claims(url, 4, command, PATIENCE_S)
        cluster.head.kill()
        ended = command.wait(PATIENCE_S)
        said = json.dumps(ended.summary.get("notes", [])) + ended.words
        assert ended.code == 1
        assert "the head of the Ray cluster at" in said
        assert "Traceback" not in said
    finally:
        cluster.kill()
    flags = {"store": str(world.network.folder / "store"), "num_speakers": 2}
    run(url, [str(world.media)], flags, chain=CHAIN, lanes=("speech", "voices", "texts"))
    found = verdict(url)
    assert (differences(reference.dump, found.dump), found.broken) == ([], [])
    assert found.charges == reference.charges


def test_a_seed_draws_the_same_losses_and_two_workers_never_one():
    drawn = [draw(number, 1, 10) for number in range(20)]
    assert drawn == [draw(number, 1, 10) for number in range(20)]
    assert drawn != [draw(number, 2, 10) for number in range(20)]
    assert all(losses.cut != losses.killed and list(losses.claims) == sorted(losses.claims) for losses in drawn)
