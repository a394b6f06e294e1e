"""The scale benchmark: its lengths, its replayed rows, and the whole engine on logical GPUs in small."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import mean

import pytest

from actors.lanes import stages_for, whole_chain
from benchmarks import lengths, replay, scale
from benchmarks.process_tree import adopt_orphans
from benchmarks.replay_rows import Asset
from cluster.lanes import LANES
from cluster.settings import load_settings
from cluster.stage import check_columns, run_stages
from cluster.types import ROW, rows_table

ASSETS, MEAN_S = 40, 120.0


@pytest.mark.parametrize("count", [1, 40, 5_000])
def test_lengths_have_the_mean_of_the_archive_and_its_tail(count):
    found = lengths.lengths_s(count, 7)
    assert mean(found) == pytest.approx(lengths.MEAN_S)
    assert found == sorted(found, reverse=True)
    assert found == lengths.lengths_s(count, 7)
    if count == 5_000:
        assert sum(found) == pytest.approx(1_200 * 3_600)
        assert found[0] == lengths.LONGEST_S
        assert found[count // 2] < lengths.MEAN_S / 4
        assert sum(found[: count // 20]) > sum(found) / 3


def test_replayed_stages_stand_for_every_stage_of_the_product():
    settings = load_settings(None)
    real, replayed = whole_chain(settings), replay.chain(settings)
    assert [stage.name for stage in replayed] == [stage.name for stage in real]
    assert [stage.identity() for stage in replayed] == [stage.identity() for stage in real]
    check_columns(stages_for(replayed, LANES), {*ROW, "frames", "segments"})
    hears = sum(replay.s_per_media_hour()[name] for name in replay.HEARS)
    assert 3600 / hears == pytest.approx(replay.HEARD_X_REALTIME, rel=1e-3)


@pytest.mark.parametrize(("lane", "kind"), [("speech", "audio"), ("frames", "video")])
def test_replayed_rows_follow_from_the_content_alone(lane, kind):
    lanes = ["speech", "voices", "texts"] if lane == "speech" else ["frames"]

    def rows(sha256):
        asset = {"asset_id": 1, "sha256": sha256, "uri": "s3://replay/1", "media_kind": kind, "duration_ms": 60_000}
        chain = stages_for(replay.chain(load_settings(None)), lanes)
        [row] = run_stages(chain, rows_table([{**asset, "root": lane, "lanes": lanes}])).to_pylist()
        assert row.pop("error") is None
        assert {timing["stage"] for timing in row.pop("timings")} == {stage.name for stage in chain}
        return row

    assert rows("ab" * 32) == rows("ab" * 32)
    assert rows("ab" * 32) != rows("cd" * 32)


@pytest.mark.parametrize("duration_ms", [1, 1_000, 59_999, 3_600_000])
def test_replayed_rows_stay_inside_their_recording(duration_ms):
    asset = Asset("ab" * 32, duration_ms)
    [segments], [chunks] = replay.segments(asset).to_pylist(), replay.chunks(asset, 8).to_pylist()
    [shots], [frames] = replay.shots(asset).to_pylist(), replay.frames(asset).to_pylist()
    assert all(0 <= row["start_ms"] <= row["end_ms"] <= max(duration_ms, 1) for row in (*segments, *chunks, *shots))
    assert [row["idx"] for row in segments] == list(range(chunks[-1]["last_segment"] + 1))
    for frame in frames:
        shot = shots[frame["shot"]]
        assert shot["start_ms"] <= frame["t_ms"] <= shot["end_ms"]


def test_a_clock_goes_no_faster_than_ten_times(monkeypatch):
    monkeypatch.setenv(replay.CLOCK, "20")
    with pytest.raises(ValueError, match="1 to 10"):
        replay.clock()


@pytest.fixture
def short_folder():
    # Ray's socket paths are limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="s-", dir="/tmp") as name:
        adopted = adopt_orphans(True)
        yield Path(name)
        adopt_orphans(adopted)


@pytest.mark.ray_process
def test_the_whole_engine_keeps_logical_gpus_busy_and_counts_exactly(server_url, short_folder):
    runs = {}
    for gpus in (1, 2):
        runs[gpus] = run = scale.measure(server_url, short_folder, gpus, ASSETS, MEAN_S)
        films = sum(number % scale.FILMS_EVERY == scale.FIRST_FILM for number in range(ASSETS))
        assert (run["ok"], run["rows"], run["checks_broken"]) == (ASSETS, ASSETS + films, 0)
        assert 0.05 < run["efficiency"] <= 1.0
    assert runs[1]["outputs"] == runs[2]["outputs"]
    assert runs[1]["bound_of_pools_s"]["hear"] == pytest.approx(2 * runs[2]["bound_of_pools_s"]["hear"], rel=0.01)
