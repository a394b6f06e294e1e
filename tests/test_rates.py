"""What work will take: from what it took, and only from what is comparable."""

from __future__ import annotations

import pytest

from cluster.db import rates, results, runs
from cluster.db.dump import canonical_dump, differences
from cluster.db.rates import Cost, StageRates
from cluster.settings import load_settings
from jobs.forecast import Forecast, foretell
from jobs.spec import chain_names
from jobs.summary import describe
from tests.archive import run
from tests.corpus_rows import PRINTS, claimed, computed_row, make_spaces, new_asset, new_run
from tests.media_factory import silence, write_video, write_wav
from tests.test_plan import LONG, Node, make_plan

HOUR_MS = 3_600_000
STAGES = {"decode": {"speech"}, "transcribe": {"speech"}, "texts": {"texts"}}


def commit(db, name, timings, *, runner="worker", state="done", start_up_s=4.0, hits=0, hours=1):
    """One asset, committed by a finished run of its own."""
    run_id, made = new_run(db), make_spaces(db)
    asset_id = new_asset(db, name, duration_ms=hours * HOUR_MS)
    row = computed_row(asset_id, claimed(db, run_id, asset_id))
    row["timings"] = [{"stage": stage, "seconds": seconds} for stage, seconds in timings.items()]
    row["voice_cache_hits"] = hits
    assert results.commit_row(db, run_id, row, made) == "done"
    runs.finish_run(db, run_id, state, {"runner": runner, "start_up_s": start_up_s})


def test_seconds_per_media_hour_are_weighted_by_length():
    costs = [Cost(1, "speech", HOUR_MS, {"decode": 10.0}), Cost(2, "speech", 3 * HOUR_MS, {"decode": 10.0})]
    assert rates.stage_rates(costs, STAGES) == StageRates(2, {"decode": 5.0}, None)


def test_a_unit_tells_only_of_the_stages_of_its_own_lane():
    costs = [Cost(1, "speech", HOUR_MS, {"decode": 7.0, "texts": 1.0}), Cost(1, "texts", HOUR_MS, {"texts": 3.0})]
    assert rates.stage_rates(costs, STAGES).s_per_media_hour == {"decode": 7.0, "texts": 3.0}


def test_the_busiest_group_bounds_the_rate_and_an_unmeasured_stage_gives_none():
    measured = StageRates(1, {"decode": 10.0, "transcribe": 80.0, "texts": 30.0})
    assert rates.hours_per_hour(measured, [(("decode", "transcribe", "texts"), 2)]) == (60.0, "transcribe")
    assert rates.hours_per_hour(measured, [(("decode", "transcribe"), 3), (("texts",), 1)]) == (120.0, "transcribe")
    assert rates.hours_per_hour(measured, [(("decode", "voices"), 1)]) is None
    assert rates.hours_per_hour(measured, [((), 1)]) is None


def test_only_units_of_the_same_runner_and_fingerprint_count(db):
    commit(db, "a", {"decode": 10.0})
    commit(db, "b", {"decode": 90.0}, runner="ray", start_up_s=20.0)
    costs = rates.recent_costs(db, PRINTS, "worker")
    assert rates.stage_rates(costs, STAGES).s_per_media_hour == {"decode": 10.0}
    assert rates.recent_costs(db, {"speech": "another"}, "worker") == []
    assert rates.usual_start_up_s(db, "ray") == 20.0
    assert rates.usual_start_up_s(db, "inline") is None


def test_cached_voices_and_runs_that_failed_say_nothing(db):
    voices = {"voices": {"voices"}}
    commit(db, "cached", {"voices": 0.0}, hits=3)
    assert rates.stage_rates(rates.recent_costs(db, PRINTS, "worker"), voices).s_per_media_hour == {}
    commit(db, "computed", {"voices": 40.0})
    assert rates.stage_rates(rates.recent_costs(db, PRINTS, "worker"), voices).s_per_media_hour == {"voices": 40.0}
    commit(db, "late", {"voices": 40.0}, state="failed", start_up_s=900.0)
    assert rates.usual_start_up_s(db, "worker") == 4.0


def test_a_forecast_is_assumed_until_every_stage_was_measured(db):
    settings, lanes = load_settings(), tuple(PRINTS)
    stages = chain_names(settings, lanes)
    plan = make_plan(LONG, [Node(2, 24)], stages, runner="worker")
    assert foretell(db, settings, PRINTS, lanes, plan) == Forecast(plan.hours_per_hour, None, 0)
    commit(db, "a", dict.fromkeys(stages, 10.0))
    found = foretell(db, settings, PRINTS, lanes, plan)
    assert (found.start_up_s, found.assets) == (4.0, 1)
    assert found.hours_per_hour == pytest.approx(360 / len(stages))


def test_the_words_say_where_the_figure_comes_from():
    assert Forecast(10.0, None, 0).describe(36_000).startswith("predicted: 1:00:00 after start-up (assumed")
    assert Forecast(10.0, 30.0, 7).describe(36_000) == (
        "predicted: 1:00:30 = 0:30 of start-up + 1:00:00 of work (measured on 7 asset(s))"
    )


def test_a_dry_run_writes_nothing_at_all(db_url, db, tmp_path):
    folder, data = tmp_path / "media", tmp_path / "data"
    folder.mkdir()
    write_video(folder / "mute.mp4", 1, None)
    assert run(db_url, [str(folder)], {"data_dir": data}).exit_code == 0
    (folder / "mute.mp4").unlink()
    write_wav(folder / "new.wav", silence(1), 16_000)
    before, on_disk = canonical_dump(db), sorted(data.rglob("*"))
    counts = "SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM failures), (SELECT max(gone_at) FROM sources)"
    told = db.execute(counts).fetchone()
    dry = run(db_url, [str(folder)], {"data_dir": data}, dry_run=True)
    assert (dry.state, dry.run_id, dry.sources.gone) == ("dry-run", None, 1)
    assert "1 new or changed file(s), 32.0 kB, would be read first" in dry.notes[0]
    assert describe(dry)[-1].endswith("h would be done, besides 1 new or changed file(s)")
    assert differences(before, canonical_dump(db)) == []
    assert (db.execute(counts).fetchone(), sorted(data.rglob("*"))) == (told, on_disk)


def test_a_dry_run_counts_lanes_and_hours_and_predicts(corpus_url, media, ingested):
    dry = run(corpus_url, [str(media)], force=True, dry_run=True)
    assert dry.notes[1] == "assets by lane: speech 3, voices 3, texts 3, frames 2"
    assert dry.planned == 4
    assert "of start-up" in dry.notes[-1]
    assert dry.notes[-1].endswith("(measured on 2 asset(s))")


def test_work_done_over_is_foretold_like_its_dry_run(corpus_url, media):
    over = {"force": True, "lanes": ("texts",)}
    dry, done = (run(corpus_url, [str(media)], **over, dry_run=dry) for dry in (True, False))
    assert dry.notes[-1].endswith("(measured on 3 asset(s))")
    assert done.predicted_hours_per_hour == dry.predicted_hours_per_hour
