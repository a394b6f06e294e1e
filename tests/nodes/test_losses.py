"""Nodes of a cluster are drained, lost, short of memory or an hour ahead: the run ends, and nobody is charged."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from benchmarks.chaos import verdict
from cluster.db.patience import DatabaseAwayError
from cluster.db.progress import run_view
from cluster.db.report import find_run
from jobs import ray_context
from tests.archive import read_call, run
from tests.media_factory import write_wav
from tests.nodes.cluster import ROOT
from tests.nodes.hosts import NoHostsError
from tests.nodes.light import CHAIN, READING
from tests.nodes.utility import CLOCK, Nodes, nodes
from tests.pg_server import line_to
from tests.s3_store import s3_store

pytestmark = pytest.mark.ray_process
LANES = ("speech", "voices", "texts")
CLIPS = 6
# Where a row of light stages spends its time.
SLOW = "transcribe"
# A row of a long one is under way for longer than a node that is drained, or lost, takes to go.
LONG_S, PACE = 8, "0.5"
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with nodes() as made:
        yield made


@pytest.fixture(autouse=True)
def _none_left(cluster: Nodes) -> Iterator[None]:
    """Each test has the nodes that it adds."""
    yield
    cluster.lose_all()


@pytest.fixture
def clips(tmp_path):
    folder, call = tmp_path / "media", read_call()
    folder.mkdir()
    for number in range(CLIPS):
        write_wav(folder / f"{number}.wav", call[number * 16_000 :][: (LONG_S if number < 3 else 2) * 16_000], 16_000)
    return folder


@contextmanager
def meanwhile(url: str, node_ids: Sequence[str], act: Callable[[], None]) -> Iterator[None]:
    """Do something as soon as these nodes are at work; what it raises comes out of the block."""
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            with psycopg.connect(url, autocommit=True) as conn:
                until(conn, AT_WORK, (SLOW, list(node_ids)), len(node_ids))
            act()
        except BaseException as error:  # noqa: BLE001 - told to whoever waits
            raised.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    yield
    thread.join(PATIENCE_S)
    assert not raised, raised


AT_WORK = "SELECT count(DISTINCT node) FROM crash_claims WHERE stage = %s AND node = ANY(%s)"


CLAIMED = "SELECT count(*) FROM crash_claims JOIN asset_names n USING (asset_id) WHERE stage = %s AND n.name LIKE %s"
# Ray looks ten times a second, and kills above 95 %.
MONITORED = {"RAY_memory_monitor_refresh_ms": "100"}


class Memory:
    """What a node reads as /proc/meminfo; its file is written in place, because it is mounted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(Path("/proc/meminfo").read_bytes())

    def run_out(self) -> None:
        """There is none left until a process that holds models is dead."""
        before = self.path.read_bytes()
        left = re.sub(rb"(Mem(Free|Available):|Buffers:|Cached:)( +)\d+", lambda m: m[1] + m[3] + b"1", before)
        self.path.write_bytes(left)
        deadline = time.monotonic() + PATIENCE_S
        while all(state == "ALIVE" for state in actor_states()):
            assert time.monotonic() < deadline, "nobody was killed"
            time.sleep(0.02)
        self.path.write_bytes(before)


def actor_states() -> list[str]:
    import ray

    actors = ray._private.state.actors().values()
    return [one["State"] for one in actors if one["ActorClassName"].startswith("MapWorker") and one["State"] != "DEAD"]


def until(conn: psycopg.Connection[Any], query: LiteralString, values: Sequence[Any], wanted: object) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while conn.execute(query, values).fetchone() != (wanted,):
        assert time.monotonic() < deadline, query
        time.sleep(0.02)


def ingested(url, clips, cluster, **flags):
    return run(url, [str(clips)], flags, chain=CHAIN, address=cluster.address, lanes=LANES)


def assert_all_done(url, summary):
    assert (summary.exit_code, summary.runner, summary.ok) == (0, "ray", CLIPS), summary.notes
    found = verdict(url)
    assert (found.broken, found.charges) == ([], {})


def test_drained_nodes_end_their_rows_if_they_are_left_the_time_and_the_rest_goes_elsewhere(
    cluster, clips, db, db_url, capfd
):
    left, taken, _ = (cluster.add(LIGHT_PACE=PACE) for _ in range(3))

    def take_back():
        cluster.drain(left, 0.5)
        cluster.drain(taken, 0.5)
        cluster.lose(taken)

    with meanwhile(db_url, [left, taken], take_back):
        summary = ingested(db_url, clips, cluster)
    assert_all_done(db_url, summary)
    assert cluster.alive().isdisjoint({left, taken})
    generations = db.execute("SELECT generation FROM units WHERE lane = 'speech' ORDER BY generation").fetchall()
    assert generations == [(1,)] * (CLIPS - 1) + [(2,)]
    assert capfd.readouterr().err == ""


def test_a_loss_that_leaves_no_room_ends_the_run_with_the_count(cluster, clips, db_url, monkeypatch):
    monkeypatch.setattr(ray_context, "watched", partial(ray_context.watched, room_wait_s=3.0))
    only = cluster.add(LIGHT_PACE=PACE)
    with meanwhile(db_url, [only], lambda: cluster.lose(only)):
        summary = ingested(db_url, clips, cluster)
    assert summary.exit_code == 1
    assert any("1 of 1 actors have waited 3 s for a node" in note for note in summary.notes), summary.notes
    cluster.add(LIGHT_PACE="0.01")
    again = ingested(db_url, clips, cluster)
    assert (again.exit_code, again.ok) == (0, CLIPS - summary.ok), again.notes
    found = verdict(db_url)
    assert (found.broken, found.charges) == ([], {})


def test_a_file_is_charged_only_when_memory_ends_under_it_once_more(cluster, clips, db, db_url, tmp_path):
    """Ray's own monitor kills: what the node reads of its memory is what the test writes."""
    memory = Memory(tmp_path / "meminfo")
    try:
        only = cluster.add_odd(f"mount --bind {memory.path} /proc/meminfo", LIGHT_PACE="0.3", **MONITORED)
    except NoHostsError as error:
        pytest.skip(f"no node can have a memory of its own here: {error}")
    deaths = []

    def run_out():
        with psycopg.connect(db_url, autocommit=True) as conn:
            for name, claims in (("0.wav", 1), ("1.wav", 1), ("1.wav", 2)):
                until(conn, CLAIMED, (SLOW, f"%/{name}"), claims)
                memory.run_out()
                deaths.append(name)

    with meanwhile(db_url, [only], run_out):
        summary = ingested(db_url, clips, cluster)
    assert deaths == ["0.wav", "1.wav", "1.wav"]
    assert (summary.exit_code, summary.ok, summary.failed) == (3, CLIPS - 1, 1), summary.notes
    [charge] = db.execute("SELECT uri, lane, failure, stage FROM failures").fetchall()
    assert charge == (str(clips / "1.wav"), "speech", "crash", SLOW)
    assert verdict(db_url).broken == []


def fault(folder: Path, point: str, action: str, **more: Any) -> dict[str, Any]:
    return {"point": point, "action": action, "folder": str(folder / point), **more}


def test_a_stage_that_exits_fails_its_row_and_the_actor_lives_on(cluster, clips, db, db_url, tmp_path):
    faults = [
        fault(tmp_path, "loading", "note", always=True),
        fault(tmp_path, f"before_{SLOW}", "exit", always=True, match="/0.wav"),
    ]
    cluster.add(LIGHT_PACE="0.01", RUSHES_FAULT=json.dumps(faults))
    summary = ingested(db_url, clips, cluster)
    assert (summary.exit_code, summary.ok, summary.failed) == (3, CLIPS - 1, 1), summary.notes
    assert db.execute("SELECT uri, failure FROM failures").fetchall() == [(str(clips / "0.wav"), "bug")]
    assert len(list((tmp_path / "loading").glob("visit-*"))) == 1


def test_a_node_whose_disk_is_full_costs_no_file_and_does_not_eat_the_queue(
    cluster, clips, db, db_url, tmp_path, monkeypatch, caplog
):
    """It fills up when the node was asked and found ready; a later pass asks again, and leaves it out."""
    cache, loading = tmp_path / "data" / "cache", tmp_path / "loading"
    cache.mkdir(parents=True)
    with s3_store() as store:
        for name, value in store.env.items():
            monkeypatch.setenv(name, value)
        for clip in clips.iterdir():
            store.put(f"calls/{clip.name}", clip.read_bytes())
        told = {**store.env, "LIGHT_PACE": "0.01", "LIGHT_ROOM_WAIT_S": "3"}
        noted = json.dumps(fault(tmp_path, "loading", "note"))
        try:
            full = cluster.add_odd(f"mount -t tmpfs -o size=1100k cache {cache}", RUSHES_FAULT=noted, **told)
        except NoHostsError as error:
            pytest.skip(f"no node can have a disk of its own here: {error}")
        cluster.add(**told)

        def fill():
            while not (loading / "happened.json").exists():
                time.sleep(0.01)
            cluster.fill(full, cache / "somebody-else")

        with meanwhile(db_url, [], fill):
            summary = run(
                db_url, ["s3://archive/calls/"], {"cache_bytes": 2**20},
                chain=READING, address=cluster.address, lanes=LANES,
            )  # fmt: skip
    assert (summary.exit_code, summary.ok, summary.failed) == (0, CLIPS, 0), summary.notes
    # What it took in the first pass it could not read; the next one went to the other node.
    tried = db.execute("SELECT uri, failure FROM failures").fetchall()
    assert tried
    assert len({uri for uri, _ in tried}) == len(tried) < CLIPS
    assert {failure for _, failure in tried} == {"resource"}
    assert "free at" in caplog.text
    assert "the others go on without it" in caplog.text


def test_a_database_that_stays_away_ends_the_run_with_a_line_and_the_next_one_completes_it(cluster, clips, db_url):
    only = cluster.add(LIGHT_PACE="0.1")
    with line_to(db_url) as line:
        with (
            pytest.raises(DatabaseAwayError, match=r"waited \d+ s for it \(RUSHES_DATABASE_WAIT_S\)"),
            meanwhile(db_url, [only], line.cut),
        ):
            ingested(line.url, clips, cluster, database_wait_s=3.0)
        line.open()
        summary = ingested(line.url, clips, cluster, database_wait_s=3.0)
    assert_all_done(db_url, summary)


def times(db: psycopg.Connection[Any]) -> list[tuple[str, str]]:
    """Every column of the ledger that holds a time the cluster writes."""
    return db.execute(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
        " AND data_type = 'timestamp with time zone' AND column_name NOT IN ('recorded_at', 'not_before')"
        " AND table_name IN ('units', 'runs', 'failures', 'assets', 'sources', 'crash_claims')"
    ).fetchall()


def test_a_node_an_hour_ahead_works_with_the_others_and_writes_no_time_of_its_own(cluster, clips, db, db_url, caplog):
    cluster.add(LIGHT_PACE="0.05", PYTHONPATH=f"{CLOCK}:{ROOT}", CLOCK_AHEAD_S="3600")
    cluster.add(LIGHT_PACE="0.05")
    before = db.execute("SELECT clock_timestamp()").fetchone()[0]
    with caplog.at_level(logging.WARNING):
        summary = ingested(db_url, clips, cluster)
    after = db.execute("SELECT clock_timestamp()").fetchone()[0]
    assert_all_done(db_url, summary)
    assert re.search(r"the database is 3[56]\d\d\.\d s behind this machine", caplog.text), caplog.text
    for table, column in times(db):
        query = f"SELECT count(*) FROM {table} WHERE {column} NOT BETWEEN %s AND %s"
        assert db.execute(query, (before, after)).fetchone() == (0,), (table, column)
    view = run_view(db, find_run(db, summary.run_id[:8]))
    assert 0 < view["elapsed_s"] <= (after - before).total_seconds()
    assert view["hours_per_hour_now"] == pytest.approx(view["hours_per_hour"])
