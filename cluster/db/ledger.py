"""The ledger of units: what is pending, who runs it, what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

from cluster.db import counts
from cluster.lanes import LANES, MEDIA_LANES, PARENT, ROOTS, children, root_of

NO_AUDIO = "no audio stream"
NO_PICTURES = "no pictures"
UNREADABLE = "the content could not be read"
PARENT_FAILED = "parent lane failed"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which assets a run may touch: these ids, recorded inside the interval, at most `limit`.

    `again` names the states to do over besides pending: `failed` (--retry-failed), also `done` (--force).
    `found` are sources seen by this run: of several that lead to one asset these are read, else the latest.
    """

    asset_ids: Sequence[int]
    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None
    newest_first: bool = False
    again: tuple[str, ...] = ()
    found: Sequence[str] = ()


# What each root lane needs of an asset, and the reason for skipping one without.
_NEEDS = {"speech": ("(a.audio_stream IS NOT NULL)", NO_AUDIO), "frames": ("(a.media_kind <> 'audio')", NO_PICTURES)}
# Content that could not be read is charged to the first lane alone.
CHARGED = LANES[0]
# What a unit of lane l.lane of asset a, which may not exist yet, begins as.
FIRST_STATE = (
    "CASE WHEN a.media_kind IS NULL THEN CASE WHEN l.lane = '"
    + CHARGED
    + "' THEN 'failed' ELSE 'skipped' END "
    + " ".join(
        f"WHEN l.lane IN ({', '.join(repr(lane) for lane in LANES if root_of(lane) == root)})"
        f" THEN CASE WHEN {needed} THEN 'pending' ELSE 'skipped' END"
        for root, (needed, _) in _NEEDS.items()
    )
    + " END"
)


def ensure_units(
    conn: psycopg.Connection[Any], asset_ids: Sequence[int], prints: Mapping[str, str], lanes: Sequence[str]
) -> None:
    """Every asset gets its unit in each lane under the current fingerprints; one that is being forgotten, none.

    A lane in which every asset has its unit is not looked through: it costs what is open there, not what is done.
    """
    chosen, complete = frozenset(asset_ids), counts.complete_lanes(conn, prints, lanes)
    for lane in lanes:
        if lane not in complete:
            _add_units(conn, _lacking(conn, chosen, lane, prints[lane]), lane, prints)
        _reconsider(conn, chosen & _doubtful(conn, lane, prints[lane]), lane, prints[lane])


def _lacking(conn: psycopg.Connection[Any], chosen: Collection[int], lane: str, fingerprint: str) -> set[int]:
    """Those of the assets without a unit in the lane."""
    rows = conn.execute(
        "SELECT asset_id FROM assets a WHERE NOT EXISTS (SELECT 1 FROM units u"
        " WHERE (u.asset_id, u.lane, u.fingerprint) = (a.asset_id, %s, %s))",
        (lane, fingerprint),
    )
    return {row[0] for row in rows if row[0] in chosen}


def _add_units(conn: psycopg.Connection[Any], asset_ids: Collection[int], lane: str, prints: Mapping[str, str]) -> None:
    if asset_ids:
        needed, _ = _NEEDS[root_of(lane)]
        conn.execute(
            "INSERT INTO units (asset_id, lane, fingerprint, state, reason)"
            " SELECT asset_id, %(lane)s, %(print)s,"
            f"   CASE WHEN media_kind IS NULL THEN %(unread)s WHEN {needed} THEN 'pending' ELSE 'skipped' END,"
            f"   CASE WHEN media_kind IS NULL THEN %(unreadable)s WHEN {needed} THEN NULL ELSE %(lacking)s END"
            " FROM assets a WHERE asset_id = ANY(%(ids)s)"
            " ORDER BY asset_id FOR KEY SHARE OF a ON CONFLICT DO NOTHING".encode(),
            {"print": prints[lane], "ids": sorted(asset_ids), **_words(lane)},
        )


def _doubtful(conn: psycopg.Connection[Any], lane: str, fingerprint: str) -> set[int]:
    """Assets that can be read, whose unit says they cannot, or waits for what they do not have."""
    needed, _ = _NEEDS[root_of(lane)]
    # One partial index each. `reason` is no parameter: the index is only taken for the words it was made with.
    rows = conn.execute(
        " UNION ALL ".join(
            "SELECT a.asset_id FROM units u JOIN assets a USING (asset_id) WHERE a.media_kind IS NOT NULL"
            f" AND u.lane = %(lane)s AND u.fingerprint = %(print)s AND {state}"
            for state in (
                f"u.state = 'skipped' AND u.reason = '{UNREADABLE}'",
                f"u.state = 'failed' AND NOT {needed}",
                f"u.state = 'pending' AND NOT {needed}",
            )
        ).encode(),
        {"lane": lane, "print": fingerprint},
    )
    return {row[0] for row in rows}


def _reconsider(conn: psycopg.Connection[Any], asset_ids: Collection[int], lane: str, fingerprint: str) -> None:
    """What could not be read before has work in this lane by now, or turned out to have nothing for it."""
    if not asset_ids:
        return
    needed, _ = _NEEDS[root_of(lane)]
    conn.execute(
        f"UPDATE units u SET state = CASE WHEN {needed} THEN 'pending' ELSE 'skipped' END,"
        f" reason = CASE WHEN {needed} THEN NULL ELSE %(lacking)s END FROM assets a"
        " WHERE a.asset_id = u.asset_id AND a.media_kind IS NOT NULL AND u.asset_id = ANY(%(ids)s)"
        " AND u.lane = %(lane)s AND u.fingerprint = %(print)s"
        " AND ((u.state = 'skipped' AND u.reason = %(unread_before)s)"
        f" OR (u.state IN ('failed', 'pending') AND NOT {needed}))".encode(),
        {"print": fingerprint, "ids": sorted(asset_ids), "unread_before": UNREADABLE, **_words(lane)},
    )


def _words(lane: str) -> dict[str, str]:
    root = root_of(lane)
    return {
        "lane": lane,
        "lacking": _NEEDS[root][1],
        "unread": "failed" if lane == CHARGED else "skipped",
        "unreadable": PARENT_FAILED if root == CHARGED != lane else UNREADABLE,
    }


def reset_units(
    conn: psycopg.Connection[Any],
    asset_ids: Sequence[int],
    prints: Mapping[str, str],
    lanes: Sequence[str],
    states: Sequence[str],
) -> int:
    """Put the units in `states` back to pending; skipped children of a failed parent come back with it."""
    rows = conn.execute(
        "UPDATE units SET state = 'pending', reason = NULL, run_id = NULL, attempts = 0, not_before = NULL"
        " WHERE asset_id = ANY(%s) AND lane = ANY(%s) AND fingerprint = ANY(%s)"
        " AND (state = ANY(%s) OR (state = 'skipped' AND reason = %s))",
        (list(asset_ids), list(lanes), [prints[lane] for lane in lanes], list(states), PARENT_FAILED),
    )
    return rows.rowcount


def retry_units(conn: psycopg.Connection[Any], chosen: Collection[tuple[int, str]], prints: Mapping[str, str]) -> None:
    """Put exactly these failed (asset, lane) back to pending, and the children that were skipped with them.

    An asset that no source leads to any more is left alone: nothing could read it. So is a lane that is off.
    """
    pairs = sorted(
        {(asset_id, name) for asset_id, lane in chosen for name in (lane, *children([lane])) if name in prints}
    )
    conn.execute(
        "UPDATE units u SET state = 'pending', reason = NULL, run_id = NULL, attempts = 0, not_before = NULL"
        " FROM unnest(%s::bigint[], %s::text[], %s::text[]) t(asset_id, lane, fingerprint)"
        " WHERE (u.asset_id, u.lane, u.fingerprint) = (t.asset_id, t.lane, t.fingerprint)"
        " AND ((u.state = 'failed' AND (t.asset_id, t.lane) IN (SELECT * FROM unnest(%s::bigint[], %s::text[])))"
        "   OR (u.state = 'skipped' AND u.reason = %s))"
        " AND EXISTS (SELECT 1 FROM sources s WHERE s.asset_id = u.asset_id AND s.gone_at IS NULL)",
        ([a for a, _ in pairs], [lane for _, lane in pairs], [prints[lane] for _, lane in pairs],
         [a for a, _ in sorted(chosen)], [lane for _, lane in sorted(chosen)], PARENT_FAILED),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class PendingRow:
    """One asset with the lanes of one root that can run, parents first, once `due_in_s` seconds have passed."""

    asset_id: int
    sha256: str
    uri: str
    byte_size: int
    mtime_ns: int | None
    media_kind: str
    audio_stream: int | None
    duration_ms: int | None
    due_in_s: float
    lanes: tuple[str, ...]

    @property
    def root(self) -> str:
        """The root lane of its chain."""
        return root_of(self.lanes[0])


_PENDING = """
SELECT a.asset_id, a.sha256, coalesce(s.uri, n.name), a.byte_size, s.mtime_ns,
       a.media_kind, a.audio_stream, a.duration_ms, s.uri IS NOT NULL,
       jsonb_object_agg(u.lane, coalesce(greatest(0, extract(epoch FROM u.not_before - now())), 0)::float8)
         FILTER (WHERE u.lane = ANY(%(lanes)s) AND (u.state = ANY(%(states)s)
           OR (%(retry)s AND u.state = 'skipped' AND u.reason = %(parent_failed)s))),
       array_agg(u.lane) FILTER (WHERE u.state = 'done')
FROM units u JOIN assets a USING (asset_id) LEFT JOIN LATERAL
  (SELECT uri, mtime_ns FROM sources WHERE asset_id = a.asset_id AND gone_at IS NULL
   ORDER BY uri = ANY(%(found)s) DESC, seen_at DESC, uri LIMIT 1) s ON true
  LEFT JOIN LATERAL (SELECT name FROM asset_names WHERE asset_id = a.asset_id AND s.uri IS NULL LIMIT 1) n ON true
WHERE u.asset_id = ANY(%(ids)s) AND a.asset_id = ANY(%(ids)s) AND a.media_kind IS NOT NULL
  AND (u.lane, u.fingerprint) IN (SELECT * FROM unnest(%(all)s::text[], %(prints)s::text[]))
  AND (%(since)s::timestamptz IS NULL OR a.recorded_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR a.recorded_at < %(until)s)
GROUP BY a.asset_id, s.uri, s.mtime_ns, n.name
HAVING bool_or(u.state = ANY(%(states)s) AND u.lane = ANY(%(lanes)s))
"""
_LONGEST = " ORDER BY a.duration_ms DESC NULLS LAST, a.sha256"
_NEWEST = " ORDER BY a.recorded_at DESC NULLS LAST, a.sha256"


def pending_rows(
    conn: psycopg.Connection[Any], selection: Selection, prints: Mapping[str, str], lanes: Sequence[str]
) -> tuple[list[PendingRow], int]:
    """Rows that can run now, and how many assets wait for a parent lane that is not done.

    An asset has a row for each of its root lanes; a picture comes before what takes longer, unless the newest
    are to come first. One that no source leads to any more has only lanes that read no media.
    """
    order = _NEWEST if selection.newest_first else _LONGEST
    rows = conn.execute(
        (_PENDING + order).encode(),
        {
            "lanes": list(lanes),
            "ids": _open_assets(conn, selection, prints, lanes),
            "all": list(prints),
            "prints": list(prints.values()),
            "since": selection.since,
            "until": selection.until,
            "found": list(selection.found),
            "states": ["pending", *selection.again],
            "retry": bool(selection.again),
            "parent_failed": PARENT_FAILED,
        },
    ).fetchall()
    ready: list[list[PendingRow]] = []
    waiting = 0
    for asset_id, sha256, uri, size, mtime_ns, kind, stream, duration_ms, is_there, due_s, done in rows:
        runnable = runnable_lanes(due_s if is_there else set(due_s) - MEDIA_LANES, done or ())
        if not runnable:
            waiting += is_there
            continue
        ready.append(
            [
                PendingRow(
                    asset_id,
                    bytes(sha256).hex(),
                    uri,
                    size,
                    mtime_ns,
                    kind,
                    stream,
                    duration_ms,
                    max(due_s[lane] for lane in mine),
                    mine,
                )
                for root in ROOTS
                if (mine := tuple(lane for lane in runnable if root_of(lane) == root))
            ]
        )
    found = [row for asset in ready[: selection.limit] for row in asset]
    if not selection.newest_first:
        found.sort(key=lambda row: row.media_kind != "image")
    return found, waiting


def _open_assets(
    conn: psycopg.Connection[Any], selection: Selection, prints: Mapping[str, str], lanes: Sequence[str]
) -> list[int]:
    """Those selected that have work in one of the lanes: looked up by what is open, however much is done."""
    chosen = frozenset(selection.asset_ids)
    # A state that is written out takes its partial index.
    query = " UNION ".join(
        "SELECT asset_id FROM units WHERE (lane, fingerprint) IN (SELECT * FROM unnest(%(lanes)s::text[],"
        f" %(prints)s::text[])) AND state = '{state}'"
        for state in ("pending", *selection.again)
    )
    rows = conn.execute(query.encode(), {"lanes": list(lanes), "prints": [prints[lane] for lane in lanes]})
    return sorted({row[0] for row in rows if row[0] in chosen})


def vanished_assets(
    conn: psycopg.Connection[Any], selection: Selection, prints: Mapping[str, str], lanes: Sequence[str]
) -> list[int]:
    """Those selected that have work in a lane that reads media, while no source leads to them any more."""
    reading = [lane for lane in lanes if lane in MEDIA_LANES]
    rows = conn.execute(
        "SELECT DISTINCT asset_id FROM units u WHERE asset_id = ANY(%s) AND state = ANY(%s)"
        " AND (lane, fingerprint) IN (SELECT * FROM unnest(%s::text[], %s::text[]))"
        " AND NOT EXISTS (SELECT 1 FROM sources s WHERE s.asset_id = u.asset_id AND gone_at IS NULL)"
        " ORDER BY asset_id",
        (
            _open_assets(conn, selection, prints, reading),
            ["pending", *selection.again],
            reading,
            [prints[lane] for lane in reading],
        ),
    )
    return [row[0] for row in rows]


def runnable_lanes(wanted: Collection[str], done: Collection[str]) -> tuple[str, ...]:
    """The wanted lanes whose parent is done or runs in the same row, parents first."""
    roots = [lane for lane in sorted(wanted) if lane not in PARENT]
    have = set(done) | set(roots)
    rest = [lane for lane in sorted(wanted, reverse=True) if lane in PARENT and PARENT[lane] in have]
    return (*roots, *rest)


def claim_units(
    conn: psycopg.Connection[Any],
    run_id: UUID,
    asset_id: int,
    lanes: Sequence[str],
    prints: Mapping[str, str],
    node: str | None = None,
) -> list[dict[str, Any]]:
    """Take the asset's pending units for the run, if it still lives; units another run holds are left out.

    `node` is the host that will work on them.
    """
    rows = conn.execute(
        "UPDATE units SET state = 'running', generation = generation + 1, run_id = %s, node = %s,"
        " started_at = now(), finished_at = NULL, reason = NULL, not_before = NULL, pace = NULL"
        " WHERE asset_id = %s AND (lane, fingerprint) IN (SELECT * FROM unnest(%s::text[], %s::text[]))"
        " AND (state = 'pending' OR (state = 'running' AND run_id = %s))"
        " AND EXISTS (SELECT 1 FROM runs WHERE run_id = %s AND state = 'running')"
        " RETURNING lane, fingerprint, generation",
        (run_id, node, asset_id, list(lanes), [prints[lane] for lane in lanes], run_id, run_id),
    ).fetchall()
    taken = {lane: {"lane": lane, "fingerprint": fp, "generation": gen} for lane, fp, gen in rows}
    return [taken[lane] for lane in lanes if lane in taken]


def read_segments(conn: psycopg.Connection[Any], asset_id: int) -> list[dict[str, Any]]:
    """The committed segments of an asset, in the shape of the `segments` column."""
    rows = conn.execute(
        "SELECT idx, start_ms, end_ms, local_speaker, text, words, text_skip_reason"
        " FROM segments WHERE asset_id = %s ORDER BY idx",
        (asset_id,),
    )
    names = ("idx", "start_ms", "end_ms", "local_speaker", "text", "words", "text_skip_reason")
    found = []
    for row in rows:
        segment = dict(zip(names, row, strict=True))
        segment["words"] = [
            dict(zip(("start_ms", "end_ms", "text", "probability"), word, strict=True)) for word in segment["words"]
        ]
        found.append(segment)
    return found


def count_states(
    conn: psycopg.Connection[Any], asset_ids: Sequence[int], prints: Mapping[str, str], lanes: Sequence[str]
) -> dict[str, int]:
    """Assets by what became of them: failed beats running beats pending beats skipped beats done.

    What is done is not looked at: it is all that is left.
    """
    chosen, found = frozenset(asset_ids), dict[int, str]()
    values = {"lanes": list(lanes), "prints": [prints[lane] for lane in lanes]}
    for state in ("failed", "running", "pending", "skipped"):
        # What is skipped in one lane and not in every other one is done there.
        every = "GROUP BY asset_id HAVING count(*) = cardinality(%(lanes)s::text[])" if state == "skipped" else ""
        rows = conn.execute(
            "SELECT asset_id FROM units WHERE (lane, fingerprint) IN (SELECT * FROM unnest(%(lanes)s::text[],"
            f" %(prints)s::text[])) AND state = '{state}' {every}".encode(),
            values,
        )
        for (asset_id,) in rows:
            if asset_id in chosen:
                found.setdefault(asset_id, state)
    told, done = Counter(found.values()), len(chosen) - len(found)
    return {**told, **({"done": done} if done else {})}
