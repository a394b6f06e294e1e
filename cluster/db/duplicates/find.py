"""Near duplicates as they are found: each asset that waits is compared with all others, in a transaction of its own.

What is found depends on the two assets of a pair alone, so the rows end up the same in whatever order assets come.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from cluster.db.pictures import unpack_samples
from cluster.db.spaces import Space, active_space
from cluster.duplicates.align import STEP_MS, Samples, align
from cluster.duplicates.bands import NEAR_BITS, Hashes, anchors, probes

# Two pictures that would not even share a visual cluster are no copies of each other, however alike their hashes.
LEAST_SIMILARITY = 0.72
# Of two copies one has over a third of its probes in what both show; half of those may have drifted too far.
LEAST_PROBES = 1 / 16
_LOCK_KEY = 0x436F_7069_6573
_PROBES_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Pair:
    """What one asset has in common with another: a moment t of `other` is t + `offset_ms` of this one."""

    other: int
    method: str
    distance: float
    coverage: float
    other_coverage: float
    offset_ms: int
    similarity: float | None = None


def waiting(conn: psycopg.Connection[Any]) -> list[int]:
    """The assets that are not compared yet, by SHA-256."""
    rows = conn.execute(
        "SELECT asset_id FROM pictures JOIN assets USING (asset_id) WHERE NOT is_compared ORDER BY sha256"
    )
    return [row[0] for row in rows]


def count_compared(conn: psycopg.Connection[Any]) -> int:
    """How many assets are compared already."""
    row = conn.execute("SELECT count(*) FROM pictures WHERE is_compared").fetchone()
    return 0 if row is None else row[0]


def compare_again(conn: psycopg.Connection[Any]) -> int:
    """Let every asset wait to be compared anew; returns how many there are. Decisions stay."""
    return conn.execute("UPDATE pictures SET is_compared = false WHERE is_compared").rowcount


def compare_waiting(conn: psycopg.Connection[Any]) -> int:
    """Compare every asset that waits with all others; returns the pairs found. May be killed and repeated."""
    return sum(compare_one(conn, asset_id) for asset_id in waiting(conn))


def compare_one(conn: psycopg.Connection[Any], asset_id: int) -> int:
    """Write what this asset has in common with others, in place of what was known.

    Returns the pairs with assets that were compared before, so that each pair counts once; 0 too for an asset that
    no longer waits. One transaction; one comparison at a time.
    """
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
        row = conn.execute(
            "SELECT media_kind FROM assets JOIN pictures USING (asset_id)"
            " WHERE asset_id = %s AND NOT is_compared FOR NO KEY UPDATE OF assets",
            (asset_id,),
        ).fetchone()
        if row is None:
            return 0
        # without statistics the planner reads whole tables instead of the bands
        conn.execute("SET LOCAL enable_seqscan = off")
        found = _pictures(conn, asset_id) if row[0] == "image" else _videos(conn, asset_id)
        found = _confirmed(conn, active_space(conn, "image"), asset_id, found)
        return _write(conn, asset_id, found)


def _pictures(conn: psycopg.Connection[Any], asset_id: int) -> list[Pair]:
    near = _near(conn, "pictures", _keyframes(conn, asset_id), asset_id)
    return [Pair(other, "picture", min(bits.values()), 1.0, 1.0, 0) for other, bits in sorted(near.items())]


def _videos(conn: psycopg.Connection[Any], asset_id: int) -> list[Pair]:
    mine = _samples(conn, asset_id)
    seen, is_probe = anchors(mine.hashes)
    _write_anchors(conn, asset_id, seen, is_probe)
    found = []
    for other in _candidates(conn, asset_id, seen, is_probe):
        laid = align(mine, _samples(conn, other))
        if laid is not None:
            found.append(Pair(other, "sequence", laid.distance, laid.coverage_a, laid.coverage_b, laid.offset_ms))
    return found


def _candidates(conn: psycopg.Connection[Any], asset_id: int, seen: Hashes, is_probe: NDArray[np.bool_]) -> list[int]:
    """The videos in which enough probes of this one lie, or enough of whose probes lie in this one.

    An opening that many films share holds few probes of a long one, and is not laid on all of those.
    """
    mine, theirs = _near(conn, "anchors", seen[is_probe], asset_id), _near(conn, "probes", seen, asset_id)
    rows = conn.execute(
        "SELECT asset_id, count(*) FROM anchors WHERE is_probe AND asset_id = ANY(%s) GROUP BY 1",
        (sorted({asset_id, *theirs}),),
    )
    least = {one: count * LEAST_PROBES for one, count in rows}
    enough = {one for one, hits in mine.items() if len(hits) >= least[asset_id]}
    # one that was forgotten or written anew meanwhile has no probes any more
    return sorted(enough | {one for one, hits in theirs.items() if one in least and len(hits) >= least[one]})


def _keyframes(conn: psycopg.Connection[Any], asset_id: int) -> Hashes:
    rows = conn.execute("SELECT phash::bigint FROM frames WHERE asset_id = %s AND is_informative", (asset_id,))
    return np.unique(np.array([row[0] for row in rows], np.int64).view(np.uint64))


def _samples(conn: psycopg.Connection[Any], asset_id: int) -> Samples:
    row = conn.execute(
        "SELECT sample_times, sample_hashes FROM pictures WHERE asset_id = %s", (asset_id,), binary=True
    ).fetchone()
    return Samples(*unpack_samples(*(row or (b"", b""))))


def _write_anchors(conn: psycopg.Connection[Any], asset_id: int, seen: Hashes, is_probe: NDArray[np.bool_]) -> None:
    conn.execute("DELETE FROM anchors WHERE asset_id = %s", (asset_id,))
    conn.execute(
        "INSERT INTO anchors (asset_id, phash, is_probe) SELECT %s, h::bit(64), p"
        " FROM unnest(%s::bigint[], %s::boolean[]) t(h, p) ORDER BY h",
        (asset_id, seen.view(np.int64).tolist(), is_probe.tolist()),
    )


# The offset keeps the planner from turning the lookup of each hash into one scan for all.
_NEAR: LiteralString = """
SELECT DISTINCT asset_id, {probe}, bits FROM unnest(%(hashes)s::bigint[]) WITH ORDINALITY h(q, i), LATERAL (
  SELECT asset_id, phash, bit_count(phash # q::bit(64)) AS bits FROM {table} WHERE {which}
    (band0 = ANY((%(keys0)s::int[])[17 * i - 16 : 17 * i]) OR band1 = ANY((%(keys1)s::int[])[17 * i - 16 : 17 * i])
     OR band2 = ANY((%(keys2)s::int[])[17 * i - 16 : 17 * i]) OR band3 = ANY((%(keys3)s::int[])[17 * i - 16 : 17 * i]))
    AND bit_count(phash # q::bit(64)) <= %(bound)s OFFSET 0) n
  JOIN assets USING (asset_id) WHERE asset_id <> %(me)s AND media_kind = %(kind)s
"""
Place = Literal["pictures", "anchors", "probes"]
_PLACES: dict[Place, tuple[LiteralString, LiteralString, LiteralString, str]] = {
    "pictures": ("frames", "is_informative AND", "q", "image"),
    "anchors": ("anchors", "", "q", "video"),
    "probes": ("anchors", "is_probe AND", "phash::bigint", "video"),
}


def near_query(place: Place, hashes: Hashes, asset_id: int) -> tuple[sql.Composed, dict[str, Any]]:
    """The lookup of hashes through the bands, with its parameters: other asset, probe, distance in bits."""
    table, which, probe, kind = _PLACES[place]
    keys = probes(hashes)
    bands = {f"keys{n}": keys[:, n].ravel().tolist() for n in range(keys.shape[1])}
    values = {"hashes": hashes.view(np.int64).tolist(), "bound": NEAR_BITS, "me": asset_id, "kind": kind}
    names = {"table": sql.Identifier(table), "which": sql.SQL(which), "probe": sql.SQL(probe)}
    return sql.SQL(_NEAR).format(**names), {**bands, **values}


def _near(conn: psycopg.Connection[Any], place: Place, hashes: Hashes, asset_id: int) -> dict[int, dict[int, int]]:
    """Other asset -> the probes that lie within the bound of a hash of the other side -> the smallest distance."""
    found: dict[int, dict[int, int]] = {}
    for first in range(0, len(hashes), _PROBES_AT_ONCE):
        query, values = near_query(place, hashes[first : first + _PROBES_AT_ONCE], asset_id)
        for other, probe, bits in conn.execute(query, values, prepare=False):
            hits = found.setdefault(other, {})
            hits[probe] = min(bits, hits.get(probe, bits))
    return found


_SIMILARITY: LiteralString = (
    "SELECT t.other, avg(1 - (x.embedding <=> y.embedding))"
    " FROM unnest(%(others)s::bigint[], %(offsets)s::int[]) t(other, offset_ms)"
    " JOIN frames f ON f.asset_id = %(me)s AND f.is_informative"
    " JOIN frames g ON g.asset_id = t.other AND g.is_informative"
    "  AND (f.shot IS NULL OR abs(f.t_ms - g.t_ms - t.offset_ms) <= %(step)s)"
    " JOIN {vectors} x ON x.frame_id = f.frame_id JOIN {vectors} y ON y.frame_id = g.frame_id GROUP BY 1"
)


def _confirmed(conn: psycopg.Connection[Any], space: Space | None, asset_id: int, found: Sequence[Pair]) -> list[Pair]:
    """The pairs without those whose image vectors disagree; a pair without vectors stands on its hashes."""
    if space is None or not found:
        return list(found)
    rows = conn.execute(
        sql.SQL(_SIMILARITY).format(vectors=sql.Identifier(space.table_name)),
        {
            "me": asset_id,
            "others": [pair.other for pair in found],
            "offsets": [pair.offset_ms for pair in found],
            "step": STEP_MS,
        },
    )
    cosine = dict(rows.fetchall())
    return [
        replace(pair, similarity=cosine.get(pair.other))
        for pair in found
        if cosine.get(pair.other, 1.0) >= LEAST_SIMILARITY
    ]


def _write(conn: psycopg.Connection[Any], asset_id: int, found: Iterable[Pair]) -> int:
    conn.execute("DELETE FROM near_duplicates WHERE %(id)s IN (asset_a, asset_b)", {"id": asset_id})
    pairs = {pair.other: pair for pair in found}
    # what was forgotten meanwhile is left out, the rest cannot be forgotten until this ends
    there = conn.execute(
        "SELECT asset_id, is_compared FROM assets JOIN pictures USING (asset_id) WHERE asset_id = ANY(%s)"
        " ORDER BY asset_id FOR KEY SHARE OF assets",
        (sorted(pairs),),
    ).fetchall()
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO near_duplicates VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            [_row(asset_id, pairs[other]) for other, _ in there],
        )
    conn.execute("UPDATE pictures SET is_compared = true WHERE asset_id = %s", (asset_id,))
    return sum(is_compared for _, is_compared in there)


def _row(asset_id: int, pair: Pair) -> tuple[Any, ...]:
    if asset_id < pair.other:
        ends = (asset_id, pair.other, pair.method, pair.distance, pair.coverage, pair.other_coverage, pair.offset_ms)
    else:
        ends = (pair.other, asset_id, pair.method, pair.distance, pair.other_coverage, pair.coverage, -pair.offset_ms)
    return (*ends, pair.similarity)
