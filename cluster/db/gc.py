"""What the database holds and nobody needs any more: found, counted, and dropped in small transactions.

What a living session names (`cluster.db.uses`) is left alone, the active spaces too. Tables are locked in
the order in which commits lock them, parents first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from cluster.db.spaces import OWNER, RETIRED, Space, count_vectors, list_spaces, space_names, voice_spaces
from cluster.db.speakers.state import lock_decisions, refresh
from cluster.db.uses import take_unused
from cluster.lanes import ROOTS

BATCH_ROWS = 5_000
# A longer wait for a table would hold up the searches that come after it.
LOCK_WAIT_MS = 2_000
_ROWS = {"text": ("chunks", "chunk_id"), "voice": ("voices", "segment_id"), "image": ("visual_members", "frame_id")}
# What the tables of a space refer to besides the owners of its vectors.
_REFERRED = {"voice": ("local_speakers", "speakers"), "image": ("visual_clusters",)}


@dataclass(frozen=True, slots=True)
class Keep:
    """What the settings in force need: unit fingerprints, and the names of spaces."""

    prints: frozenset[str]
    spaces: frozenset[str]


@dataclass(frozen=True, slots=True)
class Found:
    """One thing to drop: rows, and the bytes of its tables where it has tables of its own."""

    what: str
    name: str
    rows: int
    size_bytes: int = 0
    space: Space | None = None


def find_unneeded(conn: psycopg.Connection[Any], keep: Keep) -> list[Found]:
    """What `drop` would drop now, spaces first."""
    retired = retired_spaces(conn, keep)
    kept = {space.space_id for space in list_spaces(conn)} - {found.space.space_id for found in retired if found.space}
    counted = [
        Found("units", "of old fingerprints", sum(_old_units(conn, keep, kept).values())),
        Found("voice cache", "of sound that no asset is known to have", sum(_orphan_voices(conn, kept).values())),
        Found("crash claims", "of runs that ended", _count(conn, f"SELECT count(*) {_ENDED_CLAIMS}")),
    ]
    return [*retired, *(found for found in counted if found.rows)]


def retired_spaces(conn: psycopg.Connection[Any], keep: Keep) -> list[Found]:
    """Spaces that are neither active nor of the settings in force nor worked on."""
    names, found = space_names(conn), []
    for space in list_spaces(conn, with_retired=True):
        name = names[space.space_id]
        if space.is_active or name in keep.spaces:
            continue
        with conn.transaction():
            if take_unused(conn, name):
                rows = _rows(conn, space)
                size_bytes = sum(_size_bytes(conn, table) for table in space.tables)
                what = f"{space.kind} space {space.space_id}"
                found.append(Found(what, f"{space.profile}, {space.dimension}-d", rows, size_bytes, space))
    return found


def _rows(conn: psycopg.Connection[Any], space: Space) -> int:
    """What hangs on the space: rows of its own, or its vectors, where other spaces share the rows."""
    if space.kind == "image" and conn.execute("SELECT to_regclass(%s)", (space.table_name,)).fetchone() != (None,):
        return count_vectors(conn, space)
    query = sql.SQL("SELECT count(*) FROM {} WHERE space_id = %s").format(sql.Identifier(_ROWS[space.kind][0]))
    return _count(conn, query, (space.space_id,))


def drop_space(conn: psycopg.Connection[Any], space: Space) -> bool:
    """Drop a retired space: its tables at once, its rows in batches. False when it is in use or active again.

    Safe to repeat: a space whose tables are gone carries a name that no model has, until its rows are gone too.
    """
    if not _drop_tables(conn, space):
        return False
    table, key = _ROWS[space.kind]
    batch = sql.SQL("DELETE FROM {0} WHERE space_id = %s AND {1} IN (SELECT {1} FROM {0} WHERE space_id = %s LIMIT %s)")
    batch = batch.format(sql.Identifier(table), sql.Identifier(key))
    while conn.execute(batch, (space.space_id, space.space_id, BATCH_ROWS)).rowcount:
        pass
    with conn.transaction():
        lock_decisions(conn)
        # Clusters of its voices gave names, which go with it.
        rows = conn.execute(
            "SELECT asset_id FROM cluster_members WHERE space_id = %(id)s"
            " UNION SELECT asset_id FROM identifications WHERE space_id = %(id)s",
            {"id": space.space_id},
        ).fetchall()
        conn.execute("DELETE FROM spaces WHERE space_id = %s", (space.space_id,))
        refresh(conn, [row[0] for row in rows])
    return True


def _drop_tables(conn: psycopg.Connection[Any], space: Space) -> bool:
    with conn.transaction():
        conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_WAIT_MS)))
        name = space_names(conn).get(space.space_id)
        if name is None or not take_unused(conn, name):
            return False
        row = conn.execute(
            "UPDATE spaces SET config_hash = %s WHERE space_id = %s AND NOT is_active RETURNING space_id",
            (f"{RETIRED}{space.space_id}", space.space_id),
        ).fetchone()
        if row is None:
            return False
        # Dropping a table locks those it refers to as well; a commit holds these first, in this order.
        parents = [OWNER[space.kind][1], *_REFERRED.get(space.kind, ())]
        names = sql.SQL(", ").join(map(sql.Identifier, parents))
        conn.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(names))
        for table in space.tables:
            conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(table)))
    return True


def drop_rest(conn: psycopg.Connection[Any], keep: Keep) -> dict[str, int]:
    """Drop units, cached voices and crash claims that nobody needs; returns how many rows of each."""
    kept = {space.space_id for space in list_spaces(conn)}
    units = sum(_drop_units(conn, one, kept) for one in _old_units(conn, keep, kept))
    voices = sum(_drop_voices(conn, table) for table in _orphan_voices(conn, kept))
    claims = conn.execute(f"DELETE {_ENDED_CLAIMS}".encode()).rowcount
    return {"units": units, "voice cache": voices, "crash claims": claims}


def needed_copies(conn: psycopg.Connection[Any]) -> set[str]:
    """SHA-256 (hex) of every content that an object-store source leads to."""
    rows = conn.execute(
        "SELECT DISTINCT encode(sha256, 'hex') FROM assets JOIN sources USING (asset_id)"
        " WHERE uri ~ '^[A-Za-z][A-Za-z0-9+.-]+://' AND gone_at IS NULL"
    )
    return {row[0] for row in rows}


def unneeded_thumbnails(conn: psycopg.Connection[Any], names: Collection[str]) -> set[str]:
    """Those of the SHA-256 (hex) that no frame has as its thumbnail."""
    rows = conn.execute(
        "SELECT encode(t.name, 'hex') FROM unnest(%s::bytea[]) t(name)"
        " WHERE NOT EXISTS (SELECT 1 FROM frames f WHERE f.thumbnail = t.name)",
        ([bytes.fromhex(name) for name in names],),
    )
    return {row[0] for row in rows}


def give_space_back(conn: psycopg.Connection[Any]) -> None:
    """Let later rows use the place of the dropped ones, and the system what lies at the end of the files."""
    conn.execute("VACUUM (ANALYZE) chunks, voices, visual_members, units")


def database_bytes(conn: psycopg.Connection[Any]) -> int:
    """What the database takes on disk."""
    return _count(conn, "SELECT pg_database_size(current_database())")


# A finished root lane is what the segments or frames are; a finished child is what its space holds.
_OLD_UNITS = """
FROM units u WHERE state <> 'running' AND fingerprint <> ALL(%(prints)s)
  AND (state <> 'done' OR (lane <> ALL(%(roots)s) AND NOT coalesce((detail->>'space_id')::int = ANY(%(kept)s), false)))
"""
_ENDED_CLAIMS = (
    "FROM crash_claims c WHERE NOT EXISTS (SELECT 1 FROM runs r WHERE r.run_id = c.run_id AND r.state = 'running')"
)
_ORPHANS = "FROM {} c WHERE NOT EXISTS (SELECT 1 FROM assets a WHERE a.audio_sha256 = c.audio_sha256)"


def _old_units(conn: psycopg.Connection[Any], keep: Keep, kept: Collection[int]) -> dict[str, int]:
    """Fingerprint -> how many units nobody needs."""
    rows = conn.execute(
        f"SELECT fingerprint, count(*) {_OLD_UNITS} GROUP BY 1 ORDER BY 1".encode(), _values(keep.prints, kept)
    ).fetchall()
    found = {}
    for fingerprint, count in rows:
        with conn.transaction():
            if take_unused(conn, fingerprint):
                found[fingerprint] = count
    return found


def _drop_units(conn: psycopg.Connection[Any], fingerprint: str, kept: Collection[int]) -> int:
    with conn.transaction():
        if not take_unused(conn, fingerprint):
            return 0
        values = {**_values((), kept), "one": fingerprint}
        return conn.execute(f"DELETE {_OLD_UNITS} AND fingerprint = %(one)s".encode(), values).rowcount


def _values(prints: Collection[str], kept: Collection[int]) -> Mapping[str, Any]:
    return {"prints": sorted(prints), "kept": sorted(kept), "roots": list(ROOTS)}


def _orphan_voices(conn: psycopg.Connection[Any], kept: Collection[int]) -> dict[str, int]:
    """Cache table -> how many voices are of sound that no asset has."""
    caches = [space.cache_table for space in voice_spaces(conn) if space.space_id in kept]
    counts = {
        name: _count(conn, sql.SQL(f"SELECT count(*) {_ORPHANS}").format(sql.Identifier(name))) for name in caches
    }
    return {name: count for name, count in counts.items() if count}


def _drop_voices(conn: psycopg.Connection[Any], table: str) -> int:
    return conn.execute(sql.SQL(f"DELETE {_ORPHANS}").format(sql.Identifier(table))).rowcount


def _size_bytes(conn: psycopg.Connection[Any], table: str) -> int:
    return _count(conn, "SELECT coalesce(pg_total_relation_size(to_regclass(%s)), 0)", (table,))


def _count(conn: psycopg.Connection[Any], query: str | sql.Composed, values: tuple[Any, ...] = ()) -> int:
    row = conn.execute(query.encode() if isinstance(query, str) else query, values).fetchone()
    assert row is not None
    return row[0]
