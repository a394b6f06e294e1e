"""Counts of a run, whatever comes back and how often."""

from __future__ import annotations

import pytest

from cluster.db.gc import Found
from jobs.cli import db
from jobs.gc import Unneeded
from jobs.summary import Summary, describe, size


def count(*outcomes):
    summary = Summary()
    for outcome in outcomes:
        error = {"message": "the database was away"} if outcome is None else None
        summary.count(came_back("speech", outcome, error))
    return summary


def came_back(root, outcome, error=None):
    about = {"asset_id": 1, "uri": "/a.wav", "duration_ms": 3_600_000, "root": root}
    return {**about, "outcome": outcome, "error": error}


@pytest.mark.parametrize(
    ("outcomes", "counts"),
    [
        (["done"], (1, 0, 0)),
        (["retry"], (0, 0, 0)),
        (["retry", "done"], (1, 0, 0)),
        (["retry", "failed"], (0, 1, 0)),
        (["failed", "done"], (0, 1, 0)),
        (["done", "done"], (1, 0, 0)),
        (["taken", "done"], (1, 0, 0)),
        (["fenced"], (0, 0, 1)),
        ([None, "done"], (1, 0, 0)),
        ([None], (0, 0, 0)),
    ],
)
def test_an_asset_is_counted_once_by_what_became_of_it(outcomes, counts):
    summary = count(*outcomes)
    assert (summary.ok, summary.failed, summary.skipped) == counts
    assert summary.media_h == counts[0]
    assert summary.finished == sum(counts)
    assert bool(summary.lost) == (outcomes == [None])


@pytest.mark.parametrize(
    ("outcomes", "counts"),
    [
        ([("speech", "done")], (0, 0, 0)),
        ([("speech", "done"), ("frames", "done")], (1, 0, 0)),
        ([("speech", "done"), ("frames", "retry")], (0, 0, 0)),
        ([("frames", "failed")], (0, 1, 0)),
        ([("frames", "failed"), ("speech", "done")], (0, 1, 0)),
        ([("speech", "done"), ("frames", "failed")], (0, 1, 0)),
        ([("speech", "done"), ("frames", "taken")], (0, 0, 1)),
        ([("frames", "done"), ("speech", None)], (0, 0, 0)),
    ],
)
def test_an_asset_with_sound_and_pictures_counts_once_both_are_settled(outcomes, counts):
    summary = Summary(parts={1: frozenset({"speech", "frames"})})
    for root, outcome in outcomes:
        summary.count(came_back(root, outcome, {"message": "away"}))
    assert (summary.ok, summary.failed, summary.skipped) == counts
    assert summary.media_h == counts[0]


@pytest.mark.parametrize(
    ("lanes", "way"),
    [
        (("texts",), ": add speech to --lanes"),
        (("images",), ": add frames to --lanes"),
        (("speech", "texts", "images"), ": add frames to --lanes"),
        (("speech", "texts"), ""),
    ],
)
def test_what_waits_for_a_parent_lane_is_told_which_one_to_add(lanes, way):
    told = describe(Summary(waiting=2, lanes=lanes))
    assert told[0] == f"2 asset(s) wait for a parent lane under these settings{way}"


@pytest.mark.parametrize(
    ("count_bytes", "words"), [(None, "-"), (40, "0.0 kB"), (400, "0.4 kB"), (31e6, "31.0 MB"), (1.24e9, "1.2 GB")]
)
def test_sizes_are_printed_in_one_way(count_bytes, words, capsys):
    assert size(count_bytes) == words
    db._print_unneeded(Unneeded([Found("space", "text space 9", 1, count_bytes or 0)], [], []))
    assert capsys.readouterr().out.splitlines()[-1].split("1 rows")[1].strip() == words
