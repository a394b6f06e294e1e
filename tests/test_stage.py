"""How a stage is run over rows: who is served, who is charged, and what every row comes out with."""

from __future__ import annotations

import pyarrow as pa
import pytest

from cluster.errors import BadMediaError
from cluster.stage import ColumnError, check_columns, run_stage, run_stages
from cluster.types import COLUMNS, ROW, errors_of, rows_table, with_column


class Double:
    """Doubles `duration_ms` into `voice_cache_hits`; fails on the asset ids it is told to."""

    name = "double"
    version = 1
    lanes = frozenset({"speech"})
    needs = ("duration_ms",)
    adds = ("voice_cache_hits",)
    drops = ("outcome",)

    def __init__(self, bad=(), error=BadMediaError):
        self.bad = set(bad)
        self.error = error
        self.batches = []

    def process(self, table):
        ids = table["asset_id"].to_pylist()
        self.batches.append(ids)
        if self.bad & set(ids):
            raise self.error(f"cannot read {sorted(self.bad & set(ids))}")
        return with_column(table, "voice_cache_hits", [2 * value for value in table["duration_ms"].to_pylist()])


class Texts(Double):
    name = "texts"
    lanes = frozenset({"texts"})
    needs = ("voice_cache_hits",)
    adds = ("audio_sha256",)
    drops = ()

    def process(self, table):
        self.batches.append(table["asset_id"].to_pylist())
        return with_column(table, "audio_sha256", ["x"] * table.num_rows)


def rows(size, lanes=("speech",), first=10):
    return rows_table([{"asset_id": first + row, "duration_ms": row, "lanes": list(lanes)} for row in range(size)])


def errors(table):
    return {
        asset_id: (error["failure"], error["stage"], error["message"])
        for asset_id, error in zip(table["asset_id"].to_pylist(), table["error"].to_pylist(), strict=True)
        if error
    }


def test_every_row_comes_out_in_its_place():
    out = run_stage(Double(), rows(4))
    assert out["asset_id"].to_pylist() == [10, 11, 12, 13]
    assert out["voice_cache_hits"].to_pylist() == [0, 2, 4, 6]
    assert out.column_names == [*ROW, "voice_cache_hits"]


def test_only_rows_of_its_lanes_are_handed_over_and_the_order_stays():
    table = with_column(rows(5), "lanes", [["texts"], ["speech"], None, ["texts", "speech"], []])
    stage = Double()
    out = run_stage(stage, table)
    assert stage.batches == [[11, 13]]
    assert out["asset_id"].to_pylist() == [10, 11, 12, 13, 14]
    assert out["voice_cache_hits"].to_pylist() == [None, 2, None, 6, None]
    assert out["duration_ms"].to_pylist() == [0, 1, 2, 3, 4]


def test_no_row_wanted_no_call_but_typed_nulls():
    stage = Double()
    out = run_stage(stage, rows(2, lanes=["texts"]))
    assert stage.batches == []
    assert out["voice_cache_hits"].to_pylist() == [None, None]
    assert out.schema.field("voice_cache_hits").type == COLUMNS["voice_cache_hits"]
    assert out["timings"].to_pylist() == [None, None]


def test_a_value_loaded_before_stays_with_rows_of_other_lanes():
    table = with_column(rows(2), "voice_cache_hits", [77, None])
    table = with_column(table, "lanes", [["texts"], ["speech"]])
    assert run_stage(Double(), table)["voice_cache_hits"].to_pylist() == [77, 2]


@pytest.mark.parametrize("bad", [{10}, {13}, {16}, {11, 15}, set(range(10, 17))])
def test_only_the_failing_rows_are_charged(bad):
    out = run_stage(Double(bad), rows(7))
    assert out["asset_id"].to_pylist() == list(range(10, 17))
    assert errors(out) == {row: ("bad_media", "double", f"cannot read [{row}]") for row in bad}
    assert out["voice_cache_hits"].to_pylist() == [None if 10 + row in bad else 2 * row for row in range(7)]
    assert out.schema.field("voice_cache_hits").type == COLUMNS["voice_cache_hits"]
    assert out.schema.field("error").type == COLUMNS["error"]


def test_one_bad_row_of_many_costs_few_calls():
    stage = Double({40})
    run_stage(stage, rows(64))
    assert len(stage.batches) == 1 + 2 * 6


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (MemoryError, "resource"),
        (TimeoutError, "timeout"),
        (ConnectionResetError, "transient"),
        (KeyError, "bug"),
    ],
)
def test_the_kind_of_failure_is_on_record(error, failure):
    out = run_stage(Double({10}, error), rows(1))
    assert out["error"][0].as_py()["failure"] == failure


def test_an_interrupt_is_nobodys_failure():
    with pytest.raises(KeyboardInterrupt):
        run_stage(Double({10}, KeyboardInterrupt), rows(2))


def test_a_failed_row_is_not_handed_to_what_reads_its_output():
    texts = Texts()
    out = run_stages([Double({11}), texts], rows(3, lanes=["speech", "texts"]))
    assert texts.batches == [[10, 12]]
    assert out["audio_sha256"].to_pylist() == ["x", None, "x"]
    assert set(errors(out)) == {11}


def test_each_lane_keeps_the_cause_of_its_own_failure():
    class First(Double):
        name, lanes = "texts", frozenset({"texts"})

    class Second(Double):
        name, lanes = "voices", frozenset({"texts", "voices"})

    table = rows(1, lanes=["speech", "texts", "voices"])
    out = run_stages([Double(), First({10}, KeyError), Second({10}, MemoryError)], table)
    found = [(one["stage"], one["failure"], one["lanes"]) for one in errors_of(out["error"][0].as_py())]
    assert found == [("texts", "bug", ["texts"]), ("voices", "resource", ["voices"])]
    assert out.schema.field("error").type == COLUMNS["error"]


def test_a_fault_of_the_surroundings_is_not_sought_in_the_rows():
    class AwayError(BadMediaError):
        about_rows = False

    stage = Double({10, 13}, AwayError)
    out = run_stage(stage, rows(4))
    assert stage.batches == [[10, 11, 12, 13]]
    assert set(errors(out)) == {10, 11, 12, 13}


def test_an_exit_is_a_fault_like_any_other():
    out = run_stage(Double({10}, SystemExit), rows(2))
    assert [error and error["failure"] for error in out["error"].to_pylist()] == ["bug", None]


def test_drops_are_dropped_from_every_row():
    table = with_column(rows(3), "outcome", ["a", "b", "c"])
    table = with_column(table, "lanes", [["speech"], ["texts"], ["speech"]])
    assert "outcome" not in run_stage(Double({12}), table).column_names
    assert "outcome" not in run_stage(Double(), rows(1)).column_names


def test_time_is_booked_on_the_rows_that_were_worked_on():
    table = with_column(rows(3, lanes=["speech", "texts"]), "lanes", [["speech"], ["texts"], ["speech", "texts"]])
    out = run_stages([Double(), Texts()], table)
    booked = [[entry["stage"] for entry in row or ()] for row in out["timings"].to_pylist()]
    assert booked == [["double"], ["texts"], ["double", "texts"]]
    assert all(entry["seconds"] >= 0 for row in out["timings"].to_pylist() for entry in row)
    assert out.schema.field("timings").type == COLUMNS["timings"]


@pytest.mark.parametrize("wrong", [lambda table: table.take([1, 0]), lambda table: table.slice(1)])
def test_a_stage_that_changes_the_rows_is_caught(wrong):
    class Shuffle(Double):
        def process(self, table):
            return wrong(super().process(table))

    with pytest.raises(AssertionError, match=r"stage double changed the rows: \[10, 11\] in"):
        run_stage(Shuffle(), rows(2))


def test_audio_survives_a_row_of_another_lane():
    audio = pa.array([[1, 2, 3], None, [4]], COLUMNS["audio"])
    table = with_column(with_column(rows(3), "audio", audio), "lanes", [["speech"], ["texts"], ["speech"]])
    out = run_stage(Double({12}), table)
    assert out["audio"].to_pylist() == [[1, 2, 3], None, [4]]
    assert out.schema.field("audio").type == COLUMNS["audio"]


def test_columns_after_a_chain():
    assert check_columns([Double(), Texts()], [*ROW, "outcome"]) == {*ROW, "voice_cache_hits", "audio_sha256"}


def test_a_missing_column_is_named_before_anything_runs():
    with pytest.raises(ColumnError, match=r"stage texts needs \['voice_cache_hits'\].*before it"):
        check_columns([Texts(), Double()], ROW)


def test_a_column_must_be_declared():
    class Odd(Double):
        adds = ("mood",)

    with pytest.raises(ColumnError, match=r"mood.*cluster/types\.py"):
        check_columns([Odd()], ROW)


def test_a_message_that_no_database_takes_is_told_all_the_same():
    class Garbled(Double):
        def process(self, table):
            raise BadMediaError("tag \udcff of a\0b")

    out = run_stage(Garbled(), rows_table([{"asset_id": 1, "lanes": ["speech"]}]))
    assert out["error"][0].as_py()["message"] == "tag ? of a\N{REPLACEMENT CHARACTER}b"
