"""How far the work is, from the ledger alone."""

from __future__ import annotations

import json
import uuid
from types import SimpleNamespace

import pytest

from cluster.db import progress, report, results, runs
from cluster.db.connect import open_connection
from cluster.db.migrate import migrate
from cluster.db.progress import Settled, rate_now
from cluster.db.register import add_failure
from jobs.cli import status
from tests.archive import run
from tests.corpus_rows import PRINTS, claimed, computed_row, make_spaces, new_asset, new_run
from tests.pg_server import own_server
from tests.picture_rows import frame, phash, picture_row
from tests.test_cli import rushes
from tests.test_hostile_changes import Meanwhile


def settled(*pairs):
    return [Settled(age_s, media_s) for age_s, media_s in pairs]


@pytest.mark.parametrize(
    ("latest", "elapsed_s", "expected"),
    [
        ([], 100.0, None),
        (settled((10, 3600)), 100.0, 36.0),
        (settled(*[(10 * n, 60) for n in range(1, 21)]), 1000.0, 20 * 60 / 300),
        (settled(*[(10 * n, 60) for n in range(1, 21)]), 200.0, 20 * 60 / 200),
        (settled(*[(100 * n, 60) for n in range(1, 12)]), 9000.0, 10 * 60 / 1100),
        (settled(*[(100 * n, 60) for n in range(1, 11)]), 9000.0, 10 * 60 / 9000),
    ],
)
def test_the_rate_is_that_of_five_minutes_or_of_ten_assets(latest, elapsed_s, expected):
    assert rate_now(latest, elapsed_s) == expected


def view_of(db, run_id):
    return progress.run_view(db, report.find_run(db, str(run_id)))


def planned_run(db, assets, media_s):
    run_id = new_run(db)
    runs.set_planned(db, run_id, assets, {"media_s": media_s, "lanes": dict.fromkeys(PRINTS, assets)})
    return run_id


def commit(db, run_id, name, timings, **fields):
    asset_id = new_asset(db, name, **fields)
    row = computed_row(asset_id, claimed(db, run_id, asset_id))
    row["timings"] = [{"stage": stage, "seconds": seconds} for stage, seconds in timings.items()]
    results.commit_row(db, run_id, row, make_spaces(db))
    return asset_id


def test_a_running_run_tells_lanes_rates_time_left_and_the_slowest(db):
    run_id = planned_run(db, 4, 4 * 3600.0)
    commit(db, run_id, "quick", {"decode": 10.0, "transcribe": 20.0}, duration_ms=3_600_000)
    commit(db, run_id, "slow", {"decode": 10.0, "transcribe": 890.0}, duration_ms=3_600_000)
    busy = new_asset(db, "busy")
    claimed(db, run_id, busy)
    db.execute("UPDATE units SET started_at = now() - interval '1 hour', finished_at = now() WHERE state = 'done'")
    view = view_of(db, run_id)
    assert (view["state"], view["driver"], view["settled"]) == ("running", True, 2)
    [speech] = [row for row in view["lanes"] if row["lane"] == "speech"]
    assert [speech[name] for name in ("done", "total", "running", "failed", "retrying")] == [2, 4, 1, 0, 0]
    assert view["hours_per_hour"] == pytest.approx(2.0, rel=0.01)
    assert view["hours_per_hour_now"] == pytest.approx(2.0, rel=0.01)
    assert view["eta_s"] == pytest.approx(3600, rel=0.01)
    assert [(row["name"], row["stage"], row["x_realtime"]) for row in view["slowest"]] == [
        ("/media/slow", "transcribe", 4.0),
        ("/media/quick", "transcribe", 120.0),
    ]
    assert [row["name"] for row in view["running"]] == ["/media/busy"]
    text = "\n".join(status.run_lines(view))
    assert "4 assets planned · 2 settled · 2.0 h/h now · 2.0 h/h overall · 1:00:00 left" in text
    assert "media/slow: 4.0x realtime, transcribe took 890.0 of 900.0 s" in text


def test_a_film_whose_pictures_nobody_claimed_yet_is_not_settled(db):
    prints = {**PRINTS, "frames": "f1"}
    run_id, film = new_run(db), new_asset(db, "film", media_kind="video", duration_ms=3_600_000)
    work = {"media_s": 3600.0, "lanes": dict.fromkeys(prints, 1), "prints": prints}
    runs.set_planned(db, run_id, 1, work)
    row = computed_row(film, claimed(db, run_id, film, PRINTS, prints))
    results.commit_row(db, run_id, row, make_spaces(db))
    assert [view_of(db, run_id)[name] for name in ("settled", "left_media_s")] == [0, 3600.0]
    units = claimed(db, run_id, film, ("frames",), prints)
    assert view_of(db, run_id)["settled"] == 0
    results.commit_row(db, run_id, picture_row(film, units, [frame(0, phash(1), 0)]), {})
    assert [view_of(db, run_id)[name] for name in ("settled", "left_media_s")] == [1, 0.0]


def test_each_node_tells_what_it_does_and_one_that_went_silent_stands_out(db):
    run_id, made = planned_run(db, 6, 6 * 60.0), make_spaces(db)
    for number, node in enumerate(("alpha", "alpha", "beta")):
        asset_id = new_asset(db, f"done-{number}")
        results.commit_row(db, run_id, computed_row(asset_id, claimed(db, run_id, asset_id, node=node)), made)
    for name, node in (("at-alpha", "alpha"), ("at-beta", "beta")):
        claimed(db, run_id, new_asset(db, name), node=node)
    db.execute(
        "UPDATE units SET started_at = now() - interval '30 minutes', finished_at = finished_at - interval '29 minutes'"
        " WHERE node = 'beta'"
    )
    view = view_of(db, run_id)
    nodes = {row["node"]: row for row in view["nodes"]}
    assert [(name, row["running"], row["done"], row["media_s"]) for name, row in nodes.items()] == [
        ("alpha", 1, 6, 120.0),
        ("beta", 1, 3, 60.0),
    ]
    assert {name: row["is_silent"] for name, row in nodes.items()} == {"alpha": False, "beta": True}
    assert nodes["beta"]["oldest_s"] == pytest.approx(1800, rel=0.01)
    assert [(row["name"], row["node"]) for row in view["running"]] == [
        ("/media/at-beta", "beta"),
        ("/media/at-alpha", "alpha"),
    ]
    lines = status.run_lines(view)
    assert any(line.startswith("beta") and line.endswith(", silent") for line in lines)
    assert "  media/at-beta: speech, texts, voices for 30:00 on beta" in lines


def test_one_node_alone_is_never_silent_and_one_without_work_neither(db):
    run_id = planned_run(db, 2, 120.0)
    claimed(db, run_id, new_asset(db, "long"), node="alpha")
    db.execute("UPDATE units SET started_at = now() - interval '5 hours'")
    assert [row["is_silent"] for row in view_of(db, run_id)["nodes"]] == [False]
    asset_id = new_asset(db, "short")
    row = computed_row(asset_id, claimed(db, run_id, asset_id, node="beta"))
    results.commit_row(db, run_id, row, make_spaces(db))
    assert {row["node"]: row["is_silent"] for row in view_of(db, run_id)["nodes"]} == {"alpha": True, "beta": False}


def test_failures_and_waiting_retries_are_told_with_their_reasons(db):
    run_id, made = planned_run(db, 2, 120.0), make_spaces(db)
    for name, failure in (("broken", "bad_media"), ("tired", "transient")):
        asset_id = new_asset(db, name)
        row = computed_row(asset_id, claimed(db, run_id, asset_id))
        row["error"] = {"failure": failure, "stage": "decode", "message": f"{name} it is", "lanes": None, "attempts": 1}
        results.commit_row(db, run_id, row, made)
    view = view_of(db, run_id)
    [speech] = [row for row in view["lanes"] if row["lane"] == "speech"]
    assert (speech["failed"], speech["retrying"]) == (1, 1)
    assert [item["message"] for item in view["failures"]] == ["broken it is"]
    assert "media/broken: bad_media in decode: broken it is" in "\n".join(status.run_lines(view))


def test_the_last_failures_are_those_of_the_whole_list(db):
    first, second = new_run(db), new_run(db)
    assets = [new_asset(db, f"broken{number}") for number in range(7)]

    def fail(run_id, asset_id):
        row = computed_row(asset_id, claimed(db, run_id, asset_id))
        row["error"] = {"failure": "bug", "stage": "decode", "message": "it broke", "lanes": None, "attempts": 1}
        results.commit_row(db, run_id, row, {})

    for asset_id in assets:
        fail(first, asset_id)
    db.execute("UPDATE units SET state = 'pending', run_id = NULL WHERE asset_id = ANY(%s)", (assets[:3],))
    for asset_id in assets[:2]:
        fail(second, asset_id)
    add_failure(
        db, run_id=first, asset_id=None, uri="/gone", lane=None, fingerprint=None,
        failure="bad_media", stage="probe", message="no such file",
    )  # fmt: skip
    for run_id, count in ((first, 5), (second, 2)):
        every = report.open_failures(db, report.FailureFilter(run=str(run_id)))
        every.sort(key=lambda row: row["failure_id"])
        assert len(every) == count
        assert report.last_failures(db, run_id, 100) == every
        assert report.last_failures(db, run_id, 2) == every[-2:]


def test_a_run_without_a_driver_says_so_and_one_that_ended_needs_none(db, db_url):
    run_id = uuid.uuid4()
    db.execute("INSERT INTO runs (run_id, kind, config) VALUES (%s, 'ingest', '{}')", (run_id,))
    view = view_of(db, run_id)
    assert not view["driver"]
    assert "its driver is gone" in status.run_line(view)
    assert view["lanes"] == []
    assert view["eta_s"] is None
    runs.start_run(db, run_id, "ingest", {})
    assert view_of(db, run_id)["driver"]
    runs.finish_run(db, run_id, "done", {})
    assert view_of(db, run_id)["driver"]


def test_a_run_that_died_is_measured_up_to_its_last_commit(db):
    run_id = planned_run(db, 3, 3 * 3600.0)
    commit(db, run_id, "done", {"decode": 1.0}, duration_ms=3_600_000)
    claimed(db, run_id, new_asset(db, "busy"))
    db.execute("UPDATE units SET started_at = now() - interval '3 hours'")
    db.execute("UPDATE units SET finished_at = now() - interval '1 hour' WHERE state = 'done'")
    db.execute("SELECT pg_advisory_unlock(%s)", (runs.lock_key(run_id),))
    left = view_of(db, run_id)
    assert (left["driver"], left["running"], left["eta_s"]) == (False, [], None)
    assert left["hours_per_hour"] == pytest.approx(0.5, rel=0.01)
    assert " left" not in status.run_line(left)
    assert " now" not in status.run_line(left)
    runs.recover_dead_runs(db)
    assert view_of(db, run_id)["hours_per_hour"] == pytest.approx(0.5, rel=0.01)


def test_a_large_run_that_died_is_told_of_as_fast_as_one_that_lives(db):
    run_id = planned_run(db, 20_000, 20_000)
    db.execute(
        "INSERT INTO assets (sha256, byte_size, media_kind, duration_ms)"
        " SELECT sha256(i::text::bytea), 1, 'audio', 1000 FROM generate_series(1, 20000) i"
    )
    db.execute(
        "INSERT INTO units (asset_id, lane, fingerprint, state, run_id, outputs, started_at, finished_at)"
        " SELECT asset_id, 'speech', 's1', 'done', %s, 1, now() - interval '1 hour', now() FROM assets",
        (run_id,),
    )
    db.execute("SELECT pg_advisory_unlock(%s)", (runs.lock_key(run_id),))
    db.execute("ANALYZE")
    db.execute("SET statement_timeout = '5s'")
    view = view_of(db, run_id)
    assert (view["driver"], view["settled"], view["media_s"]) == (False, 20_000, 20_000.0)


def test_the_run_at_work_is_watched_even_when_a_later_one_has_ended(db):
    at_work, ended = new_run(db), new_run(db)
    runs.finish_run(db, ended, "done", {})
    assert status._chosen(db, None) == str(at_work)
    runs.finish_run(db, at_work, "done", {})
    assert status._chosen(db, None) == str(ended)


def test_what_registration_settled_counts_among_the_planned(db):
    run_id = new_run(db)
    runs.set_planned(db, run_id, 3, {"media_s": 60.0, "lanes": dict.fromkeys(PRINTS, 1), "settled": 2})
    commit(db, run_id, "done", {"decode": 1.0})
    assert "3 assets planned · 3 settled" in status.run_line(view_of(db, run_id))


def test_lanes_count_every_asset_under_the_settings_in_force(db):
    run_id = planned_run(db, 1, 60.0)
    commit(db, run_id, "done", {"decode": 1.0})
    new_asset(db, "new", duration_ms=120_000)
    new_asset(db, "mute", audio_stream=None)
    new_asset(db, "broken", media_kind=None, audio_stream=None, duration_ms=None)
    table = {row["lane"]: row for row in progress.lane_table(db, PRINTS)}
    speech = table["speech"]
    assert [speech[name] for name in (*progress.STATES, "total")] == [1, 1, 0, 1, 1, 4]
    assert (speech["done_ms"], speech["total_ms"]) == (60_000, 180_000)
    other = progress.lane_table(db, {"speech": "other settings"})[0]
    assert (other["done"], other["pending"]) == (0, 2)
    totals = {**report.totals(db), **progress.source_counts(db)}
    assert any("0.02 of 0.05" in line for line in status.corpus_lines(totals, list(table.values())))


def test_another_process_watches_a_run_that_works(corpus_url, media):
    told = {}

    def look() -> None:
        told.update(json.loads(rushes("status", "--json", url=corpus_url).stdout))
        told["view"] = json.loads(rushes("status", told["runs"][0]["run_id"][:8], "--json", url=corpus_url).stdout)

    summary = run(corpus_url, [str(media / "call.wav")], reporter=Meanwhile(look), force=True)
    assert told["view"]["run_id"] == summary.run_id
    assert (told["view"]["state"], told["view"]["driver"], told["view"]["planned"]) == ("running", True, 1)
    assert {row["lane"]: row["total"] for row in told["view"]["lanes"]} == dict.fromkeys(PRINTS, 1)
    assert {row["lane"]: row["pending"] for row in told["lanes"]} == {**dict.fromkeys(PRINTS, 1), "frames": 0}
    ended = rushes("status", summary.run_id[:8], "--watch", url=corpus_url)
    assert ended.returncode == 0
    assert "done: 1 assets planned · 1 ok · 0 failed · 0 skipped" in ended.stdout


def test_a_watch_ends_with_the_run_or_with_its_driver(monkeypatch):
    monkeypatch.setattr(status, "LIVE_EVERY_S", 0.0)
    views = [{"state": state, "driver": True} for state in ("running", "running", "done")]
    shown = []
    last = status._until_ended(iter(views).__next__, shown.append, 0.0)
    assert (last, len(shown)) == (views[2], 2)
    monkeypatch.setattr(status, "GONE_AFTER_S", 0.0)
    gone = {"state": "running", "driver": False}
    assert status._until_ended(lambda: gone, shown.append, 60.0) == gone


def test_a_watch_outlasts_a_restart_of_the_database(capsys, monkeypatch):
    monkeypatch.setattr(status, "LIVE_EVERY_S", 0.0)
    looks = []

    def look(conn, run_id):
        looks.append(run_id)
        if len(looks) == 1:
            server.stop()
            server.start()
        return progress.run_view(conn, report.find_run(conn, run_id))

    with own_server() as server:
        monkeypatch.setenv("RUSHES_DATABASE_URL", server.url)
        with open_connection(server.url) as conn:
            migrate(conn)
            runs.start_run(conn, uuid.uuid4(), "ingest", {})
            run_id = report.runs_table(conn)[0]["run_id"]
            runs.finish_run(conn, uuid.UUID(run_id), "done", {"ok": 0})
        monkeypatch.setattr(status, "_view", look)
        status.status(watch=True)
    assert looks == [run_id, run_id]
    assert "done: 0 assets planned · 0 ok" in capsys.readouterr().out


def test_a_database_that_was_away_for_long_says_nothing_of_the_driver(monkeypatch):
    monkeypatch.setattr(status, "time", clock := SimpleNamespace(now_s=0.0, sleep=lambda seconds: None))
    clock.monotonic = lambda: clock.now_s
    views = iter([{"state": "running", "driver": False}, {"state": "done", "driver": True}])

    def look():
        clock.now_s += 1.5 * status.GONE_AFTER_S
        return next(views)

    assert status._until_ended(look, lambda view: None, 60.0)["state"] == "done"
