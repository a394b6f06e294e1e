"""How far the work is, from the ledger alone: any process can ask while a job runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg

from cluster.db import report
from cluster.db.ledger import FIRST_STATE
from cluster.db.report import dicts
from cluster.db.runs import is_held
from cluster.lanes import LANES

STATES = ("done", "pending", "running", "failed", "skipped")
RATE_WINDOW_S = 300.0
RATE_ASSETS = 10
SHOWN = 5

Row = dict[str, Any]


_LANES = f"""
SELECT l.lane, coalesce(u.state, {FIRST_STATE}) AS state, count(*) AS assets,
  coalesce(sum(a.duration_ms), 0)::bigint AS media_ms
FROM unnest(%(lanes)s::text[], %(prints)s::text[]) l(lane, fingerprint) CROSS JOIN assets a
LEFT JOIN units u ON (u.asset_id, u.lane, u.fingerprint) = (a.asset_id, l.lane, l.fingerprint) GROUP BY 1, 2
"""


def lane_table(conn: psycopg.Connection[Any], prints: Mapping[str, str]) -> list[Row]:
    """Per lane of `prints`: assets by state, `total`, and the media ms done and to be done in all.

    An asset that has no unit yet counts as what it would become.
    """
    found = dicts(conn, _LANES, {"lanes": list(prints), "prints": list(prints.values())})
    table = []
    for lane in prints:
        mine = {row["state"]: row for row in found if row["lane"] == lane}
        counts = {state: mine[state]["assets"] if state in mine else 0 for state in STATES}
        table.append(
            {
                "lane": lane,
                **counts,
                "total": sum(counts.values()),
                "done_ms": mine["done"]["media_ms"] if "done" in mine else 0,
                "total_ms": sum(row["media_ms"] for state, row in mine.items() if state != "skipped"),
            }
        )
    return table


def source_counts(conn: psycopg.Connection[Any]) -> Row:
    """How many sources are gone, and how many assets no source leads to any more."""
    return dicts(
        conn,
        "SELECT (SELECT count(*) FROM sources WHERE gone_at IS NOT NULL) AS gone,"
        " (SELECT count(*) FROM assets a WHERE NOT EXISTS (SELECT 1 FROM sources s"
        "   WHERE s.asset_id = a.asset_id AND gone_at IS NULL)) AS vanished",
        {},
    )[0]


@dataclass(frozen=True, slots=True)
class Settled:
    """An asset that the run is through with: how many seconds ago, and its media in seconds."""

    age_s: float
    media_s: float


def rate_now(latest: Sequence[Settled], elapsed_s: float) -> float | None:
    """Media hours per hour over the last 5 minutes, or the last 10 assets if these took longer; None before any.

    `latest` are settled assets, newest first, at least 11 if there are so many; `elapsed_s` is the time since the
    run's first claim.
    """
    recent = [asset for asset in latest if asset.age_s <= RATE_WINDOW_S]
    if len(recent) < RATE_ASSETS:
        recent = list(latest[:RATE_ASSETS])
        span_s = latest[RATE_ASSETS].age_s if len(latest) > RATE_ASSETS else elapsed_s
    else:
        span_s = min(RATE_WINDOW_S, elapsed_s)
    return sum(asset.media_s for asset in recent) / span_s if recent and span_s > 0 else None


# A run that died tells nothing after its last commit. An asset with a row that nobody claimed yet is not settled.
# The end is looked for once, not again for every asset.
_SETTLED = """
WITH ended AS MATERIALIZED (
  SELECT CASE WHEN %(lives)s THEN coalesce(r.finished_at, now())
    ELSE (SELECT max(u.finished_at) FROM units u WHERE u.run_id = r.run_id) END AS at
  FROM runs r WHERE r.run_id = %(run)s),
settled AS (
  SELECT u.asset_id, max(u.finished_at) AS at, bool_or(u.state = 'failed') AS failed FROM units u
  WHERE u.run_id = %(run)s AND NOT EXISTS (SELECT 1 FROM units p WHERE p.asset_id = u.asset_id
    AND p.state = 'pending' AND p.lane || p.fingerprint = ANY(%(prints)s))
  GROUP BY u.asset_id HAVING bool_and(u.state NOT IN ('running', 'pending'))),
timed AS (
  SELECT extract(epoch FROM ended.at - settled.at)::float8 AS age_s, failed,
    coalesce(a.duration_ms, 0) / 1000.0 AS media_s
  FROM settled JOIN assets a USING (asset_id) CROSS JOIN ended)
"""
_RUN_LANES = """
SELECT lane, count(*) FILTER (WHERE state = 'done') AS done, count(*) FILTER (WHERE state = 'running') AS running,
  count(*) FILTER (WHERE state = 'failed') AS failed, count(*) FILTER (WHERE state = 'skipped') AS skipped,
  count(*) FILTER (WHERE state = 'pending') AS retrying
FROM units WHERE run_id = %(run)s GROUP BY lane
"""
_RUNNING = """
SELECT n.name, array_agg(u.lane ORDER BY u.lane) AS lanes,
  extract(epoch FROM now() - min(u.started_at))::float8 AS for_s
FROM units u JOIN asset_names n USING (asset_id) WHERE u.run_id = %(run)s AND u.state = 'running'
GROUP BY n.asset_id, n.name ORDER BY for_s DESC LIMIT %(shown)s
"""
# Every unit of a row carries the timings of the whole row.
_SLOWEST = """
SELECT n.name, t.media_s, t.seconds, t.media_s / t.seconds AS x_realtime, t.stage, t.stage_s FROM (
  SELECT u.asset_id, a.duration_ms / 1000.0 AS media_s, sum(value::float8) AS seconds,
    (array_agg(key ORDER BY value::float8 DESC))[1] AS stage, max(value::float8) AS stage_s
  FROM (SELECT DISTINCT ON (asset_id) asset_id, detail->'timings' AS timings FROM units
        WHERE run_id = %(run)s AND state = 'done' ORDER BY asset_id, finished_at DESC) u
  JOIN assets a USING (asset_id) CROSS JOIN LATERAL jsonb_each_text(u.timings)
  WHERE a.duration_ms > 0 GROUP BY u.asset_id, a.duration_ms HAVING sum(value::float8) > 0
  ORDER BY a.duration_ms / sum(value::float8) LIMIT %(shown)s) t
CROSS JOIN LATERAL (SELECT name FROM asset_names n WHERE n.asset_id = t.asset_id) n ORDER BY x_realtime
"""


def run_view(conn: psycopg.Connection[Any], run: Row) -> Row:
    """How far a run of `report.find_run` is: lanes, rates in hours per hour, time left, slowest, failures."""
    run_id, work = UUID(run["run_id"]), run["config"].get("work") or {}
    driver = run["state"] != "running" or is_held(conn, run_id)
    lives = driver and run["state"] != "dead"
    prints = [lane + fingerprint for lane, fingerprint in work.get("prints", {}).items()]
    values = {"run": run_id, "shown": SHOWN, "lives": lives, "prints": prints}
    settled = _settled(conn, values, work)
    return {
        **{name: run[name] for name in ("run_id", "kind", "state", "started_at", "finished_at", "planned", "summary")},
        "driver": driver,
        "lanes": _run_lanes(conn, values, work.get("lanes") or {}),
        **settled,
        "running": dicts(conn, _RUNNING, values) if lives else [],
        "slowest": dicts(conn, _SLOWEST, values),
        "failures": _last_failures(conn, run["run_id"]),
    }


def _run_lanes(conn: psycopg.Connection[Any], values: Row, totals: Mapping[str, int]) -> list[Row]:
    found = {row["lane"]: row for row in dicts(conn, _RUN_LANES, values)}
    none = dict.fromkeys(("done", "running", "failed", "skipped", "retrying"), 0)
    return [
        {"lane": lane, **none, **found.get(lane, {}), "total": totals.get(lane)}
        for lane in LANES
        if lane in {**totals, **found}
    ]


def _settled(conn: psycopg.Connection[Any], values: Row, work: Mapping[str, Any]) -> Row:
    [whole] = dicts(
        conn,
        _SETTLED + "SELECT count(*) AS settled, coalesce(sum(media_s), 0)::float8 AS settled_s,"
        " coalesce(sum(media_s) FILTER (WHERE NOT failed), 0)::float8 AS media_s,"
        " (SELECT extract(epoch FROM (SELECT at FROM ended) - min(u.started_at))::float8 FROM units u"
        "   WHERE u.run_id = %(run)s) AS elapsed_s FROM timed",
        values,
    )
    latest = conn.execute(
        (
            _SETTLED
            + "SELECT age_s, media_s::float8 FROM (SELECT *, row_number() OVER (ORDER BY age_s) AS n FROM timed) t"
            " WHERE n <= %(count)s OR age_s <= %(window)s ORDER BY age_s"
        ).encode(),
        {**values, "count": RATE_ASSETS + 1, "window": RATE_WINDOW_S},
    )
    elapsed_s = whole["elapsed_s"] or 0.0
    now = rate_now([Settled(*row) for row in latest], elapsed_s)
    left_s = None if "media_s" not in work else max(0.0, work["media_s"] - whole["settled_s"])
    return {
        "settled": whole["settled"] + work.get("settled", 0),
        "media_s": whole["media_s"],
        "elapsed_s": elapsed_s,
        "hours_per_hour_now": now,
        "hours_per_hour": whole["media_s"] / elapsed_s if elapsed_s else None,
        "left_media_s": left_s,
        "eta_s": left_s / now if values["lives"] and now and left_s is not None else None,
    }


def _last_failures(conn: psycopg.Connection[Any], run_id: str) -> list[Row]:
    found = report.open_failures(conn, report.FailureFilter(run=run_id))
    names = ("at", "uri", "lane", "failure", "stage", "message")
    return [{name: row[name] for name in names} for row in sorted(found, key=lambda row: row["at"])[-SHOWN:]]
