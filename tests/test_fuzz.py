"""Damaged media, sixty files of it, through the command line; the long form is `python -m benchmarks.fuzz`."""

from __future__ import annotations

from random import Random

import pytest

from benchmarks.fuzz import ORIGINAL, build, outcomes, run_job, speech, tell
from benchmarks.mutate import MUTATORS
from cluster.db.check import check_corpus

FILES = 60
SEED = 20260
# What is damaged is the container: how hard the recogniser thinks about the sound does not matter.
QUICK = {"RUSHES_TRANSCRIBER_BEAM_SIZE": "1"}
CALM_BYTES = 512 * 2**20


def test_every_damaged_file_ends_as_something_known_and_the_run_goes_on(db_url, db, tmp_path):
    made = build(tmp_path, FILES, SEED, speech(1.0))
    job = run_job(tmp_path, {"RUSHES_DATABASE_URL": db_url, "RUSHES_RETRY_BASE_S": "0.05", **QUICK})
    assert (job.exit_code, job.summary["state"], job.summary["missing"]) == (3, "partial", 0), job.stderr
    ended = outcomes(db)
    figures = tell(made, ended, job)
    assert (figures["missing"], figures["bugs"], figures["without_reason"]) == ([], {}, [])
    assert {end.state for end in ended.values()} <= {"done", "failed", "skipped"}
    assert figures["by_mutator"][ORIGINAL] == {"done": sum(name.startswith(ORIGINAL) for name in made)}
    assert figures["outcomes"]["done"] > 30
    assert figures["outcomes"]["failed: bad_media"] > 10
    assert job.peak_bytes["media_child"] < CALM_BYTES
    assert not any(check_corpus(db).values())
    assert db.execute("SELECT count(*) FROM segments").fetchone()[0] > 30


@pytest.mark.parametrize("name", MUTATORS)
def test_a_mutator_is_pure_and_changes_the_content(name):
    data, other = bytes(range(256)) * 40 + b"\0\0\0\x20moovmvhd" + bytes(64), b"RIFF" + bytes(5000)
    once = [MUTATORS[name](Random(seed), data, other) for seed in range(20)]
    assert once == [MUTATORS[name](Random(seed), data, other) for seed in range(20)]
    assert sum(changed != data for changed in once) > 15
