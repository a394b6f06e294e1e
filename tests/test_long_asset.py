"""A recording of hours beside short ones, on Ray: it holds nobody back, and stays inside its bound of memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from benchmarks import long_asset
from benchmarks.process_tree import adopt_orphans
from cluster.settings import load_settings
from jobs.ray_context import no_progress_timeout_s
from jobs.runners import longest_block_s

HOURS, FILES, PIECES = 1.0, 4, 3


@pytest.fixture
def short_folder():
    # Ray's socket paths are limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="l-", dir="/tmp") as name:
        adopted = adopt_orphans(True)
        yield Path(name)
        adopt_orphans(adopted)


@pytest.mark.parametrize("hours", [0.1, 6.0, 12.0])
def test_no_length_of_recording_is_taken_for_a_stall(hours):
    """The guard of Ray Data waits longer than every deadline of the recording together with its repetition."""
    settings = load_settings(None)
    block_s = longest_block_s(settings, [{"duration_ms": int(hours * 3_600_000)}])
    stage_s = settings.stage_base_s + hours * settings.stage_s_per_hour
    assert no_progress_timeout_s(block_s) >= 2 * stage_s


@pytest.mark.ray_process
def test_short_files_pass_a_long_one_and_no_process_holds_more_than_planned(server_url, short_folder):
    long_asset.build(short_folder / "media", HOURS, FILES, PIECES)
    run = long_asset.measure(server_url, short_folder, "ray", HOURS)
    assert (run["ok"], run["checks_broken"]) == (FILES + 1, 0)
    assert run["plan"] == {"hear": 2, "speak": 2}
    assert run["last_short_s"] < run["long_s"]
    assert {kind: size for kind, size in run["peak_gib"].items() if size > run["bound_gib"][kind]} == {}
    # The sound itself did pass through shared memory: the bound was put to the test.
    assert run["peak_gib"]["shared"] >= run["sound_gib"]
