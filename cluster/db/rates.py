"""What committed work has cost: seconds of each stage per media hour, and how long runs take to start."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

import psycopg

from cluster.deadline import MS_PER_HOUR
from cluster.plan import ALONE

RUNNERS = (*ALONE, "ray")
RECENT_UNITS = 300
RECENT_RUNS = 5


@dataclass(frozen=True, slots=True)
class Cost:
    """What one committed unit took: its lane, the media in milliseconds, stage -> seconds; on which kind of machine."""

    asset_id: int
    lane: str
    duration_ms: int
    stage_s: Mapping[str, float]
    machine: str | None = None


@dataclass(frozen=True, slots=True)
class StageRates:
    """Stage -> seconds of work per media hour, over so many assets; seconds before the first claim, if known."""

    assets: int = 0
    s_per_media_hour: Mapping[str, float] = field(default_factory=dict)
    start_up_s: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What one stage took on one kind of hardware; `device_gib` is 0 where its model was on the CPU.

    `identity` says what the stage is made of, `media_s` and `assets` on how much it was measured.
    """

    hardware: str
    stage: str
    identity: str
    s_per_media_hour: float
    load_s: float
    host_gib: float
    device_gib: float
    media_s: float
    assets: int


# A voice that came from the cache cost nothing and says nothing of the next one.
_COSTS = """
SELECT c.asset_id, c.lane, c.duration_ms, c.timings, c.machine
FROM unnest(%(lanes)s::text[], %(prints)s::text[]) l(lane, print)
CROSS JOIN LATERAL
  (SELECT a.asset_id, u.lane, a.duration_ms, u.detail->'timings' AS timings, r.summary->>'machine' AS machine
   FROM units u JOIN assets a USING (asset_id) JOIN runs r USING (run_id)
   WHERE u.lane = l.lane AND u.fingerprint = l.print AND u.state = 'done' AND a.duration_ms > 0
     AND r.summary->>'runner' = %(runner)s
     AND (%(machine)s::text IS NULL OR coalesce(r.summary->>'machine', %(machine)s) = %(machine)s)
     AND coalesce((u.detail->>'voice_cache_hits')::int, 0) = 0
   ORDER BY u.finished_at DESC LIMIT %(limit)s) c
"""


def recent_costs(
    conn: psycopg.Connection[Any], prints: Mapping[str, str], runner: str, machine: str | None = None
) -> list[Cost]:
    """The latest units that finished runs of `runner` committed under these fingerprints, of each lane.

    On this kind of machine only, where one is named; runs that did not note theirs count.
    """
    values: dict[str, Any] = {"lanes": list(prints), "prints": list(prints.values()), "runner": runner}
    values |= {"machine": machine, "limit": RECENT_UNITS}
    return [Cost(*row) for row in conn.execute(_COSTS, values)]


def costs_by_runner(conn: psycopg.Connection[Any], prints: Mapping[str, str]) -> dict[str, list[Cost]]:
    """Runner -> its `recent_costs`, of the runners that have any."""
    found = {runner: recent_costs(conn, prints, runner) for runner in RUNNERS}
    return {runner: costs for runner, costs in found.items() if costs}


def usual_start_up_s(conn: psycopg.Connection[Any], runner: str) -> float | None:
    """The median start-up of the latest runs of `runner`, in seconds; None when there was none."""
    row = conn.execute(
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY start_up_s) FROM"
        " (SELECT (summary->>'start_up_s')::float8 AS start_up_s FROM runs WHERE state IN ('done', 'partial')"
        "  AND summary->>'runner' = %s AND (summary->>'start_up_s')::float8 > 0 ORDER BY started_at DESC LIMIT %s) t",
        (runner, RECENT_RUNS),
    ).fetchone()
    return None if row is None else row[0]


def stage_rates(
    costs: Sequence[Cost], stages: Mapping[str, Collection[str]], start_up_s: float | None = None
) -> StageRates:
    """Seconds per media hour of each of `stages` (name -> the lanes it serves) that was measured.

    A unit tells only of the stages that serve its own lane: another one may have run under other settings.
    """
    seconds: defaultdict[str, float] = defaultdict(float)
    hours: defaultdict[str, float] = defaultdict(float)
    counted: set[tuple[str, int]] = set()
    for cost in costs:
        for stage in cost.stage_s.keys() & stages.keys():
            if cost.lane in stages[stage] and (stage, cost.asset_id) not in counted:
                counted.add((stage, cost.asset_id))
                seconds[stage] += cost.stage_s[stage]
                hours[stage] += cost.duration_ms / MS_PER_HOUR
    assets = min((len({a for s, a in counted if s == stage}) for stage in seconds), default=0)
    return StageRates(assets, {stage: seconds[stage] / hours[stage] for stage in seconds}, start_up_s)


def hours_per_hour(rates: StageRates, groups: Sequence[tuple[Sequence[str], int]]) -> tuple[float, str] | None:
    """Media hours per hour of groups (their stages, how many actors), and the stage that limits them.

    None when a stage was not measured yet. Groups work side by side, the stages of one after each other.
    """
    needed = [stage for stages, _ in groups for stage in stages]
    if not needed or any(stage not in rates.s_per_media_hour for stage in needed):
        return None
    busy = [(sum(rates.s_per_media_hour[stage] for stage in stages) / actors, stages) for stages, actors in groups]
    slowest_s, stages = max(busy, key=lambda item: item[0])
    return 3600 / max(slowest_s, 1e-9), max(stages, key=lambda stage: rates.s_per_media_hour[stage])


def store_measured(conn: psycopg.Connection[Any], measured: Sequence[Measured]) -> None:
    """Keep what was measured, in place of what the same stage took on the same hardware before."""
    values = [astuple(one) for one in measured]
    with conn.transaction(), conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO stage_rates (hardware, stage, identity, s_per_media_hour, load_s, host_gib, device_gib,"
            " media_s, assets) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (hardware, stage, identity) DO UPDATE SET"
            " s_per_media_hour = excluded.s_per_media_hour, load_s = excluded.load_s, host_gib = excluded.host_gib,"
            " device_gib = excluded.device_gib, media_s = excluded.media_s, assets = excluded.assets,"
            " measured_at = now()",
            values,
        )


def stored_measured(conn: psycopg.Connection[Any], identities: Mapping[str, str]) -> list[Measured]:
    """What was measured of stages of these identities (stage -> identity), on any hardware."""
    rows = conn.execute(
        "SELECT r.hardware, r.stage, r.identity, r.s_per_media_hour, r.load_s, r.host_gib, r.device_gib, r.media_s,"
        " r.assets FROM stage_rates r JOIN unnest(%s::text[], %s::text[]) AS w (stage, identity)"
        " USING (stage, identity) ORDER BY r.hardware, r.stage",
        (list(identities), list(identities.values())),
    )
    return [Measured(*row) for row in rows]
