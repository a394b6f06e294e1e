"""Joining a cluster fails in words, not in minutes."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cluster.errors import RushesError, UsageError
from cluster.hardware import labels_for
from cluster.plan import Group
from cluster.plan_types import ACCELERATOR_LABEL
from cluster.reach import no_cluster
from cluster.settings import load_settings
from jobs.ray_context import _join, knock, no_progress_timeout_s
from jobs.ray_errors import _check_nodes, missing_room, without_node
from jobs.runners import longest_block_s

ROOT = Path(__file__).parents[1]


def test_an_address_where_nothing_listens_is_named_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        knock(f"127.0.0.1:{port}")
        knock(f"ray://127.0.0.1:{port}")
    with pytest.raises(RushesError, match=f"no Ray cluster at 127.0.0.1:{port}"):
        knock(f"127.0.0.1:{port}")
    knock("auto")


@hypothesis_settings(deadline=None)
@given(hours=st.floats(0, 500), base_s=st.floats(0.1, 1e4), s_per_hour=st.floats(0.1, 1e5))
def test_a_long_last_recording_meets_its_own_deadline_before_the_guard_against_stalls(hours, base_s, s_per_hour):
    settings = load_settings(None, stage_base_s=base_s, stage_s_per_hour=s_per_hour)
    deadline_s = longest_block_s(settings, [{"duration_ms": int(hours * 3_600_000)}])
    assert no_progress_timeout_s(deadline_s) >= 2 * deadline_s
    assert no_progress_timeout_s(deadline_s) >= 1800


def test_what_has_no_room_is_named_with_its_sum():
    groups = (Group("hear", (), 2, 0.5, 1, 0.4), Group("speak", (), 1, 1.0, 1, 0.4))
    assert missing_room(groups, {"CPU": 2.0, "GPU": 1.2}) == []
    assert missing_room(groups, {"CPU": 1.5, "GPU": 1.2}) == [("CPU", 2.0, 1.5)]
    assert missing_room(groups, {"CPU": 2.0}) == [("GPU", 1.2, 0.0)]


def test_actors_that_fit_only_in_the_sum_are_told_how_many_find_no_node():
    groups = (Group("hear", (), 3, 0.6, 1), Group("speak", (), 2, 0.4, 1))
    free = [{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}]
    assert without_node(groups, free, [{}] * len(free)) == []
    four = (Group("hear", (), 4, 0.6, 1),)
    assert missing_room(four, {"CPU": 3.0}) == []
    assert without_node(four, free, [{}] * len(free)) == [(four[0], 1)]
    shares = (Group("hear", (), 2, 0.1, 1, 0.6),)
    assert without_node(shares, [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0}], [{}, {}]) == [(shares[0], 1)]


def test_an_actor_that_fits_on_no_node_is_refused_at_once():
    nodes = [{"CPU": 64.0}, {"CPU": 8.0, "GPU": 1.0}]
    _check_nodes([Group("speak", (), 1, 8.0, 1, 0.45)], nodes)
    with pytest.raises(RushesError, match=r"one speak actor of 32 CPU, 0.45 GPU fits on no node \(64 CPU and 0 GPU, 8"):
        _check_nodes([Group("speak", (), 1, 32.0, 1, 0.45)], nodes)


def test_an_actor_finds_place_only_on_nodes_that_its_labels_mean():
    labels = labels_for(["l4"], ["l4"])
    group = Group("hear", (), 2, 1.0, 1, labels=labels)
    free = [{"CPU": 4.0}, {"CPU": 1.0}]
    assert without_node([group], free, [{}, {ACCELERATOR_LABEL: "L4"}]) == [(group, 1)]
    others = Group("look", (), 2, 1.0, 1, labels=labels_for(["cpu"], ["l4"]))
    assert without_node([others], free, [{ACCELERATOR_LABEL: "L4"}, {}]) == [(others, 1)]


def test_what_listens_and_takes_nobody_is_told_with_token_and_port():
    assert "its token in ~/.ray/auth_token" in no_cluster("127.0.0.1:6379")
    assert no_cluster("auto") == "no Ray cluster at auto: start one, or leave --address out"


def test_a_dashboard_is_not_called_an_absent_cluster():
    with pytest.raises(UsageError, match="address of a dashboard"):
        _join("http://127.0.0.1:8265", {})


SAYS = """
import logging, os, sys
from pathlib import Path
from jobs.ray_context import prints_to
logging.basicConfig(level=logging.WARNING, format="%(message)s")
with prints_to(Path(sys.argv[1])):
    os.write(2, b"compiled\\n")
    print("printed")
    print("told", file=sys.stderr)
    logging.warning("warned")
os.write(2, b"after\\n")
logging.warning("later")
"""


def test_what_compiled_code_writes_goes_to_the_log_and_what_a_person_is_told_to_the_terminal(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SAYS, str(tmp_path / "log")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "told\nwarned\nafter\nlater\n")
    assert sorted((tmp_path / "log").read_text().split()) == ["compiled", "printed"]
