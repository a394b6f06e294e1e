"""Read-only answers: what a run did, what the corpus holds, what failed and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from cluster.db.assets import Page, list_assets
from cluster.errors import UsageError


def dicts(conn: psycopg.Connection[Any], query: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a query, by column name."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), values).fetchall()


def run_outputs(conn: psycopg.Connection[Any], run_id: UUID) -> dict[str, int]:
    """Rows the run committed, by lane, and the voices it did not have to compute."""
    rows = conn.execute(
        "SELECT lane, sum(outputs), sum(coalesce((detail->>'voice_cache_hits')::int, 0)) FROM units"
        " WHERE run_id = %s AND state = 'done' GROUP BY lane",
        (run_id,),
    ).fetchall()
    found = {lane: int(count) for lane, count, _ in rows}
    found["voice_cache_hits"] = sum(int(hits) for _, _, hits in rows)
    return found


def first_claim(conn: psycopg.Connection[Any], run_id: UUID) -> float | None:
    """Seconds since the run's first claim, by the database's clock."""
    row = conn.execute(
        "SELECT extract(epoch FROM now() - min(started_at)) FROM units WHERE run_id = %s", (run_id,)
    ).fetchone()
    return None if row is None or row[0] is None else float(row[0])


def max_connections(conn: psycopg.Connection[Any]) -> int:
    """How many connections the server takes."""
    row = conn.execute("SHOW max_connections").fetchone()
    assert row is not None
    return int(row[0])


def assets_table(
    conn: psycopg.Connection[Any], asset_ids: Sequence[int] | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """One row per asset: sources, length, lane states, segments per local speaker."""
    return list_assets(conn, Page(asset_ids, limit=limit))


@dataclass(frozen=True, slots=True)
class FailureFilter:
    """Which failures to show: of one run, one class, one lane."""

    run: str | None = None
    failure: str | None = None
    lane: str | None = None


# What failed and is not settled since: units that are failed now, and sources without content.
_FAILED = """
SELECT f.failure_id, f.run_id::text AS run_id, f.asset_id, encode(a.sha256, 'hex') AS sha256,
  coalesce((SELECT name FROM asset_names n WHERE n.asset_id = f.asset_id), f.uri) AS uri,
  f.lane, f.failure, f.stage, f.message, f.attempt, f.at
FROM failures f LEFT JOIN assets a USING (asset_id)
LEFT JOIN units u ON u.asset_id = f.asset_id AND u.lane = f.lane AND u.fingerprint = f.fingerprint
WHERE (u.state = 'failed' OR (f.asset_id IS NULL
  AND NOT EXISTS (SELECT 1 FROM sources s WHERE s.uri = f.uri AND s.seen_at > f.at)))
"""
# Of several of one unit or source the last one counts.
_LAST = """
  AND NOT EXISTS (SELECT 1 FROM failures l WHERE l.asset_id = f.asset_id AND l.lane = f.lane
    AND l.fingerprint = f.fingerprint AND l.failure_id > f.failure_id)
  AND NOT EXISTS (SELECT 1 FROM failures l WHERE f.asset_id IS NULL AND l.asset_id IS NULL AND l.uri = f.uri
    AND l.failure_id > f.failure_id)
"""


def open_failures(conn: psycopg.Connection[Any], chosen: FailureFilter) -> list[dict[str, Any]]:
    """The last failure of every unit that is failed now, and of sources without content."""
    return dicts(
        conn,
        "SELECT * FROM (SELECT DISTINCT ON (asset_id, lane, coalesce(asset_id::text, uri)) *"
        f" FROM ({_FAILED}) f ORDER BY asset_id, lane, coalesce(asset_id::text, uri), failure_id DESC) t"
        " WHERE (%(run)s::text IS NULL OR run_id LIKE %(run)s || '%%')"
        "   AND (%(failure)s::text IS NULL OR failure = %(failure)s)"
        "   AND (%(lane)s::text IS NULL OR lane = %(lane)s) ORDER BY uri, lane",
        {"run": chosen.run, "failure": chosen.failure, "lane": chosen.lane},
    )


def last_failures(conn: psycopg.Connection[Any], run_id: UUID, limit: int) -> list[dict[str, Any]]:
    """The latest of what `open_failures` has of the run, oldest first; however many there are, these alone are read."""
    found = dicts(
        conn,
        f"{_FAILED} {_LAST} AND f.run_id = %(run)s ORDER BY f.failure_id DESC LIMIT %(limit)s",
        {"run": run_id, "limit": limit},
    )
    return found[::-1]


def sources_of(conn: psycopg.Connection[Any], asset_ids: Sequence[int]) -> dict[int, list[str]]:
    """Asset -> its sources."""
    rows = conn.execute(
        "SELECT asset_id, array_agg(uri ORDER BY uri) FROM sources WHERE asset_id = ANY(%s) GROUP BY asset_id",
        (list(asset_ids),),
    )
    return dict(rows.fetchall())


def failure_history(conn: psycopg.Connection[Any], asset_id: int) -> list[dict[str, Any]]:
    """Every failure of one asset, oldest first."""
    return dicts(
        conn,
        "SELECT at, run_id::text AS run_id, lane, failure, stage, message, attempt FROM failures"
        " WHERE asset_id = %(id)s ORDER BY failure_id",
        {"id": asset_id},
    )


def runs_table(conn: psycopg.Connection[Any], limit: int = 10, offset: int = 0) -> list[dict[str, Any]]:
    """The latest runs after so many, newest first."""
    return dicts(
        conn,
        "SELECT run_id::text AS run_id, kind, state, started_at, finished_at, planned, summary, job, cancel_asked_at"
        " FROM runs"
        " ORDER BY started_at DESC, run_id LIMIT %(limit)s OFFSET %(offset)s",
        {"limit": limit, "offset": offset},
    )


def find_run(conn: psycopg.Connection[Any], prefix: str) -> dict[str, Any]:
    """The one run whose id begins with `prefix`; `UsageError` for none or several."""
    rows = dicts(
        conn,
        "SELECT run_id::text AS run_id, kind, state, started_at, finished_at, planned, summary, config, job,"
        " cancel_asked_at FROM runs"
        " WHERE run_id::text LIKE %(prefix)s || '%%' LIMIT 2",
        {"prefix": prefix},
    )
    if len(rows) != 1 or not set(prefix) <= set("0123456789abcdef-"):
        raise UsageError(f"{'several runs begin' if rows else 'no run begins'} with {prefix!r}: see `rushes status`")
    return rows[0]


def find_asset(conn: psycopg.Connection[Any], name: str) -> dict[str, Any]:
    """The one asset a person means: a source path or its ending, or 8+ digits of its SHA-256."""
    rows = dicts(
        conn,
        "SELECT DISTINCT a.asset_id, encode(a.sha256, 'hex') AS sha256, a.media_kind, a.duration_ms, a.recorded_at"
        " FROM assets a LEFT JOIN sources s USING (asset_id)"
        " WHERE s.uri = %(name)s OR s.uri = %(path)s OR right(s.uri, length(%(name)s) + 1) = '/' || %(name)s"
        " OR (%(sha)s AND encode(a.sha256, 'hex') LIKE lower(%(name)s) || '%%') LIMIT 3",
        {"name": name, "path": _absolute(name), "sha": _is_sha_prefix(name)},
    )
    if len(rows) == 1:
        return rows[0]
    what = "several assets match" if rows else "no asset matches"
    raise UsageError(f"{what} {name!r}: give a longer source path or 8 or more digits of the SHA-256")


def _absolute(name: str) -> str:
    from pathlib import Path

    return str(Path(name).absolute())


def _is_sha_prefix(name: str) -> bool:
    return 8 <= len(name) <= 64 and all(digit in "0123456789abcdef" for digit in name.lower())


def transcript_language(conn: psycopg.Connection[Any], asset_id: int) -> str | None:
    """The language the transcriber used for the asset."""
    row = conn.execute(
        "SELECT detail->'transcript'->>'language' FROM units WHERE asset_id = %s AND lane = 'speech'"
        " AND state = 'done' ORDER BY finished_at DESC LIMIT 1",
        (asset_id,),
    ).fetchone()
    return None if row is None else row[0]


def totals(conn: psycopg.Connection[Any]) -> dict[str, Any]:
    """What the corpus holds."""
    return dicts(
        conn,
        "SELECT (SELECT count(*) FROM sources WHERE gone_at IS NULL) AS sources,"
        " (SELECT count(*) FROM assets) AS assets,"
        " (SELECT coalesce(sum(duration_ms), 0)::bigint FROM assets) AS media_ms,"
        " (SELECT count(*) FROM segments) AS segments, (SELECT count(*) FROM voices) AS voices,"
        " (SELECT count(*) FROM chunks) AS chunks, (SELECT count(*) FROM frames) AS frames,"
        " (SELECT count(*) FROM assets WHERE media_kind = 'image') AS images",
        {},
    )[0]


def summary_time(value: datetime | None) -> str:
    """A time for people; empty for none."""
    return "" if value is None else value.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def asset_names(conn: psycopg.Connection[Any], asset_ids: Iterable[int]) -> dict[int, str]:
    """What to call each of these assets: its source, in full."""
    rows = conn.execute("SELECT asset_id, name FROM asset_names WHERE asset_id = ANY(%s)", (sorted(set(asset_ids)),))
    return dict(rows.fetchall())
