"""The kept counts equal the counted ones, whatever happens to the units."""

from __future__ import annotations

import random
import threading

import pytest

from cluster.db import counts, ledger, results, runs
from cluster.db.check import check_corpus
from cluster.db.connect import open_connection
from cluster.db.register import NewAsset, add_asset
from tests.corpus_rows import LANES, PRINTS, claimed, computed_row, make_spaces, new_asset, new_run


def differing(db):
    return next(count for name, count in check_corpus(db).items() if name.startswith("kinds of units"))


def rows_of(db):
    return db.execute("SELECT count(*) FROM unit_counts").fetchone()[0]


def settle(db, run_id, made, rng, name):
    """One asset on its way: claimed, and then done, failed, put off, or left."""
    asset_id = new_asset(db, name, duration_ms=rng.choice([None, 1000, 3_600_000]))
    units = claimed(
        db, run_id, asset_id, rng.choice([LANES, ("speech",), ("speech", "texts")]), node=f"n{rng.randrange(3)}"
    )
    row = computed_row(asset_id, units)
    end = rng.choice(["done", "bad_media", "transient", "left"])
    if end in ("bad_media", "transient"):
        row["error"] = {"failure": end, "stage": "decode", "message": "m", "lanes": None, "attempts": 1}
    if end != "left":
        results.commit_row(db, run_id, row, made)
    return asset_id


def disturb(db, rng, ids):
    """What else changes units or the lengths that are counted with them."""
    asset_id = rng.choice(ids)
    what = rng.randrange(7)
    if what == 0:
        db.execute("DELETE FROM assets WHERE asset_id = %s", (asset_id,))
    elif what == 1:
        db.execute("UPDATE assets SET duration_ms = %s WHERE asset_id = %s", (rng.choice([None, 5000]), asset_id))
    elif what == 2:
        ledger.reset_units(db, ids, PRINTS, LANES, ["failed", "done"])
    elif what == 3:
        ledger.ensure_units(db, ids, dict.fromkeys(PRINTS, "other"), LANES)
    elif what == 4:
        db.execute("DELETE FROM units WHERE fingerprint = 'other'")
    elif what == 5:
        with db.transaction(force_rollback=True):
            db.execute("UPDATE units SET state = 'pending', run_id = NULL")
    else:
        counts.fold(db)


@pytest.mark.parametrize("seed", range(4))
def test_kept_counts_equal_the_counted_ones_after_any_history(db, seed):
    rng, made, run_id = random.Random(seed), make_spaces(db), new_run(db)
    ids = []
    for number in range(12):
        ids.append(settle(db, run_id, made, rng, f"{seed}-{number}"))
        for _ in range(2):
            disturb(db, rng, ids)
    assert differing(db) == 0
    runs.finish_run(db, run_id, "done", {})
    assert differing(db) == 0
    db.execute("TRUNCATE units")
    assert (differing(db), rows_of(db)) == (0, 0)


def test_a_kept_count_that_is_wrong_is_found(db):
    claimed(db, new_run(db), new_asset(db, "a"))
    db.execute("UPDATE unit_counts SET units = units + 1 WHERE ctid = (SELECT min(ctid) FROM unit_counts)")
    assert differing(db) == 1


def test_folding_while_others_write_loses_nothing(db, db_url):
    runs_of, made = new_run(db), make_spaces(db)
    ids = [new_asset(db, str(number)) for number in range(60)]
    ledger.ensure_units(db, ids, PRINTS, list(PRINTS))

    def work(mine):
        with open_connection(db_url) as conn:
            for asset_id in mine:
                units = ledger.claim_units(conn, runs_of, asset_id, LANES, PRINTS)
                results.commit_row(conn, runs_of, computed_row(asset_id, units), made)
                counts.fold(conn)

    threads = [threading.Thread(target=work, args=(ids[part::3],)) for part in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts.fold(db)
    assert differing(db) == 0
    assert {key: n for key, (n, _) in counts.by_state(db, PRINTS).items()} == {(lane, "done"): 60 for lane in LANES}
    assert rows_of(db) == len(LANES)


def test_a_claim_does_not_wait_for_one_whose_transaction_stays_open(db, db_url):
    run_id = new_run(db)
    ids = [new_asset(db, name) for name in ("a", "b")]
    ledger.ensure_units(db, ids, PRINTS, list(PRINTS))
    with open_connection(db_url) as other, db.transaction():
        ledger.claim_units(db, run_id, ids[0], LANES, PRINTS)
        other.execute("SET statement_timeout = '5s'")
        assert len(ledger.claim_units(other, run_id, ids[1], LANES, PRINTS)) == 3
        counts.fold(other)


def test_an_asset_that_came_after_a_lane_was_complete_gets_its_unit(db):
    first = new_asset(db, "first")
    ledger.ensure_units(db, [first], PRINTS, LANES)
    assert counts.complete_lanes(db, PRINTS, LANES) == set(LANES)
    second = new_asset(db, "second")
    assert counts.complete_lanes(db, PRINTS, LANES) == set()
    ledger.ensure_units(db, [second], PRINTS, LANES)
    assert counts.by_state(db, PRINTS)["speech", "pending"] == (2, 120_000)


def test_content_that_can_be_read_by_now_gets_work_though_its_lanes_are_complete(db):
    asset = add_asset(db, NewAsset(sha256="ab" * 32, byte_size=1))
    ledger.ensure_units(db, [asset], PRINTS, LANES)
    add_asset(db, NewAsset("ab" * 32, 1, media_kind="audio", audio_stream=0, duration_ms=1000))
    ledger.ensure_units(db, [asset], PRINTS, LANES)
    assert ledger.count_states(db, [asset], PRINTS, LANES) == {"failed": 1}
    assert db.execute("SELECT state FROM units WHERE lane = 'voices'").fetchone() == ("skipped",)
    assert differing(db) == 0
