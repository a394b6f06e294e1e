"""Cards: what a person needs to see and hear of a cluster to say who it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import psycopg
from psycopg import sql

from cluster.db.report import dicts
from cluster.db.spaces import Space
from cluster.db.speakers.parts import Key

Place = Literal["medoid", "nearest", "farthest"]

# A segment of this length says enough and is heard to its end.
SNIPPET_MS = (4_000, 8_000)


@dataclass(frozen=True, slots=True)
class Snippet:
    """A time of an asset to listen to, typical of one voice; `similarity` is that voice's to its cluster."""

    asset: str
    sha256: str
    local_speaker: int
    start_ms: int
    end_ms: int
    text: str
    similarity: float | None = None
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """One cluster. `unnamed` counts its voices that nobody knows, `names` the people its voices have been given.

    `version` is another one as soon as its voices, or who they are, change.
    """

    cluster_id: int
    members: int
    unnamed: int
    assets: int
    segments: int
    speech_ms: int
    unnamed_ms: int
    names: Sequence[str]
    cohesion: float
    cohesion_p5: float
    version: str
    snippets: Sequence[Snippet]


@dataclass(frozen=True, slots=True)
class Lone:
    """An unknown voice in no cluster."""

    segments: int
    speech_ms: int
    snippet: Snippet | None


_CARDS = """
SELECT m.cluster_id, count(*) AS members, count(*) FILTER (WHERE l.method IS NULL) AS unnamed,
  count(DISTINCT m.asset_id) AS assets, sum(l.segments)::bigint AS segments, sum(l.speech_ms)::bigint AS speech_ms,
  coalesce(sum(l.speech_ms) FILTER (WHERE l.method IS NULL), 0)::bigint AS unnamed_ms,
  coalesce(array_agg(DISTINCT p.name) FILTER (WHERE p.name IS NOT NULL), '{}') AS names,
  avg(m.similarity) AS cohesion, percentile_cont(0.05) WITHIN GROUP (ORDER BY m.similarity) AS cohesion_p5,
  md5(string_agg(concat_ws(':', m.asset_id, m.local_speaker, l.method, l.speaker_id), ','
    ORDER BY m.asset_id, m.local_speaker)) AS version
FROM cluster_members m JOIN local_speakers l USING (asset_id, local_speaker)
LEFT JOIN speakers s ON s.speaker_id = l.speaker_id LEFT JOIN speakers p ON p.speaker_id = s.root_id
WHERE m.space_id = %(space)s AND (%(ids)s::bigint[] IS NULL OR m.cluster_id = ANY(%(ids)s))
GROUP BY m.cluster_id HAVING NOT %(unnamed)s OR count(*) FILTER (WHERE l.method IS NULL) > 0
ORDER BY unnamed_ms DESC, speech_ms DESC, m.cluster_id LIMIT %(limit)s OFFSET %(offset)s
"""
_SHOWN = """
SELECT cluster_id, asset_id, local_speaker, similarity, best, worst FROM (
  SELECT cluster_id, asset_id, local_speaker, similarity,
    row_number() OVER (PARTITION BY cluster_id ORDER BY similarity DESC, asset_id, local_speaker) AS best,
    row_number() OVER (PARTITION BY cluster_id ORDER BY similarity, asset_id DESC, local_speaker DESC) AS worst
  FROM cluster_members WHERE cluster_id = ANY(%s)) t
WHERE best <= 3 OR worst <= 2 ORDER BY cluster_id, best
"""
# Of the segments of a voice the one of a good length that sounds most like all of it.
_SNIPPETS = sql.SQL("""
SELECT t.asset_id, t.local_speaker, n.name, encode(a.sha256, 'hex'), b.start_ms, b.end_ms, b.text
FROM unnest(%(assets)s::bigint[], %(numbers)s::int[]) t(asset_id, local_speaker)
JOIN asset_names n ON n.asset_id = t.asset_id JOIN assets a ON a.asset_id = t.asset_id
LEFT JOIN {voices} v ON v.asset_id = t.asset_id AND v.local_speaker = t.local_speaker
CROSS JOIN LATERAL (
  SELECT s.start_ms, s.end_ms, s.text FROM segments s LEFT JOIN segment_groups g USING (segment_id)
  LEFT JOIN {vectors} e USING (segment_id)
  WHERE s.asset_id = t.asset_id AND coalesce(s.local_speaker, g.local_speaker) = t.local_speaker
  ORDER BY e.embedding IS NULL, greatest(%(least)s - (s.end_ms - s.start_ms), (s.end_ms - s.start_ms) - %(most)s, 0),
    e.embedding <=> v.embedding, s.start_ms LIMIT 1) b
""")
_LONE = """
SELECT l.asset_id, l.local_speaker, l.segments, l.speech_ms FROM local_speakers l
JOIN {voices} v USING (asset_id, local_speaker)
WHERE l.method IS NULL AND NOT l.is_ghost AND NOT EXISTS (SELECT 1 FROM cluster_members m
  WHERE (m.asset_id, m.local_speaker) = (l.asset_id, l.local_speaker) AND m.space_id = %(space)s)
ORDER BY l.speech_ms DESC, 1, 2 LIMIT %(limit)s
"""


def cluster_cards(
    conn: psycopg.Connection[Any],
    space: Space,
    limit: int,
    cluster_ids: Sequence[int] | None = None,
    *,
    offset: int = 0,
    unnamed: bool = False,
) -> list[Card]:
    """The clusters of a space, or these of them, the one with most speech of unknown people first.

    `unnamed` leaves out those in which everybody is known; the first `offset` are left out too.
    """
    ids = None if cluster_ids is None else list(cluster_ids)
    values = {"space": space.space_id, "limit": limit, "ids": ids, "offset": offset, "unnamed": unnamed}
    rows = dicts(conn, _CARDS, values)
    snippets = _snippets_of(conn, space, [row["cluster_id"] for row in rows])
    return [Card(**row, snippets=snippets[row["cluster_id"]]) for row in rows]


def members_of(conn: psycopg.Connection[Any], cluster_id: int, limit: int) -> list[dict[str, Any]]:
    """The voices of a cluster, the one most like all of it first: asset, counts, and whose they are by what."""
    return dicts(
        conn,
        "SELECT encode(a.sha256, 'hex') AS sha256, n.name, m.local_speaker, m.similarity, l.segments, l.speech_ms,"
        "  p.speaker_id, p.name AS speaker, l.method"
        " FROM cluster_members m JOIN local_speakers l USING (asset_id, local_speaker) JOIN assets a USING (asset_id)"
        " JOIN asset_names n USING (asset_id) LEFT JOIN speakers s ON s.speaker_id = l.speaker_id"
        " LEFT JOIN speakers p ON p.speaker_id = s.root_id"
        " WHERE m.cluster_id = %(id)s ORDER BY m.similarity DESC, m.asset_id, m.local_speaker LIMIT %(limit)s",
        {"id": cluster_id, "limit": limit},
    )


def lone_voices(conn: psycopg.Connection[Any], space: Space, limit: int) -> list[Lone]:
    """Unknown voices that are in no cluster, the one that speaks most first."""
    query = sql.SQL(_LONE).format(voices=sql.Identifier(space.local_voices_table))
    rows = conn.execute(query, {"space": space.space_id, "limit": limit}).fetchall()
    snippets = _snippets(conn, space, [(row[0], row[1]) for row in rows])
    return [Lone(row[2], row[3], snippets.get((row[0], row[1]))) for row in rows]


def count_unnamed(conn: psycopg.Connection[Any], space: Space) -> tuple[int, int, int]:
    """(clusters, unknown voices in them, unknown voices in none) of a space."""
    row = conn.execute(
        sql.SQL(
            "SELECT (SELECT count(DISTINCT cluster_id) FROM cluster_members WHERE space_id = %(space)s),"
            " count(m.asset_id), count(*) - count(m.asset_id)"
            " FROM local_speakers l JOIN {} v USING (asset_id, local_speaker)"
            " LEFT JOIN cluster_members m ON (m.asset_id, m.local_speaker, m.space_id)"
            "  = (l.asset_id, l.local_speaker, %(space)s) WHERE l.method IS NULL AND NOT l.is_ghost"
        ).format(sql.Identifier(space.local_voices_table)),
        {"space": space.space_id},
    ).fetchone()
    assert row is not None
    return row


def _snippets_of(conn: psycopg.Connection[Any], space: Space, cluster_ids: Sequence[int]) -> dict[int, list[Snippet]]:
    """Of each cluster the medoid, the two voices nearest to the centroid after it, and the two farthest."""
    shown = conn.execute(_SHOWN, (list(cluster_ids),)).fetchall()
    snippets = _snippets(conn, space, [(row[1], row[2]) for row in shown])
    found: defaultdict[int, list[Snippet]] = defaultdict(list)
    for cluster_id, asset_id, who, similarity, best, _ in shown:
        snippet = snippets.get((asset_id, who))
        if snippet is not None:
            place: Place = "medoid" if best == 1 else "nearest" if best <= 3 else "farthest"
            found[cluster_id].append(replace(snippet, similarity=similarity, place=place))
    return found


def _snippets(conn: psycopg.Connection[Any], space: Space, keys: Sequence[Key]) -> dict[Key, Snippet]:
    rows = conn.execute(
        _SNIPPETS.format(voices=sql.Identifier(space.local_voices_table), vectors=sql.Identifier(space.table_name)),
        {
            "assets": [asset_id for asset_id, _ in keys],
            "numbers": [who for _, who in keys],
            "least": SNIPPET_MS[0],
            "most": SNIPPET_MS[1],
        },
    )
    return {(asset_id, who): Snippet(name, sha256, who, *values) for asset_id, who, name, sha256, *values in rows}
