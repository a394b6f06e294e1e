"""Does the corpus add up? Each check names what is wrong and counts it; all zero is sound."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
from psycopg import sql

from cluster.db.local_voices import FORGOTTEN
from cluster.db.spaces import Space, list_spaces
from cluster.db.speakers.forget import FORGOTTEN_SEGMENTS

_CHECKS: dict[str, LiteralString] = {
    "done speech units whose segment count differs from the recorded outputs": """
        SELECT count(*) FROM units u WHERE lane = 'speech' AND state = 'done'
        AND outputs <> (SELECT count(*) FROM segments s WHERE s.asset_id = u.asset_id)""",
    "assets whose segments differ from known plus unknown local speakers": """
        SELECT count(*) FROM (SELECT asset_id, count(*) AS n, count(*) FILTER (WHERE local_speaker IS NULL) AS unknown
          FROM segments GROUP BY asset_id) s
        WHERE n <> unknown + coalesce((SELECT sum(segments) FROM local_speakers l WHERE l.asset_id = s.asset_id
          AND NOT is_grouped), 0)""",
    "groups of voices whose segment count differs from their segments": """
        SELECT count(*) FROM local_speakers l WHERE is_grouped AND segments <> (SELECT count(*) FROM segment_groups g
          WHERE (g.asset_id, g.local_speaker) = (l.asset_id, l.local_speaker))""",
    "segments that are not known or unknown exactly once": """
        SELECT abs((SELECT count(*) FROM segments) - count(*)) + count(*) - count(DISTINCT segment_id)
        FROM segment_speakers""",
    "people whom the machine named twice in one asset, or beside a person": """
        SELECT count(*) FROM (SELECT 1 FROM local_speakers l JOIN speakers p USING (speaker_id)
          GROUP BY asset_id, p.root_id HAVING count(*) > 1 AND bool_or(method <> 'human')) t""",
    "names in force of people about whom no decision stands": """
        SELECT count(*) FROM (SELECT speaker_id FROM local_speakers UNION ALL SELECT speaker_id FROM segment_labels) n
        JOIN speakers p USING (speaker_id) WHERE NOT p.is_used OR p.root_id IS NULL""",
    "names by a person without the decision behind them": """
        SELECT (SELECT count(*) FROM segment_labels l JOIN segments s USING (segment_id) WHERE NOT EXISTS
            (SELECT 1 FROM standing_marks m WHERE m.mark_id = l.mark_id AND m.asset_id = s.asset_id
              AND m.speaker_id IS NOT DISTINCT FROM l.speaker_id))
          + (SELECT count(*) FROM local_speakers l WHERE method = 'human' AND NOT EXISTS
            (SELECT 1 FROM standing_marks m WHERE m.asset_id = l.asset_id AND m.scope = 'speaker'
              AND m.speaker_id IS NOT DISTINCT FROM l.speaker_id))""",
    "members of a cluster of another space, or with half an offer": """
        SELECT count(*) FROM cluster_members m JOIN voice_clusters c USING (cluster_id)
        JOIN voice_clusters f ON f.cluster_id = m.found_in WHERE m.space_id NOT IN (c.space_id, f.space_id)
        OR c.space_id <> f.space_id OR (m.speaker_id IS NULL) <> (m.score IS NULL)
        OR (m.speaker_id IS NULL) <> (m.tau IS NULL)""",
    "done frames units whose frame count differs from the recorded outputs": """
        SELECT count(*) FROM units u WHERE lane = 'frames' AND state = 'done'
        AND (outputs <> (SELECT count(*) FROM frames f WHERE f.asset_id = u.asset_id)
          OR outputs = 0 OR NOT EXISTS (SELECT 1 FROM pictures p WHERE p.asset_id = u.asset_id))""",
    "frames outside their shot, or of a shot that is not there": """
        SELECT count(*) FROM frames f LEFT JOIN shots s ON (s.asset_id, s.idx) = (f.asset_id, f.shot)
        WHERE f.shot IS NOT NULL AND NOT coalesce(f.t_ms BETWEEN s.start_ms AND s.end_ms, false)""",
    "near duplicates without pictures, or of a picture and a video": """
        SELECT count(*) FROM near_duplicates n WHERE (SELECT count(*) FROM pictures p JOIN assets a USING (asset_id)
          WHERE p.asset_id IN (n.asset_a, n.asset_b)
          AND (a.media_kind = 'image') = (n.method = 'picture')) <> 2""",
    "compared videos without anchors, and anchors of anything else": """
        SELECT count(*) FROM pictures p JOIN assets a USING (asset_id)
        WHERE CASE WHEN EXISTS (SELECT 1 FROM anchors n WHERE n.asset_id = p.asset_id)
          THEN media_kind = 'image' OR samples = 0 ELSE media_kind = 'video' AND is_compared AND samples > 0 END""",
    "pictures in a visual cluster of another space": """
        SELECT count(*) FROM visual_members m JOIN visual_clusters c USING (cluster_id)
        WHERE m.space_id <> c.space_id""",
    "segments without words and without a reason for it": """
        SELECT count(*) FROM segments WHERE (text = '') <> (text_skip_reason IS NOT NULL)""",
    "running units of runs that ended": """
        SELECT count(*) FROM units u JOIN runs r USING (run_id) WHERE u.state = 'running' AND r.state <> 'running'""",
    "failed units without a recorded failure": """
        SELECT count(*) FROM units u WHERE state = 'failed' AND NOT EXISTS
        (SELECT 1 FROM failures f WHERE f.asset_id = u.asset_id)""",
    "kinds of units whose kept count or length differs from the units": """
        SELECT count(*) FROM (SELECT run_id, node, lane, fingerprint, state, sum(n), sum(ms) FROM
          (SELECT run_id, node, lane, fingerprint, state, 1 AS n, coalesce(duration_ms, 0) AS ms
             FROM units JOIN assets USING (asset_id)
           UNION ALL SELECT run_id, node, lane, fingerprint, state, -units, -media_ms FROM unit_counts) t
          GROUP BY 1, 2, 3, 4, 5 HAVING sum(n) <> 0 OR sum(ms) <> 0) d""",
    "indexes that are not valid": """
        SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT indisvalid AND n.nspname = current_schema()""",
}
_VOICE_CHECKS: dict[str, LiteralString] = {
    "segments of done assets without a voice or a skip reason": """
        SELECT count(*) FROM units u JOIN segments s USING (asset_id) WHERE u.lane = 'voices' AND u.state = 'done'
        AND u.detail->>'space_id' = {space}::text
        AND NOT EXISTS (SELECT 1 FROM voices v WHERE v.segment_id = s.segment_id AND v.space_id = {space})""",
    "voices that have both a vector and a skip reason, or neither": """
        SELECT count(*) FROM voices v LEFT JOIN {table} e USING (segment_id) WHERE v.space_id = {space}
        AND (e.segment_id IS NULL) <> (v.skip_reason IS NOT NULL)""",
    "voices skipped for a reason that nobody knows": """
        SELECT count(*) FROM voices WHERE space_id = {space} AND skip_reason <> ALL({reasons})""",
    "vectors of times whose voice prints a person had deleted": """
        SELECT count(*) FROM {table} WHERE segment_id IN ({forgotten})""",
    "mean voices of local speakers that are not of unit length": """
        SELECT count(*) FROM {local_voices} WHERE NOT abs({norm}(embedding) - 1) <= 0.001""",
}
_TEXT_CHECKS: dict[str, LiteralString] = {
    "worded segments of done assets outside every chunk": """
        SELECT count(*) FROM units u JOIN segments s USING (asset_id) WHERE u.lane = 'texts' AND u.state = 'done'
        AND u.detail->>'space_id' = {space}::text AND s.text <> ''
        AND NOT EXISTS (SELECT 1 FROM chunks c WHERE c.asset_id = s.asset_id AND c.space_id = {space}
          AND s.idx BETWEEN c.first_segment AND c.last_segment)""",
    "chunks without a vector": """
        SELECT count(*) FROM chunks c LEFT JOIN {table} e USING (chunk_id)
        WHERE c.space_id = {space} AND e.chunk_id IS NULL""",
}
_IMAGE_CHECKS: dict[str, LiteralString] = {
    "frames of done assets without an image vector": """
        SELECT count(*) FROM units u JOIN frames f USING (asset_id) WHERE u.lane = 'images' AND u.state = 'done'
        AND u.detail->>'space_id' = {space}::text
        AND NOT EXISTS (SELECT 1 FROM {table} e WHERE e.frame_id = f.frame_id)""",
    "visual clusters without the vector of their leader": """
        SELECT count(*) FROM visual_clusters c WHERE c.space_id = {space}
        AND NOT EXISTS (SELECT 1 FROM {leaders} l WHERE l.cluster_id = c.cluster_id)""",
}
_NORMS = "SELECT count(*) FROM {table} WHERE abs({norm}(embedding) - 1) > 0.001"
_SKIP_REASONS = ("too_short", "silent", "overlapped", "not_finite", FORGOTTEN)


def check_corpus(conn: psycopg.Connection[Any]) -> dict[str, int]:
    """What is checked -> how many rows break it."""
    found = {name: _count(conn, sql.SQL(query)) for name, query in _CHECKS.items()}
    for space in list_spaces(conn):
        found.update(_check_space(conn, space))
    return found


def _check_space(conn: psycopg.Connection[Any], space: Space) -> dict[str, int]:
    parts = {
        "space": sql.Literal(space.space_id),
        "table": sql.Identifier(space.table_name),
        "leaders": sql.Identifier(space.leaders_table),
        "local_voices": sql.Identifier(space.local_voices_table),
        "norm": sql.SQL("vector_norm" if space.storage == "vector" else "l2_norm"),
        "forgotten": sql.SQL(FORGOTTEN_SEGMENTS),
        "reasons": sql.Literal(list(_SKIP_REASONS)),
    }
    checks = {"voice": _VOICE_CHECKS, "text": _TEXT_CHECKS, "image": _IMAGE_CHECKS}.get(space.kind, {})
    found = {
        f"space {space.space_id}: {name}": _count(conn, sql.SQL(query).format(**parts))
        for name, query in checks.items()
    }
    found[f"space {space.space_id}: vectors that are not of unit length"] = _count(
        conn, sql.SQL(_NORMS).format(**parts)
    )
    return found


def _count(conn: psycopg.Connection[Any], query: sql.SQL | sql.Composed) -> int:
    row = conn.execute(query).fetchone()
    return row[0] if row else 0
