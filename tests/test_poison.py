"""Files that kill, hang, raise or exhaust memory fail alone, with their class, and can be tried again.

Most of this runs on the worker: the driver and one process that holds the models and may die. The last
test does the same on Ray.
"""

from __future__ import annotations

import json
from collections import Counter

import pytest

from cluster.db import report
from cluster.db.check import check_corpus
from cluster.db.connect import open_connection
from cluster.faults import VARIABLE
from cluster.plan import blocks_at_hand
from tests.archive import read_call, run
from tests.media_factory import write_wav
from tests.test_hostile_changes import Meanwhile

pytestmark = pytest.mark.ray_process
CLIP = 5 * 16_000
# name -> (fault point, action, class it must end with, lanes that still get done)
POISON = {
    "kills-reader": ("reading", "kill", "crash", ()),
    "hangs-reader": ("reading", "hang", "timeout", ()),
    "kills-actor": ("before_transcribe", "kill", "crash", ()),
    "kills-voices": ("before_voices", "kill", "crash", ("speech", "texts")),
    "hangs-actor": ("before_diarize", "hang", "timeout", ()),
    "raises": ("before_segments", "raise", "bug", ()),
    "exits": ("before_texts", "exit", "bug", ("speech", "voices")),
    "exhausts": ("before_speech_activity", "memory", "resource", ()),
}
ATTEMPTS = {"crash": 2, "timeout": 3, "bug": 1, "resource": 3}
# It waits for its deadline, then for models to load: the reader's hang shows that there are three attempts.
SLOWEST = "hangs-actor"
NEIGHBOURS = ("first", "last")
# Long enough for the slowest stage on a busy machine, short enough to wait for.
HURRY = {"stage_base_s": 12.0, "stage_s_per_hour": 1.0, "decode_base_s": 3.0, "decode_s_per_hour": 1.0}


def write_clips(folder, names):
    folder.mkdir()
    call = read_call()
    for number, name in enumerate(names):
        write_wav(folder / f"{name}.wav", call[(3 + number) * 16_000 :][:CLIP], 16_000)
    return folder


def arm(monkeypatch, folder, poison):
    faults = [
        {"point": point, "action": action, "folder": str(folder / name), "always": True, "match": f"/{name}.wav"}
        for name, (point, action, _, _) in poison.items()
    ]
    monkeypatch.setenv(VARIABLE, json.dumps(faults))


def already_charged(url, attempts):
    """A reporter that charges the slowest of them with attempts that it had before."""

    def charge():
        with open_connection(url) as conn:
            conn.execute(
                "UPDATE units SET attempts = %s FROM asset_names n WHERE n.asset_id = units.asset_id"
                " AND lane = 'speech' AND starts_with(reverse(n.name), reverse(%s))",
                (attempts, f"/{SLOWEST}.wav"),
            )

    return Meanwhile(charge)


def failed(url):
    with open_connection(url) as conn:
        rows = report.open_failures(conn, report.FailureFilter())
    return {(row["uri"].rpartition("/")[2].removesuffix(".wav"), row["lane"], row["failure"]) for row in rows}


def done(url):
    with open_connection(url) as conn:
        assert not any(check_corpus(conn).values())
        rows = conn.execute(
            "SELECT name, lane FROM units JOIN asset_names USING (asset_id) WHERE state = 'done'"
        ).fetchall()
    return {(name.rpartition("/")[2].removesuffix(".wav"), lane) for name, lane in rows}


def attempts(url):
    with open_connection(url) as conn:
        return Counter(
            name.rpartition("/")[2].removesuffix(".wav")
            for (name,) in conn.execute("SELECT name FROM failures JOIN asset_names USING (asset_id)")
        )


def expected_failures(poison):
    lost = {"reading": "speech", "before_voices": "voices", "before_texts": "texts"}
    return {(name, lost.get(point, "speech"), failure) for name, (point, _, failure, _) in poison.items()}


def expected_done(poison, neighbours=NEIGHBOURS):
    whole = {(name, lane) for name in neighbours for lane in ("speech", "voices", "texts")}
    return whole | {(name, lane) for name, (_, _, _, lanes) in poison.items() for lane in lanes}


@pytest.mark.timeout(900)
def test_poison_fails_alone_and_can_be_tried_again(db_url, tmp_path, monkeypatch):
    files = write_clips(tmp_path / "media", [NEIGHBOURS[0], *POISON, NEIGHBOURS[1]])
    arm(monkeypatch, tmp_path, POISON)
    summary = run(db_url, [str(files)], {"runner": "worker", **HURRY}, already_charged(db_url, 2))
    assert (summary.exit_code, summary.ok, summary.failed) == (3, len(NEIGHBOURS), len(POISON))
    assert failed(db_url) == expected_failures(POISON)
    assert done(db_url) == expected_done(POISON)
    recorded = attempts(db_url)
    for name, (point, _, failure, _) in POISON.items():
        # A death of the model process is forgiven once without a record: nobody knows yet whose fault it was.
        alone = failure == "crash" and point != "reading"
        assert recorded[name] == (1 if alone or name == SLOWEST else ATTEMPTS[failure]), name
    with open_connection(db_url) as conn:
        charged = "SELECT count(*) FROM units WHERE attempts > 0 AND state <> 'failed'"
        assert conn.execute(charged).fetchone() == (0,)

    monkeypatch.delenv(VARIABLE)
    with open_connection(db_url) as conn:
        rows = report.open_failures(conn, report.FailureFilter(failure="crash"))
    crashes = {name for name, (_, _, failure, _) in POISON.items() if failure == "crash"}
    uris = [row["uri"] for row in rows]
    units = frozenset((row["asset_id"], row["lane"]) for row in rows)
    again = run(db_url, uris, retry_units=units)
    assert (again.exit_code, again.ok) == (0, len(crashes))
    assert {name for name, _, _ in failed(db_url)} == set(POISON) - crashes
    rest = run(db_url, [str(files)], retry_failed=True)
    assert (rest.exit_code, rest.ok) == (0, len(POISON) - len(crashes))
    assert failed(db_url) == set()
    assert len(done(db_url)) == 3 * (len(POISON) + len(NEIGHBOURS))


@pytest.mark.timeout(900)
def test_on_ray_too(db_url, tmp_path, monkeypatch):
    poison = {name: POISON[name] for name in ("kills-actor", "hangs-actor", "exits")}
    names = ["first", "kills-actor", "second", "hangs-actor", "third", "exits", "fourth", "last"]
    files, healthy = write_clips(tmp_path / "media", names), [name for name in names if name not in poison]
    # A healthy file waits at the actor that dies, and nobody may hold that against it.
    assert blocks_at_hand([CLIP / 16_000] * len(names), 1) == 2
    arm(monkeypatch, tmp_path, poison)
    summary = run(db_url, [str(files)], {"runner": "ray", "cpus": 2, **HURRY}, already_charged(db_url, 1))
    assert (summary.exit_code, summary.ok, summary.failed) == (3, len(healthy), len(poison))
    assert failed(db_url) == expected_failures(poison)
    assert done(db_url) == expected_done(poison, healthy)
    recorded = attempts(db_url)
    assert (recorded[SLOWEST], set(recorded)) == (2, set(poison))
