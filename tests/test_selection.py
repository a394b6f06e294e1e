"""What the flags of a bulk command mean."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cluster.errors import UsageError
from cluster.lanes import LANES, digest, fingerprints, parse_lanes
from cluster.selection import parse_failure_limit, parse_when

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20260131", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T10:00:00+02:00", datetime(2026, 1, 31, 8, tzinfo=UTC)),
        ("30d", datetime(2026, 2, 8, 12, tzinfo=UTC)),
        ("12h", datetime(2026, 3, 10, 0, tzinfo=UTC)),
    ],
)
def test_times_are_read_as_people_write_them(text, expected):
    assert parse_when(text, NOW, "--since") == expected


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "", "3w"])
def test_an_unreadable_time_names_the_flag_and_the_forms(text):
    with pytest.raises(UsageError, match=r"--since .*YYYYMMDD"):
        parse_when(text, NOW, "--since")


def test_a_percentage_counts_only_after_a_hundred():
    limit = parse_failure_limit("5%")
    assert not limit.exceeded(50, 99)
    assert limit.exceeded(6, 100)
    assert not limit.exceeded(5, 100)
    assert parse_failure_limit("2").exceeded(3, 3)
    assert not parse_failure_limit(None).exceeded(10**6, 10**6)
    for text in ("-1", "many", "5.5", "%"):
        with pytest.raises(UsageError):
            parse_failure_limit(text)


def test_lanes_come_in_their_order_and_unknown_ones_are_named():
    assert parse_lanes("texts, speech") == ("speech", "texts")
    assert parse_lanes(None) == LANES
    assert parse_lanes(None, ("frames", "speech")) == ("speech", "frames")
    with pytest.raises(UsageError, match="lane images is off: the profile has no image model"):
        parse_lanes("speech,images", ("speech", "frames"))
    with pytest.raises(UsageError, match="musik"):
        parse_lanes("speech,musik")
    with pytest.raises(UsageError):
        parse_lanes("")


def test_a_new_text_model_changes_texts_alone_and_a_new_transcriber_changes_all():
    base = {"speech": [{"m": 1}], "voices": [{"m": 1}], "texts": [{"m": 1}]}
    first = fingerprints(base)
    text = fingerprints({**base, "texts": [{"m": 2}]})
    assert {lane for lane in first if first[lane] != text[lane]} == {"texts"}
    speech = fingerprints({**base, "speech": [{"m": 2}]})
    assert {lane for lane in first if first[lane] != speech[lane]} == {"speech", "voices", "texts"}
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
