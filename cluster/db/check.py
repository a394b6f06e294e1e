"""Does the corpus add up? Each check names what is wrong and counts it; all zero is sound."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
from psycopg import sql

from cluster.db.spaces import Space, list_spaces

_CHECKS: dict[str, LiteralString] = {
    "done speech units whose segment count differs from the recorded outputs": """
        SELECT count(*) FROM units u WHERE lane = 'speech' AND state = 'done'
        AND outputs <> (SELECT count(*) FROM segments s WHERE s.asset_id = u.asset_id)""",
    "assets whose segments differ from known plus unknown local speakers": """
        SELECT count(*) FROM (SELECT asset_id, count(*) AS n, count(*) FILTER (WHERE local_speaker IS NULL) AS unknown
          FROM segments GROUP BY asset_id) s
        WHERE n <> unknown + coalesce((SELECT sum(segments) FROM local_speakers l WHERE l.asset_id = s.asset_id), 0)""",
    "segments without words and without a reason for it": """
        SELECT count(*) FROM segments WHERE (text = '') <> (text_skip_reason IS NOT NULL)""",
    "running units of runs that ended": """
        SELECT count(*) FROM units u JOIN runs r USING (run_id) WHERE u.state = 'running' AND r.state <> 'running'""",
    "failed units without a recorded failure": """
        SELECT count(*) FROM units u WHERE state = 'failed' AND NOT EXISTS
        (SELECT 1 FROM failures f WHERE f.asset_id = u.asset_id)""",
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
_NORMS = "SELECT count(*) FROM {table} WHERE abs({norm}(embedding) - 1) > 0.001"


def check_corpus(conn: psycopg.Connection[Any]) -> dict[str, int]:
    """What is checked -> how many rows break it."""
    found = {name: _count(conn, sql.SQL(query)) for name, query in _CHECKS.items()}
    for space in list_spaces(conn):
        found.update(_check_space(conn, space))
    return found


def _check_space(conn: psycopg.Connection[Any], space: Space) -> dict[str, int]:
    parts = {"space": sql.Literal(space.space_id), "table": sql.Identifier(space.table_name)}
    norm = sql.SQL("vector_norm" if space.storage == "vector" else "l2_norm")
    checks = {"voice": _VOICE_CHECKS, "text": _TEXT_CHECKS}.get(space.kind, {})
    found = {
        f"space {space.space_id}: {name}": _count(conn, sql.SQL(query).format(**parts))
        for name, query in checks.items()
    }
    found[f"space {space.space_id}: vectors that are not of unit length"] = _count(
        conn, sql.SQL(_NORMS).format(norm=norm, **parts)
    )
    return found


def _count(conn: psycopg.Connection[Any], query: sql.SQL | sql.Composed) -> int:
    row = conn.execute(query).fetchone()
    return row[0] if row else 0
