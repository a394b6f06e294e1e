"""The figures of the corpus and of the newest run, for monitoring: what `rushes status` says, as numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg

from cluster.db.progress import run_view
from cluster.db.report import dicts, run_outputs
from cluster.lanes import LANES, root_of

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with its name and what it is of; figures of one name have the same labels."""

    name: str
    help: str
    value: float
    labels: dict[str, str] = field(default_factory=dict)


_ASSETS = "SELECT count(*)::float8 AS assets, coalesce(sum(duration_ms), 0)::float8 / 1000 AS media_s FROM assets"
_UNITS = """
SELECT lane, state, sum(units)::float8 AS units FROM unit_counts GROUP BY 1, 2 HAVING sum(units) <> 0 ORDER BY 1, 2
"""
# Of each unit that is failed now its last failure; of a source without content, that it has none.
_FAILURES = """
SELECT lane, failure, count(*)::float8 AS units FROM (SELECT DISTINCT ON (u.asset_id, u.lane, u.fingerprint)
    u.lane, f.failure FROM units u JOIN failures f USING (asset_id, lane, fingerprint) WHERE u.state = 'failed'
  ORDER BY u.asset_id, u.lane, u.fingerprint, f.failure_id DESC) t GROUP BY 1, 2
UNION ALL
SELECT 'register', failure, count(*)::float8 FROM (SELECT DISTINCT ON (f.uri) f.failure FROM failures f
  WHERE f.asset_id IS NULL AND NOT EXISTS (SELECT 1 FROM sources s WHERE s.uri = f.uri AND s.seen_at > f.at)
  ORDER BY f.uri, f.failure_id DESC) t GROUP BY 2
ORDER BY 1, 2
"""
# A ghost is no person, most likely; one whom a person called nobody known is settled.
_SPEECH = """
SELECT CASE WHEN speaker_id IS NOT NULL THEN 'named' WHEN is_ghost OR method IS NOT NULL THEN 'settled'
    ELSE 'unknown' END AS voice, sum(speech_ms)::float8 / 1000 AS speech_s
FROM local_speakers GROUP BY 1 ORDER BY 1
"""
_RUN = """
SELECT run_id::text AS run_id, kind, state, started_at, finished_at, planned, summary, config FROM runs
WHERE config ? 'work' ORDER BY state = 'running' DESC, started_at DESC LIMIT 1
"""
_IDLE = """
SELECT extract(epoch FROM now() - coalesce((SELECT max(finished_at) FROM units u WHERE u.run_id = r.run_id),
  (SELECT min(started_at) FROM units u WHERE u.run_id = r.run_id), r.started_at))::float8 AS idle_s
FROM runs r WHERE r.run_id = %(run)s
"""
# Every unit of a row carries the timings of the whole row, and an asset has one row per root lane.
_STAGES = """
SELECT t.key AS stage, sum(t.value::float8) AS busy_s, sum(a.duration_ms)::float8 / 1000 AS media_s
FROM (SELECT DISTINCT ON (u.asset_id, l.root) u.asset_id, u.detail->'timings' AS timings
  FROM units u JOIN unnest(%(lanes)s::text[], %(roots)s::text[]) l(lane, root) USING (lane)
  WHERE u.run_id = %(run)s AND u.state = 'done' ORDER BY u.asset_id, l.root, u.finished_at DESC) d
JOIN assets a USING (asset_id) CROSS JOIN LATERAL jsonb_each_text(d.timings) t
WHERE a.duration_ms > 0 GROUP BY 1 ORDER BY 1
"""


def corpus_figures(conn: Connection) -> list[Figure]:
    """What there is, what failed, whose voices are unknown, and how far the newest run is: seconds, counts, rates.

    Figures of the run grow while it goes on and begin anew with the next one, as counters do.
    """
    return [*_totals(conn), *_failures(conn), *_speech(conn), *_run(conn)]


def _totals(conn: Connection) -> list[Figure]:
    [whole] = dicts(conn, _ASSETS, {})
    return [
        Figure("rushes_corpus_assets", "Assets of the corpus.", whole["assets"]),
        Figure("rushes_corpus_media_seconds", "How long they play.", whole["media_s"]),
        *_each(conn, _UNITS, "units", "rushes_corpus_units", "Units by lane and state."),
    ]


def _failures(conn: Connection) -> list[Figure]:
    return _each(conn, _FAILURES, "units", "rushes_corpus_failures", "What is failed now, by lane and cause.")


def _speech(conn: Connection) -> list[Figure]:
    about = "Speech of local speakers: of named people, settled as nobody known, and unknown."
    return _each(conn, _SPEECH, "speech_s", "rushes_corpus_speech_seconds", about)


def _each(conn: Connection, query: str, value: str, name: str, about: str) -> list[Figure]:
    """A figure per row; what is not the value are its labels."""
    rows = dicts(conn, query, {})
    return [Figure(name, about, row.pop(value), {key: str(said) for key, said in row.items()}) for row in rows]


def _run(conn: Connection) -> list[Figure]:
    found = dicts(conn, _RUN, {})
    if not found:
        return [Figure(*_ACTIVE, 0.0)]
    run_id = UUID(found[0]["run_id"])
    view = run_view(conn, found[0])
    is_active = view["state"] == "running" and view["driver"]
    figures = [
        Figure(*_ACTIVE, float(is_active)),
        *(Figure(f"rushes_run_{name}", about, float(read(view) or 0.0)) for name, about, read in _VIEW),
        *_nodes(view),
        *_rows(conn, run_id),
        *_stages(conn, run_id),
    ]
    if is_active:
        [idle] = dicts(conn, _IDLE, {"run": run_id})
        figures += [
            Figure("rushes_run_idle_seconds", "Time since its last unit was settled.", idle["idle_s"]),
            Figure("rushes_run_hours_per_hour_now", "Media hours per hour, lately.", view["hours_per_hour_now"] or 0.0),
        ]
    return figures


_ACTIVE = ("rushes_run_active", "Whether a run is going on: 1, or 0; the newest run is the one told of.")
_VIEW: tuple[tuple[str, str, Callable[[dict[str, Any]], float | None]], ...] = (
    ("hours_per_hour", "Media hours per hour since its first claim.", lambda view: view["hours_per_hour"]),
    ("media_seconds", "Media whose lanes all committed.", lambda view: view["media_s"]),
    ("left_seconds", "Media still to be done.", lambda view: view["left_media_s"]),
)


_NODE: tuple[tuple[str, str, Callable[[dict[str, Any]], float | None]], ...] = (
    ("rows", "Rows that are at work on each node.", lambda node: node["running"]),
    ("units", "Units that each node did.", lambda node: node["done"]),
    ("silent", "Whether it has work and was quiet far longer than the others.", lambda node: node["is_silent"]),
)


def _nodes(view: dict[str, Any]) -> list[Figure]:
    return [
        Figure(f"rushes_run_node_{name}", about, float(read(node) or 0.0), {"node": node["node"]})
        for name, about, read in _NODE
        for node in view["nodes"]
    ]


def _rows(conn: Connection, run_id: UUID) -> list[Figure]:
    rows = run_outputs(conn, run_id)
    hits = rows.pop("voice_cache_hits")
    return [
        *(Figure("rushes_run_rows", "Rows it wrote by COPY.", float(rows[lane]), {"lane": lane}) for lane in rows),
        Figure("rushes_run_voice_cache_hits", "Voices it did not have to compute.", float(hits)),
    ]


def _stages(conn: Connection, run_id: UUID) -> list[Figure]:
    values = {"run": run_id, "lanes": list(LANES), "roots": [root_of(lane) for lane in LANES]}
    stages = dicts(conn, _STAGES, values)
    return [
        Figure(name, about, row[value], {"stage": row["stage"]})
        for name, about, value in (
            ("rushes_run_stage_seconds", "Work of each stage.", "busy_s"),
            ("rushes_run_stage_media_seconds", "Media that went through each stage.", "media_s"),
        )
        for row in stages
    ]
