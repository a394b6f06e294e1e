"""The stage protocol, and the one way to run a stage over a table of rows.

A stage is a plain class that turns rows into rows: same rows, same order, same ids. It may hold
a resident model. It knows nothing of Ray, of SQL, of other rows' errors or of lanes it does not
serve: `run_stage` hands it only rows that are sound and wanted, and gives the others typed nulls.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

from cluster.errors import FailureClass, classify
from cluster.faults import FaultPoint, reach
from cluster.guard import NO_GUARD, Guard
from cluster.lanes import children
from cluster.types import COLUMNS, add_error, error_record, errors_of, with_column

logger = logging.getLogger(__name__)
_POINTS = {point.value: point for point in FaultPoint}


class Stage(Protocol):
    """What every stage offers. The constructor is cheap; `load` brings the model.

    The properties are plain class attributes in the stages; nothing writes them.
    """

    @property
    def name(self) -> str:
        """Its name in timings, errors and fingerprints."""
        ...

    @property
    def version(self) -> int:
        """Goes up when the same input gives other output."""
        ...

    @property
    def lanes(self) -> frozenset[str]:
        """The lanes it serves."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns it reads."""
        ...

    @property
    def adds(self) -> tuple[str, ...]:
        """The columns it fills."""
        ...

    @property
    def drops(self) -> tuple[str, ...]:
        """The columns nobody needs after it."""
        ...

    def identity(self) -> dict[str, Any]:
        """What decides the output besides the input: model, revision, parameters. Loads nothing."""
        ...

    def load(self) -> None:
        """Bring the model into memory; called once per process, in the process that runs it."""

    def process(self, table: pa.Table) -> pa.Table:
        """Rows in, the same rows in the same order out, with `adds` filled."""
        ...

    def close(self) -> None:
        """Let go of models, child processes and connections; may be called twice."""


class ColumnError(ValueError):
    """A chain of stages asks for a column that nothing before it provides."""


def check_columns(stages: Iterable[Stage], available: Iterable[str]) -> frozenset[str]:
    """The columns after the chain; raises `ColumnError` before any actor starts."""
    columns = set(available)
    for stage in stages:
        missing = [name for name in stage.needs if name not in columns]
        unknown = [name for name in (*stage.needs, *stage.adds, *stage.drops) if name not in COLUMNS]
        if missing or unknown:
            raise ColumnError(
                f"stage {stage.name} needs {missing or unknown}, rows have {sorted(columns)}: "
                "put the stage that adds them before it, or declare the column in cluster/types.py"
            )
        columns = (columns | set(stage.adds)) - set(stage.drops)
    return frozenset(columns)


def run_stage(stage: Stage, table: pa.Table, guard: Guard = NO_GUARD) -> pa.Table:
    """Run one stage; every row comes out, with its id, in its place.

    A row passes by untouched when the stage serves none of its lanes, or only lanes that an earlier
    error blocks. An exception is charged to the row that causes it: a failing batch is halved until
    that row is alone, and its `error` then blocks the stage's lanes and their children. `guard` stands
    around each call.
    """
    if getattr(stage, "settles", False):
        guard = NO_GUARD
    started, halvings = time.perf_counter(), getattr(stage, "halvings", 0)
    wanted = _wanted(stage, table)
    picked = [row for row, yes in enumerate(wanted) if yes]
    parts = [_run_rows(stage, table, picked, guard)] if picked else []
    rest = [row for row, yes in enumerate(wanted) if not yes]
    if rest or not picked:
        parts.append(_with_nulls(stage, table.take(rest) if picked else table))
    order = picked + rest
    out = parts[0] if len(parts) == 1 else _joined(parts)
    if order != sorted(order):
        out = out.take(sorted(range(len(order)), key=order.__getitem__))
    halvings = getattr(stage, "halvings", 0) - halvings
    return _timed(stage, out, wanted, time.perf_counter() - started, halvings)


def load_stages(stages: Iterable[Stage]) -> None:
    """Load every stage, then pin BLAS to one thread for the whole process.

    How many threads share a matrix product decides its last bits, and the recogniser's word times
    follow: with one thread the same input gives the same rows under every runner. The models have
    thread pools of their own.
    """
    from threadpoolctl import threadpool_limits

    for stage in stages:
        stage.load()
    threadpool_limits(limits=1, user_api="blas")


def run_stages(stages: Sequence[Stage], table: pa.Table, guard: Guard = NO_GUARD) -> pa.Table:
    """Run a group of stages over one table, in order."""
    for stage in stages:
        table = run_stage(stage, table, guard)
    return table


def _wanted(stage: Stage, table: pa.Table) -> list[bool]:
    # The claim and the commit settle every row's units, failed rows included.
    if getattr(stage, "settles", False):
        return [True] * table.num_rows
    lanes = table.column("lanes").to_pylist()
    errors = table.column("error").to_pylist()
    return [
        bool(stage.lanes & (set(row or ()) - _blocked(error, row))) for row, error in zip(lanes, errors, strict=True)
    ]


def _blocked(error: Mapping[str, Any] | None, lanes: Iterable[str] | None) -> set[str]:
    """The lanes that the row's errors block."""
    every = set(lanes or ())
    return set().union(*(every if one["lanes"] is None else one["lanes"] for one in errors_of(error)))


def _run_rows(stage: Stage, table: pa.Table, rows: list[int], guard: Guard) -> pa.Table:
    part = table if len(rows) == table.num_rows else table.take(rows)
    try:
        with guard.watch(stage.name, part):
            _reach(stage, part)
            out = stage.process(part)
    # Ray leaves an actor that exits in its pool, dead, and waits for it: an exit is a fault like any other.
    except (Exception, SystemExit) as error:  # noqa: BLE001 - any fault of a stage becomes data on its row
        if len(rows) == 1:
            return _failed(stage, part, error)
        if not getattr(error, "about_rows", True):
            return _joined(_failed(stage, part.slice(row, 1), error) for row in range(part.num_rows))
        half = len(rows) // 2
        return _joined(_run_rows(stage, table, some, guard) for some in (rows[:half], rows[half:]))
    _check(stage, part, out)
    return out.drop_columns([name for name in stage.drops if name in out.column_names]).select(
        _names_after(stage, table)
    )


def _joined(parts: Iterable[pa.Table]) -> pa.Table:
    return pa.concat_tables(list(parts), promote_options="none")


def _reach(stage: Stage, part: pa.Table) -> None:
    point = _POINTS.get(f"before_{stage.name}")
    if point is not None:
        for uri in part.column("uri").to_pylist():
            reach(point, uri or "")


def _names_after(stage: Stage, table: pa.Table) -> list[str]:
    names = [*table.column_names, *(name for name in stage.adds if name not in table.column_names)]
    return [name for name in names if name not in stage.drops]


def _check(stage: Stage, before: pa.Table, after: pa.Table) -> None:
    if not after.column("asset_id").equals(before.column("asset_id")):
        raise AssertionError(
            f"stage {stage.name} changed the rows: {before.column('asset_id').to_pylist()} in, "
            f"{after.column('asset_id').to_pylist()} out"
        )
    for name in stage.adds:
        found = after.schema.field(name).type if name in after.column_names else None
        if name not in stage.drops and found != COLUMNS[name]:
            raise AssertionError(f"stage {stage.name} must add {name} as {COLUMNS[name]}, gave {found or 'nothing'}")


def _failed(stage: Stage, part: pa.Table, error: BaseException) -> pa.Table:
    failure = classify(error)
    said = f"exit({error.code})" if isinstance(error, SystemExit) else str(error) or type(error).__name__
    before: dict[str, Any] | None = part["error"][0].as_py()
    asked = part["lanes"][0].as_py() or ()
    blocked = _blocked(before, asked)
    serves = stage.lanes & set(asked) - blocked
    blocks = [*({*serves, *children(serves)} - blocked)]
    record = error_record(failure, stage.name, said, blocks, getattr(error, "attempts", 1))
    bug = error if failure is FailureClass.BUG else None
    level = logging.WARNING if bug else logging.INFO
    about = (stage.name, part["asset_id"][0], failure, record["message"])
    logger.log(level, "stage=%s asset_id=%s failure=%s %s", *about, exc_info=bug)
    return _with_nulls(stage, with_column(part, "error", [add_error(before, record)]))


def _with_nulls(stage: Stage, part: pa.Table) -> pa.Table:
    for name in stage.adds:
        if name not in part.column_names:
            part = with_column(part, name, pa.nulls(part.num_rows, COLUMNS[name]))
    return part.select(_names_after(stage, part))


def _timed(stage: Stage, table: pa.Table, wanted: list[bool], seconds: float, halvings: int) -> pa.Table:
    share = seconds / max(sum(wanted), 1)
    timings = table.column("timings").to_pylist()
    for row in (row for row, yes in enumerate(wanted) if yes):
        timing = {"stage": stage.name, "seconds": share, "halvings": halvings}
        timings[row], halvings = [*(timings[row] or []), timing], 0
    return with_column(table, "timings", timings)
