"""People as a person asks about them: how much of the speech is named, by whom, and who is not known yet."""

from __future__ import annotations

from typing import Any

import psycopg

from cluster.db.report import dicts

SNIPPETS = 3

# The shares of each method, of each person, are counted once and added up.
_PEOPLE = """
WITH said AS (SELECT speaker_id, asset_id, method, count(*) AS n, sum(end_ms - start_ms) AS ms
    FROM segment_speakers WHERE speaker_id IS NOT NULL GROUP BY 1, 2, 3),
  methods AS (SELECT speaker_id, method, sum(n)::bigint AS n FROM said GROUP BY 1, 2),
  decided AS (SELECT s.root_id AS speaker_id, max(e.at) AS at FROM standing_events e
    JOIN speakers s ON s.speaker_id IN (e.speaker_id, e.into_id) GROUP BY 1)
SELECT p.speaker_id, p.name, coalesce(sum(n), 0)::bigint AS segments, coalesce(sum(ms), 0)::bigint AS speech_ms,
  count(DISTINCT asset_id) AS assets, d.at AS last_decision,
  coalesce((SELECT jsonb_object_agg(method, m.n) FROM methods m WHERE m.speaker_id = p.speaker_id), '{}')
    AS segments_by_method
FROM speakers p LEFT JOIN said USING (speaker_id) LEFT JOIN decided d USING (speaker_id)
WHERE p.is_used AND p.merged_into IS NULL GROUP BY p.speaker_id, p.name, d.at ORDER BY speech_ms DESC, p.name
"""


def list_people(conn: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    """Everybody with a name, most speech first: segments by method, `speech_ms`, assets, when last decided about."""
    return dicts(conn, _PEOPLE, {})


def speech_total(conn: psycopg.Connection[Any]) -> dict[str, int]:
    """Segments in all, known and unknown, and the speech in ms of all and of the known."""
    return dicts(
        conn,
        "SELECT (SELECT count(*) FROM segments) AS segments, count(speaker_id) AS known,"
        " count(*) FILTER (WHERE speaker_id IS NULL) AS unknown,"
        " coalesce(sum(end_ms - start_ms), 0)::bigint AS speech_ms,"
        " coalesce(sum(end_ms - start_ms) FILTER (WHERE speaker_id IS NOT NULL), 0)::bigint AS known_ms"
        " FROM segment_speakers",
        {},
    )[0]


def assets_of(conn: psycopg.Connection[Any], speaker_id: int) -> list[dict[str, Any]]:
    """The assets in which the person speaks, by name, each with its counts and its longest segments."""
    return dicts(
        conn,
        "WITH said AS (SELECT v.*, s.text, row_number() OVER (PARTITION BY v.asset_id"
        "   ORDER BY v.end_ms - v.start_ms DESC, v.idx) AS place"
        "  FROM segment_speakers v JOIN segments s USING (segment_id) WHERE v.speaker_id = %(id)s)"
        " SELECT encode(a.sha256, 'hex') AS sha256, n.name, count(*) AS segments,"
        "  sum(end_ms - start_ms)::bigint AS speech_ms,"
        "  (SELECT jsonb_object_agg(method, c) FROM (SELECT method, count(*) c FROM said t"
        "    WHERE t.asset_id = a.asset_id GROUP BY 1) m) AS segments_by_method,"
        "  jsonb_agg(jsonb_build_object('start_ms', start_ms, 'end_ms', end_ms, 'text', text, 'score', score)"
        "   ORDER BY place) FILTER (WHERE place <= %(snippets)s) AS longest"
        " FROM said JOIN assets a USING (asset_id) JOIN asset_names n USING (asset_id)"
        " GROUP BY a.asset_id, a.sha256, n.name ORDER BY n.name, a.asset_id",
        {"id": speaker_id, "snippets": SNIPPETS},
    )


# From the speaker's rows outward, as in `outcome`: the view would be read whole.
_SEGMENTS = """
WITH family AS (SELECT speaker_id FROM speakers WHERE root_id = %(id)s),
heard AS (SELECT asset_id FROM local_speakers WHERE speaker_id IN (SELECT speaker_id FROM family)
  UNION SELECT s.asset_id FROM segment_labels l JOIN segments s USING (segment_id)
    WHERE l.speaker_id IN (SELECT speaker_id FROM family))
SELECT encode(a.sha256, 'hex') AS sha256, n.name, v.local_speaker, v.start_ms, v.end_ms, s.text, v.method, v.score
FROM segment_speakers v JOIN segments s USING (segment_id) JOIN assets a ON a.asset_id = v.asset_id
JOIN asset_names n ON n.asset_id = v.asset_id
WHERE v.asset_id IN (SELECT asset_id FROM heard) AND v.speaker_id = %(id)s
ORDER BY n.name, v.asset_id, v.idx LIMIT %(limit)s OFFSET %(offset)s
"""


def segments_of(conn: psycopg.Connection[Any], speaker_id: int, limit: int, offset: int = 0) -> list[dict[str, Any]]:
    """What the person says, by name of the asset and by time: at most `limit` segments after so many."""
    return dicts(conn, _SEGMENTS, {"id": speaker_id, "limit": limit, "offset": offset})


def events_about(conn: psycopg.Connection[Any], speaker_id: int) -> list[dict[str, Any]]:
    """What was decided about the person and those merged into it, oldest first."""
    return dicts(
        conn,
        "SELECT e.event_id, e.kind, coalesce(e.name, s.first_name) AS name, i.name AS into, e.author, e.at,"
        "  EXISTS (SELECT 1 FROM standing_events t WHERE t.event_id = e.event_id) AS stands"
        " FROM speaker_events e JOIN speakers s USING (speaker_id) LEFT JOIN speakers i ON i.speaker_id = e.into_id"
        " WHERE e.undoes IS NULL AND (s.root_id = %(id)s OR i.root_id = %(id)s) ORDER BY e.event_id",
        {"id": speaker_id},
    )


_UNKNOWN = """
WITH most AS (SELECT asset_id, local_speaker, segments, speech_ms FROM local_speakers
  WHERE speaker_id IS NULL AND method IS NULL AND NOT is_ghost
  ORDER BY speech_ms DESC, asset_id, local_speaker LIMIT %(limit)s)
SELECT n.name, encode(a.sha256, 'hex') AS sha256, l.local_speaker, l.segments, l.speech_ms, t.start_ms, t.end_ms, t.text
FROM most l JOIN assets a USING (asset_id) JOIN asset_names n USING (asset_id)
CROSS JOIN LATERAL (SELECT v.start_ms, v.end_ms, s.text FROM segment_speakers v JOIN segments s USING (segment_id)
  WHERE (v.asset_id, v.local_speaker) = (l.asset_id, l.local_speaker)
  ORDER BY v.is_labelled, v.end_ms - v.start_ms DESC, v.idx LIMIT 1) t
ORDER BY l.speech_ms DESC, l.asset_id, l.local_speaker
"""


def unknown_voices(conn: psycopg.Connection[Any], limit: int) -> list[dict[str, Any]]:
    """Local speakers without a name, most speech first, each with its longest segment; ghosts are left out."""
    return dicts(conn, _UNKNOWN, {"limit": limit})


def count_ghosts(conn: psycopg.Connection[Any]) -> int:
    """Local speakers that are no people, most likely, and that nobody named."""
    row = conn.execute("SELECT count(*) FROM local_speakers WHERE is_ghost AND speaker_id IS NULL").fetchone()
    return row[0] if row else 0
