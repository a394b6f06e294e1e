"""The benchmark of the ledger in small: what it measures is right, and nothing grows with what is done."""

from __future__ import annotations

import pytest

from benchmarks import ledger_rows, scale_ledger
from benchmarks.scale_ledger import LANES, PRINTS, open_ledger
from cluster.db import ledger, progress, register, report
from cluster.db.connect import open_connection
from tests.conftest import clone_database

PENDING = 40
FAILED = (2_000 - PENDING) // ledger_rows.FAILED_EVERY
# Ten times as many units: what grows with them would be far above, what a busy machine adds far below.
FLAT = 4.0


@pytest.fixture
def large_url(server_url):
    yield from clone_database(server_url, "template_corpus")


@pytest.fixture
def ledgers(db_url, large_url):
    made = [open_ledger(db_url, 1_000, PENDING), open_ledger(large_url, 10_000, PENDING)]
    yield made
    for one in made:
        one.conn.close()
        one.holder.close()


def test_the_ledger_stays_as_fast_when_it_grows(ledgers):
    small, large = ledgers
    found = scale_ledger.measure(small, large, samples=24)
    assert {name: found[name]["large_over_small"] for name in ("claim", "commit", "resume")} == {
        name: pytest.approx(1.0, abs=FLAT - 1) for name in ("claim", "commit", "resume")
    }
    assert set(scale_ledger.targets(found)) == {"claim_flat", "commit_flat", "resume_flat", "status_s", "watch_s"}


def test_a_resume_finds_exactly_what_is_pending(ledgers):
    large = ledgers[1]
    ids = register.all_asset_ids(large.conn)
    rows = scale_ledger.resume(large, ids)
    assert {row.asset_id for row in rows} == set(range(1, PENDING + 1))
    assert len(rows) == 2 * PENDING
    assert scale_ledger.resume(large, ids[PENDING // 2 :])[0].asset_id > PENDING // 2
    assert ledger.count_states(large.conn, ids, PRINTS, LANES) == {
        "pending": PENDING,
        "failed": FAILED,
        "done": 2_000 - PENDING - FAILED,
    }
    told = scale_ledger.per_pending(large)
    assert (told["rows"], told["more_rows"]) == (2 * PENDING, 4 * PENDING)


def test_status_and_watch_tell_the_same_as_the_units(ledgers):
    large = ledgers[1]
    lanes = {row["lane"]: row for row in progress.lane_table(large.conn, PRINTS)}
    media_ms = large.conn.execute("SELECT sum(duration_ms) FROM assets WHERE asset_id > %s", (PENDING,)).fetchone()[0]
    failed_ms = large.conn.execute("SELECT sum(duration_ms) FROM units JOIN assets USING (asset_id)"
                                   " WHERE state = 'failed'").fetchone()[0]  # fmt: skip
    broken = lanes.pop(ledger_rows.FAILED_LANE)
    assert (broken["done"], broken["failed"], broken["done_ms"]) == (
        2_000 - PENDING - FAILED, FAILED, media_ms - failed_ms
    )  # fmt: skip
    assert {(row["done"], row["pending"], row["total"]) for row in lanes.values()} == {
        (2_000 - PENDING, PENDING, 2_000)
    }
    assert {row["done_ms"] for row in lanes.values()} == {media_ms}
    view = progress.run_view(large.conn, report.find_run(large.conn, str(large.done_run)))
    assert (view["settled"], view["media_s"]) == (2_000 - PENDING, float(media_ms - failed_ms) / 1000)
    assert sum(node["done"] for node in view["nodes"]) == 5 * (2_000 - PENDING) - FAILED
    last = [row["uri"].rpartition("-")[2] for row in view["failures"]]
    assert last == [f"{number}.mp4" for number in range(1_920, 2_001, ledger_rows.FAILED_EVERY)]
    slowest = large.conn.execute("SELECT DISTINCT asset_id, pace FROM units WHERE pace > 0 ORDER BY pace LIMIT 5")
    assert [row["x_realtime"] for row in view["slowest"]] == pytest.approx([pace for _, pace in slowest])


def test_hours_of_realistic_rows_are_sound(db_url):
    with open_connection(db_url) as conn:
        ledger_rows.fill_hours(conn, 1)
        held = report.totals(conn)
    assert [held[name] for name in ("media_ms", "segments", "voices", "chunks", "frames")] == [
        3_600_000, ledger_rows.SEGMENTS, ledger_rows.SEGMENTS, ledger_rows.CHUNKS, ledger_rows.FRAMES
    ]  # fmt: skip


def test_what_a_scrape_costs_is_told_of_the_run_that_did_nearly_everything(ledgers, monkeypatch):
    large, told = ledgers[1], []
    monkeypatch.setattr(
        scale_ledger.metrics, "run_outputs", lambda conn, run_id: told.append(run_id) or {"voice_cache_hits": 0}
    )
    scale_ledger.scrape(large)
    assert told == [large.done_run]
    [(config,)] = large.conn.execute("SELECT config FROM runs WHERE run_id = %s", (large.run_id,))
    assert "work" in config
