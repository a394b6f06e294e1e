"""How far the work is, from the ledger alone: any process can ask while a job runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg

from cluster.db import counts, report
from cluster.db.ledger import FIRST_STATE
from cluster.db.report import dicts
from cluster.db.runs import is_held
from cluster.lanes import LANES, ROOTS

STATES = ("done", "pending", "running", "failed", "skipped")
RATE_WINDOW_S = 300.0
RATE_ASSETS = 10
SHOWN = 5
# A node is silent when it was quiet so long, and so many times as long as any other one.
SILENT_S = 60.0
SILENT_TIMES = 3.0

Row = dict[str, Any]
# (node, lane, state) -> units and ms of media, of one run.
Counted = Mapping[tuple[str | None, str, str], tuple[int, int]]


# What the assets without a unit would become; asked only where there are any.
_TO_BE = f"""
SELECT l.lane, {FIRST_STATE} AS state, count(*) AS assets, coalesce(sum(a.duration_ms), 0)::bigint AS media_ms
FROM unnest(%(lanes)s::text[], %(prints)s::text[]) l(lane, fingerprint) CROSS JOIN assets a
WHERE NOT EXISTS (SELECT 1 FROM units u WHERE (u.asset_id, u.lane, u.fingerprint) = (a.asset_id, l.lane, l.fingerprint))
GROUP BY 1, 2
"""


def lane_table(conn: psycopg.Connection[Any], prints: Mapping[str, str]) -> list[Row]:
    """Per lane of `prints`: assets by state, `total`, and the media ms done and to be done in all.

    An asset that has no unit yet counts as what it would become.
    """
    found = Counter[tuple[str, str]]()
    media_ms = Counter[tuple[str, str]]()
    for key, (units, ms) in counts.by_state(conn, prints).items():
        found[key], media_ms[key] = units, ms
    lacking = {lane: prints[lane] for lane in prints.keys() - counts.complete_lanes(conn, prints, list(prints))}
    if lacking:
        for row in dicts(conn, _TO_BE, {"lanes": list(lacking), "prints": list(lacking.values())}):
            found[row["lane"], row["state"]] += row["assets"]
            media_ms[row["lane"], row["state"]] += row["media_ms"]
    return [
        {
            "lane": lane,
            **{state: found[lane, state] for state in STATES},
            "total": sum(found[lane, state] for state in STATES),
            "done_ms": media_ms[lane, "done"],
            "total_ms": sum(media_ms[lane, state] for state in STATES if state != "skipped"),
        }
        for lane in prints
    ]


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


# A run that died tells nothing after its last commit.
_ENDED = """
SELECT CASE WHEN %(lives)s THEN coalesce(r.finished_at, now())
    ELSE (SELECT max(u.finished_at) FROM units u WHERE u.run_id = r.run_id) END AS at,
  (SELECT min(u.started_at) FROM units u WHERE u.run_id = r.run_id) AS began FROM runs r WHERE r.run_id = %(run)s
"""
# An asset with a row that nobody claimed yet is not settled. Materialized, or each parallel worker makes the list.
_SETTLED = """
WITH mine AS MATERIALIZED (SELECT DISTINCT asset_id FROM units WHERE run_id = %(run)s)
SELECT count(*) AS settled, coalesce(sum(a.duration_ms), 0) / 1000.0 AS settled_s,
  coalesce(sum(a.duration_ms) FILTER (WHERE a.asset_id NOT IN
    (SELECT asset_id FROM units WHERE run_id = %(run)s AND state = 'failed')), 0) / 1000.0 AS media_s
FROM mine JOIN assets a USING (asset_id)
WHERE asset_id NOT IN (SELECT asset_id FROM units WHERE run_id = %(run)s AND state = 'running')
  AND asset_id NOT IN (SELECT asset_id FROM units
    WHERE state = 'pending' AND (run_id = %(run)s OR lane || fingerprint = ANY(%(both)s)))
"""
# The units of the last minutes, or the last few: of so many that the assets of the rate are among them.
_LATEST = """
SELECT t.asset_id, t.age_s, t.node, coalesce(a.duration_ms, 0) / 1000.0 AS media_s, NOT EXISTS
  (SELECT 1 FROM units o WHERE o.asset_id = t.asset_id AND ((o.run_id = %(run)s AND o.state IN ('running', 'pending'))
    OR (o.state = 'pending' AND o.lane || o.fingerprint = ANY(%(both)s)))) AS is_settled
FROM (SELECT DISTINCT ON (asset_id) asset_id, extract(epoch FROM %(at)s - finished_at)::float8 AS age_s, node FROM (
  (SELECT asset_id, finished_at, node FROM units WHERE run_id = %(run)s AND finished_at <= %(at)s
   ORDER BY finished_at DESC LIMIT %(few)s) UNION
  SELECT asset_id, finished_at, node FROM units WHERE run_id = %(run)s AND finished_at <= %(at)s
    AND finished_at >= %(at)s - make_interval(secs => %(window)s)) u ORDER BY asset_id, finished_at DESC) t
JOIN assets a USING (asset_id) ORDER BY age_s
"""
_RUNNING = """
SELECT (SELECT name FROM asset_names n WHERE n.asset_id = u.asset_id) AS name, u.node,
  array_agg(u.lane ORDER BY u.lane) AS lanes, extract(epoch FROM now() - min(u.started_at))::float8 AS for_s
FROM units u WHERE run_id = %(run)s AND state = 'running' GROUP BY u.asset_id, u.node ORDER BY for_s DESC
"""
# Every unit of a row carries the timings and the pace of the whole row. Names are asked one by one: joined, the view
# would be made for every asset.
_SLOWEST = """
SELECT (SELECT name FROM asset_names n WHERE n.asset_id = t.asset_id) AS name, a.duration_ms / 1000.0 AS media_s,
  t.seconds, t.x_realtime, t.stage, t.stage_s FROM (
  SELECT DISTINCT ON (u.asset_id) u.asset_id, u.pace::float8 AS x_realtime, s.*
  FROM (SELECT asset_id, pace, detail->'timings' AS timings FROM units
        WHERE run_id = %(run)s AND state = 'done' AND pace IS NOT NULL ORDER BY pace LIMIT %(few)s) u
  CROSS JOIN LATERAL (SELECT sum(value::float8) AS seconds, max(value::float8) AS stage_s,
    (array_agg(key ORDER BY value::float8 DESC))[1] AS stage FROM jsonb_each_text(u.timings)) s
  ORDER BY u.asset_id, u.pace) t
JOIN assets a USING (asset_id) ORDER BY t.x_realtime LIMIT %(shown)s
"""


def run_view(conn: psycopg.Connection[Any], run: Row) -> Row:
    """How far a run of `report.find_run` is: lanes, nodes, rates in hours per hour, time left, slowest, failures."""
    run_id, work = UUID(run["run_id"]), run["config"].get("work") or {}
    driver = run["state"] != "running" or is_held(conn, run_id)
    lives = driver and run["state"] != "dead"
    prints = work.get("prints", {})
    values = {
        "run": run_id, "shown": SHOWN, "lives": lives, "few": (RATE_ASSETS + 1) * 2 * len(LANES),
        "window": RATE_WINDOW_S, "both": [lane + fingerprint for lane, fingerprint in prints.items()],
    }  # fmt: skip
    [times] = dicts(conn, _ENDED, values)
    values["at"] = times["at"]
    latest = dicts(conn, _LATEST, values)
    running = dicts(conn, _RUNNING, values) if lives else []
    counted = counts.of_run(conn, run_id)
    elapsed_s = (times["at"] - times["began"]).total_seconds() if times["at"] and times["began"] else 0.0
    return {
        **{name: run[name] for name in ("run_id", "kind", "state", "started_at", "finished_at", "planned", "summary")},
        "driver": driver,
        "lanes": _run_lanes(counted, work.get("lanes") or {}),
        "nodes": nodes_of(counted, latest, running, elapsed_s),
        **_settled(conn, values, work, latest, elapsed_s),
        "running": running[:SHOWN],
        "slowest": dicts(conn, _SLOWEST, values),
        "failures": _last_failures(conn, run_id),
    }


def nodes_of(counted: Counted, latest: Sequence[Row], running: Sequence[Row], elapsed_s: float) -> list[Row]:
    """Per node that claimed for the run, by name: rows at work, the oldest, units done and failed, media, rate, quiet.

    `media_s` counts a row for each root lane. `quiet_s` is the time since the node last settled or took anything;
    None: longer than what is looked at. `is_silent`: it has work, and was quiet longer than all others by far.
    """
    nodes = []
    for name in sorted({node for node, _, _ in counted if node is not None}):
        mine = {(lane, state): of for (node, lane, state), of in counted.items() if node == name}
        at_work = [row["for_s"] for row in running if row["node"] == name]
        media_s = sum(ms for (lane, state), (_, ms) in mine.items() if state == "done" and lane in ROOTS) / 1000
        signs = [row["age_s"] for row in latest if row["node"] == name] + at_work
        nodes.append(
            {
                "node": name,
                "running": len(at_work),
                "oldest_s": max(at_work, default=None),
                "done": sum(units for (_, state), (units, _) in mine.items() if state == "done"),
                "failed": sum(units for (_, state), (units, _) in mine.items() if state == "failed"),
                "media_s": media_s,
                "hours_per_hour": media_s / elapsed_s if elapsed_s else None,
                "quiet_s": min(signs, default=None),
            }
        )
    return [{**node, "is_silent": _is_silent(node, nodes)} for node in nodes]


def _is_silent(node: Row, nodes: Sequence[Row]) -> bool:
    others = [other["quiet_s"] for other in nodes if other is not node and other["quiet_s"] is not None]
    if not node["running"] or not others:
        return False
    return node["quiet_s"] > max(SILENT_S, SILENT_TIMES * max(others))


def _run_lanes(counted: Counted, totals: Mapping[str, int]) -> list[Row]:
    found: Counter[tuple[str, str]] = Counter()
    for (_, lane, state), (units, _) in counted.items():
        found[lane, state] += units
    named = {"done": "done", "running": "running", "failed": "failed", "skipped": "skipped", "retrying": "pending"}
    seen = {lane for lane, _ in found} | totals.keys()
    return [
        {"lane": lane, **{name: found[lane, state] for name, state in named.items()}, "total": totals.get(lane)}
        for lane in LANES
        if lane in seen
    ]


def _settled(
    conn: psycopg.Connection[Any], values: Row, work: Mapping[str, Any], latest: Sequence[Row], elapsed_s: float
) -> Row:
    [whole] = dicts(conn, _SETTLED, values)
    settled_s, media_s = float(whole["settled_s"]), float(whole["media_s"])
    recent = [Settled(row["age_s"], float(row["media_s"])) for row in latest if row["is_settled"]]
    now = rate_now(recent, elapsed_s)
    left_s = None if "media_s" not in work else max(0.0, work["media_s"] - settled_s)
    return {
        "settled": whole["settled"] + work.get("settled", 0),
        "media_s": media_s,
        "elapsed_s": elapsed_s,
        "hours_per_hour_now": now,
        "hours_per_hour": media_s / elapsed_s if elapsed_s else None,
        "left_media_s": left_s,
        "eta_s": left_s / now if values["lives"] and now and left_s is not None else None,
    }


def _last_failures(conn: psycopg.Connection[Any], run_id: UUID) -> list[Row]:
    names = ("at", "uri", "lane", "failure", "stage", "message")
    return [{name: row[name] for name in names} for row in report.last_failures(conn, run_id, SHOWN)]
