"""Runs: who owns the units being worked on, and what becomes of them when the owner dies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from cluster.db.counts import fold
from cluster.db.crash_claims import forget_claims
from cluster.db.patience import take_lock
from cluster.errors import RushesError


def lock_key(run_id: UUID) -> int:
    """The advisory lock a driver holds while its run lives."""
    return int.from_bytes(run_id.bytes[:8], "big", signed=True)


def gate_key(run_id: UUID) -> int:
    """The advisory lock every commit of the run shares; the driver takes it alone to stop them."""
    return int.from_bytes(run_id.bytes[8:], "big", signed=True)


def start_run(
    conn: psycopg.Connection[Any], run_id: UUID, kind: str, config: dict[str, Any], job: str | None = None
) -> None:
    """Record the run and hold its lock for as long as `conn` lives; `job` is the Ray job that it is a part of.

    Safe to repeat; `RushesError` when another command took the run for dead between two attempts.
    """
    conn.execute("SELECT pg_advisory_lock(%s)", (lock_key(run_id),))
    conn.execute(
        "INSERT INTO runs (run_id, kind, config, job) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (run_id, kind, Jsonb(config), job),
    )
    _check_alive(conn, run_id)


def hold_run(conn: psycopg.Connection[Any], run_id: UUID) -> None:
    """Take the run's lock again on a new connection; `RushesError` when the run was given up meanwhile."""
    take_lock(conn, lock_key(run_id))
    _check_alive(conn, run_id)


def _check_alive(conn: psycopg.Connection[Any], run_id: UUID) -> None:
    row = conn.execute("SELECT state FROM runs WHERE run_id = %s", (run_id,)).fetchone()
    if row is not None and row[0] != "running":
        raise RushesError(
            f"run {str(run_id)[:8]} was taken for dead by another command while the database was away; "
            "what it committed is safe: run the same command again"
        )


def finish_run(conn: psycopg.Connection[Any], run_id: UUID, state: str, summary: dict[str, Any]) -> None:
    """Record how the run ended; its unfinished units return to pending. Its lock goes, if `conn` holds it."""
    with conn.transaction():
        release_units(conn, run_id)
        conn.execute(
            "UPDATE runs SET state = %s, summary = %s, finished_at = now() WHERE run_id = %s",
            (state, Jsonb(summary), run_id),
        )
    fold(conn)
    conn.execute("SELECT pg_advisory_unlock(%s)", (lock_key(run_id),))


def recover_dead_runs(conn: psycopg.Connection[Any]) -> int:
    """Units of runs whose driver is gone go back to pending, uncharged; returns how many.

    Call it before `start_run`: a session gets its own lock a second time. A run that ended may still
    hold units, when an actor of it claimed late.
    """
    recovered = 0
    left = conn.execute(
        "SELECT run_id FROM runs WHERE state = 'running'"
        " UNION SELECT run_id FROM units WHERE state = 'running' ORDER BY run_id"
    ).fetchall()
    for (run_id,) in left:
        if conn.execute("SELECT pg_try_advisory_lock(%s)", (lock_key(run_id),)).fetchone() != (True,):
            continue
        with conn.transaction():
            recovered += release_units(conn, run_id)
            conn.execute(
                "UPDATE runs SET state = 'dead', finished_at = now() WHERE run_id = %s AND state = 'running'", (run_id,)
            )
        conn.execute("SELECT pg_advisory_unlock(%s)", (lock_key(run_id),))
    return recovered


def release_units(conn: psycopg.Connection[Any], run_id: UUID) -> int:
    """Running units of the run return to pending, uncharged; late commits then match nothing."""
    forget_claims(conn, run_id)
    return conn.execute(
        "UPDATE units SET state = 'pending', run_id = NULL WHERE run_id = %s AND state = 'running'",
        (run_id,),
    ).rowcount


def close_gate(conn: psycopg.Connection[Any], run_id: UUID) -> None:
    """Wait for the commits in progress, then let no further one of this run begin."""
    conn.execute("SELECT pg_advisory_lock(%s)", (gate_key(run_id),))


def pass_gate(conn: psycopg.Connection[Any], run_id: UUID) -> bool:
    """Whether the run still takes commits; holds the gate open until the transaction ends."""
    row = conn.execute("SELECT pg_try_advisory_xact_lock_shared(%s)", (gate_key(run_id),)).fetchone()
    return row == (True,)


def set_planned(conn: psycopg.Connection[Any], run_id: UUID, planned: int, work: Mapping[str, Any]) -> None:
    """Record how many assets the run set out to do, and its work.

    `media_s`, units by lane in `lanes`, the fingerprint of each in `prints`, and how many of the assets were
    `settled` when they were registered.
    """
    conn.execute(
        "UPDATE runs SET planned = %s, config = config || %s WHERE run_id = %s",
        (planned, Jsonb({"work": dict(work)}), run_id),
    )


def is_held(conn: psycopg.Connection[Any], run_id: UUID) -> bool:
    """Whether a driver holds the run's lock; one that lost its connection takes it back within seconds."""
    key = lock_key(run_id) & 0xFFFF_FFFF_FFFF_FFFF
    row = conn.execute(
        "SELECT EXISTS (SELECT 1 FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
        " WHERE locktype = 'advisory' AND datname = current_database() AND granted AND objsubid = 1"
        " AND classid = %s::bigint::oid AND objid = %s::bigint::oid)",
        (key >> 32, key & 0xFFFF_FFFF),
    ).fetchone()
    return row == (True,)


def ask_cancel(conn: psycopg.Connection[Any], run_id: UUID) -> bool:
    """Ask the driver of the run to end it, which it does after the commits in progress; False when it has ended."""
    return bool(
        conn.execute(
            "UPDATE runs SET cancel_asked_at = coalesce(cancel_asked_at, now())"
            " WHERE run_id = %s AND state = 'running'",
            (run_id,),
        ).rowcount
    )


def is_cancelled(conn: psycopg.Connection[Any], run_id: UUID) -> bool:
    """Whether somebody asked for the end of the run."""
    row = conn.execute("SELECT cancel_asked_at IS NOT NULL FROM runs WHERE run_id = %s", (run_id,)).fetchone()
    return row == (True,)


def run_of_job(conn: psycopg.Connection[Any], job: str) -> UUID | None:
    """The latest run of a Ray job; None before it has one."""
    row = conn.execute("SELECT run_id FROM runs WHERE job = %s ORDER BY started_at DESC LIMIT 1", (job,)).fetchone()
    return None if row is None else row[0]
