"""The benchmarks at the smallest size: what they count is right, whatever the seconds are."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from PIL import Image

from benchmarks.altered import PICTURES
from benchmarks.bulk_write import measure as measure_writes
from benchmarks.corpus import build
from benchmarks.duplicates import Archive, candidates, lookup_times, measure_pictures, score
from benchmarks.ingest import INLINE, ROOT, Place, measure, row_differences, second_run, warm_voices
from benchmarks.ingest_run import PLAIN
from benchmarks.picture_corpus import write_pictures
from benchmarks.picture_steps import Steps
from benchmarks.process_tree import Look, Meter, adopt_orphans, descendants
from benchmarks.report import at_least, at_most, exactly
from benchmarks.voices import Bench, cut
from benchmarks.voices import measure as measure_voices
from cluster.settings import load_settings
from tests.archive import read_call
from tests.film_factory import scene
from tests.media_factory import write_wav
from tests.tiny_clip import tiny_clip

# Burns CPU in a daemon: its parent is gone, and whoever might wait for it lets the kernel reap it.
DAEMON = """
import os, signal, sys, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        held = bytearray(os.urandom(1)) * (150 << 20)
        while time.process_time() < 0.8:
            pass
        open(sys.argv[1], "w").close()
        time.sleep(60)
    os._exit(0)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
time.sleep(1.2)
"""


def test_the_meter_counts_a_daemon_that_nobody_waits_for_and_ends_it(tmp_path):
    before = adopt_orphans(False)
    with Meter() as meter:
        ended = meter.run(
            [sys.executable, "-c", textwrap.dedent(DAEMON), str(tmp_path / "x")], os.environ, tmp_path / "log"
        )
        assert any(process.key not in meter._before for process in descendants())
    assert ended.code == 0
    assert ended.cpu_s < 0.7 < meter.spent(ended.started_s, ended.ended_s)["cpu_s"]
    assert meter.peak_pss()["others"] > 0.14
    patience = time.monotonic() + 10
    while any(process.key not in meter._before and process.state != "Z" for process in descendants()):
        assert time.monotonic() < patience
        time.sleep(0.05)
    assert adopt_orphans(before) is False


def test_what_was_spent_between_two_looks_is_shared_out_by_time():
    meter, driver, worker, server = Meter(), (1, 0), (2, 0), (3, 0)
    meter._kinds = {driver: "driver", worker: "workers", server: "database"}
    meter.looks = [
        Look(10.0, {driver: 1.0}, 100.0, {driver: 3 << 30, server: 9 << 30}),
        Look(12.0, {driver: 2.0, worker: 2.0}, 105.0, {driver: 1 << 30, worker: 1 << 30}),
    ]
    spent = meter.spent(10.0, 11.0)
    assert spent == {
        "wall_s": 1.0, "cpu_s": 1.5, "cpu_s_by": {"driver": 0.5, "workers": 1.0}, "foreign_cores": 1.0,
    }  # fmt: skip
    assert meter.peak_pss() == {"driver": 3.0, "all": 3.0}


def test_a_longer_corpus_begins_with_a_shorter_one_and_repeats_no_file(tmp_path):
    def hashes(minutes: float) -> list[str]:
        folder = tmp_path / str(minutes)
        length_s = build(folder, minutes)
        assert minutes * 60 <= length_s < minutes * 60 + 120
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())]

    short, long = hashes(1.0), hashes(4.0)
    assert long[: len(short)] == short
    assert len(set(long)) == len(long) > len(short)


def test_plain_processes_give_the_rows_of_the_inline_runner_and_the_second_run_finds_nothing(server_url, tmp_path):
    media, call = tmp_path / "media", read_call()
    media.mkdir()
    for number in range(2):
        write_wav(media / f"{number}.wav", call[number * 96_000 : (number + 1) * 96_000], 16_000)
    place = Place(server_url, tmp_path, media, media)
    inline, plain = (measure(place, f"bench_{runner}", runner, media) for runner in (INLINE, PLAIN))
    assert row_differences([inline, plain]) == 0
    assert inline.figures["ok"] == plain.figures["ok"] == 2
    assert inline.figures["stage_cpu_s"]["transcribe"] > 0
    assert plain.figures["work"]["cpu_s_by"]["workers"] > plain.figures["work"]["cpu_s_by"].get("driver", 0)
    assert second_run(place, plain)["model_libraries_imported"] == []
    warm = warm_voices(place, inline)
    assert warm["from_cache"] == warm["voices"] - warm["without_vector"] > 0
    assert (warm["model_calls"], warm["cold"]["model_calls"] > 0) == (0, True)


def test_every_way_to_write_gives_the_same_rows_and_the_staged_one_may_run_twice(db):
    found = measure_writes(db, rows=300, single_rows=50, rounds=1)
    assert found["staged_twice"]["unchanged"]
    assert found["targets"]["staged_twice_unchanged"]["met"]
    equal = db.execute("SELECT count(*) FROM bare JOIN keyed USING (id) WHERE bare.embedding = keyed.embedding")
    assert equal.fetchone() == (300,)


@pytest.fixture
def bench(db_url, tmp_path):
    bench = Bench(db_url, tmp_path / "cache")
    yield bench
    bench.close()


def test_four_ways_to_the_same_voices_and_the_cached_one_calls_no_model(bench, tmp_path):
    pause = np.zeros(2 * 16_000, np.int16)
    audio = np.concatenate([part for number in range(4) for part in (read_call()[number * 80_000 :][:64_000], pause)])
    asset = bench.asset(tmp_path / "call.flac", audio)
    found = measure_voices(bench, [asset], rounds=1)
    calls = {name: way["model_calls"] for name, way in found["ways"].items()}
    assert found["segments"] == calls["by_seek"] == calls["one_by_one"] > calls["batched"] > calls["cached"] == 0
    assert found["agreement"]["greatest_difference"] < 1e-4
    assert found["agreement"]["least_cosine"] > 0.99999
    start, end = asset.spans[-1]
    assert np.array_equal(cut(asset.path, start, end), audio[start:end])


def test_recall_and_precision_of_duplicates_are_counted_by_pair(db, reader, tmp_path):
    sources = []
    for number in range(2):
        sources.append(tmp_path / f"{number}.png")
        Image.fromarray(next(scene(number, 1))).save(sources[-1])
    found = measure_pictures(Archive(db, reader), tmp_path, sources)
    assert (found["originals"], found["copies"], found["wrong_pairs"]) == (2, 2 * len(PICTURES), 0)
    assert (found["recall"]["resize to 50 %"], found["recall"]["mirror"]) == (1, 0)
    made = {"a1": ("a", "cut"), "a2": ("a", "turned"), "b1": ("b", "cut")}
    scored = score([frozenset(("a", "a1")), frozenset(("a1", "a2")), frozenset(("a1", "b1"))], made)
    assert scored["recall"] == {"cut": 0.5, "turned": 0}
    assert (scored["wrong"], scored["precision"]) == ([["a1", "b1"]], 0.6667)


def test_a_lookup_of_hashes_finds_what_a_scan_finds(db):
    found = lookup_times(db, 2_000, np.random.default_rng(1))
    assert found["hashes"] == 2_000
    assert candidates([0, 0xFFFF, 2**64 - 1])["share_of_rows"] == pytest.approx(2 / 3, abs=1e-4)


def test_each_step_of_a_picture_is_timed_beside_a_prepared_corpus(db_url, db, tmp_path):
    image = {"weights": f"path:{tiny_clip(tmp_path / 'clip')}", "architecture": str(tmp_path / "clip" / "tiny.json")}
    steps = Steps(db_url, load_settings(None, database_url=db_url, data_dir=tmp_path / "data", image=image), 100)
    found = steps.measure(write_pictures(tmp_path / "pictures", 3))
    steps.close()
    assert found["assets"] == 2
    parts = ("register", "pictures", "thumbnails", "images", "commit", "duplicate_lookup")
    assert all(found[name]["p95_ms"] > 0 for name in (*parts, "cluster_decision"))
    assert found["whole"]["p95_ms"] > max(found[name]["p50_ms"] for name in parts)
    counts = "SELECT (SELECT count(*) FROM frames), (SELECT count(*) FROM visual_members)"
    assert db.execute(counts).fetchone() == (103, 103)


def test_a_trial_leaves_its_result_where_it_is_told_to(tmp_path):
    words = "from benchmarks.report import write_result; write_result('trial', {'n': 1})"
    subprocess.run(
        [sys.executable, "-c", words], env={**os.environ, "BENCH_RESULTS": str(tmp_path / "out")}, cwd=ROOT, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert json.loads((tmp_path / "out" / "trial.json").read_text())["n"] == 1
    assert not (ROOT / "benchmarks" / "results" / "trial.json").exists()


def test_a_target_says_whether_it_is_met():
    assert [at_most(1.1, 1.1)["met"], at_most(1.1, 1.11)["met"]] == [True, False]
    assert [at_least(20, 20.0)["met"], at_least(20, 19.9)["met"]] == [True, False]
    assert [exactly([], [])["met"], exactly(0, 1)["met"]] == [True, False]
