"""Assets as people keep them: a list by name, with tags and collections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from cluster.errors import UsageError

LONGEST_LABEL = 200
Label = Literal["tag", "collection"]
_TABLES = {"tag": "asset_tags", "collection": "asset_collections"}


@dataclass(frozen=True, slots=True)
class Page:
    """Which assets to list: these ids (None: all), only those without a source, so many, after so many."""

    asset_ids: Sequence[int] | None = None
    vanished: bool = False
    limit: int | None = None
    offset: int = 0


# The page is cut before anything is looked up for it.
_CHOSEN = """
  SELECT a.asset_id, n.name FROM assets a JOIN asset_names n USING (asset_id)
  WHERE (%(ids)s::bigint[] IS NULL OR a.asset_id = ANY(%(ids)s)) AND (NOT %(vanished)s OR NOT EXISTS
    (SELECT 1 FROM sources s WHERE s.asset_id = a.asset_id AND gone_at IS NULL))
"""
# Of all assets the first are found along the names themselves: those of sources, then those of content.
_FIRST = """
  (SELECT s.asset_id, s.uri AS name FROM sources s WHERE s.uri = (SELECT coalesce(min(o.uri) FILTER
     (WHERE o.gone_at IS NULL), min(o.uri)) FROM sources o WHERE o.asset_id = s.asset_id)
   ORDER BY s.uri LIMIT %(limit)s + %(offset)s)
  UNION ALL (SELECT asset_id, name FROM (SELECT a.asset_id, 'sha256:' || left(encode(a.sha256, 'hex'), 12) AS name
     FROM assets a WHERE NOT EXISTS (SELECT 1 FROM sources s WHERE s.asset_id = a.asset_id)) t
   ORDER BY name, asset_id LIMIT %(limit)s + %(offset)s)
"""
_ASSETS = """
WITH page AS (SELECT * FROM ({page}) p ORDER BY name, asset_id LIMIT %(limit)s OFFSET %(offset)s)
SELECT a.asset_id, p.name, encode(a.sha256, 'hex') AS sha256, a.media_kind, a.duration_ms, a.recorded_at,
       a.title, a.channel,
       ARRAY(SELECT tag FROM asset_tags t WHERE t.asset_id = a.asset_id ORDER BY 1) AS tags,
       ARRAY(SELECT collection FROM asset_collections c WHERE c.asset_id = a.asset_id ORDER BY 1) AS collections,
       coalesce((SELECT jsonb_agg(jsonb_build_object('uri', uri, 'gone_at', gone_at) ORDER BY gone_at IS NOT NULL, uri)
          FROM sources s WHERE s.asset_id = a.asset_id), '[]') AS sources,
       coalesce((SELECT array_agg(s.uri ORDER BY gone_at IS NOT NULL, s.uri) FROM sources s
          WHERE s.asset_id = a.asset_id), ARRAY[p.name]) AS uris,
       (SELECT jsonb_object_agg(lane, state) FROM (SELECT DISTINCT ON (lane) lane, state FROM units u
          WHERE u.asset_id = a.asset_id ORDER BY lane, finished_at DESC NULLS LAST) l) AS lanes,
       (SELECT jsonb_agg(jsonb_build_array(local_speaker, n) ORDER BY local_speaker) FROM
          (SELECT local_speaker, count(*) n FROM segments g WHERE g.asset_id = a.asset_id GROUP BY 1) c) AS speakers,
       (SELECT jsonb_build_object('width', width, 'height', height,
            'shots', (SELECT count(*) FROM shots h WHERE h.asset_id = a.asset_id),
            'frames', (SELECT count(*) FROM frames f WHERE f.asset_id = a.asset_id))
          FROM pictures i WHERE i.asset_id = a.asset_id) AS pictures,
       (SELECT coalesce(min(reason) FILTER (WHERE state = 'failed'), min(reason) FILTER (WHERE lane = 'speech'))
          FROM units u WHERE u.asset_id = a.asset_id AND state IN ('failed', 'skipped')) AS reason
FROM page p JOIN assets a USING (asset_id) ORDER BY p.name, a.asset_id
"""


def list_assets(conn: psycopg.Connection[Any], page: Page) -> list[dict[str, Any]]:
    """One row per asset, by name: sources, length, labels, lane states, segments per local speaker, pictures."""
    values = {
        "ids": None if page.asset_ids is None else list(page.asset_ids),
        "vanished": page.vanished,
        "limit": page.limit,
        "offset": page.offset,
    }
    all_of_them = page.asset_ids is None and not page.vanished and page.limit is not None
    query = _ASSETS.replace("{page}", _FIRST if all_of_them else _CHOSEN)
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), values).fetchall()


def ids_by_sha256(conn: psycopg.Connection[Any], shas: Sequence[str]) -> dict[str, int]:
    """SHA-256 in hex -> asset id, for those that there are."""
    rows = conn.execute(
        "SELECT encode(sha256, 'hex'), asset_id FROM assets WHERE sha256 = ANY(%s)", ([bytes.fromhex(s) for s in shas],)
    )
    return dict(rows.fetchall())


def shas_and_names(conn: psycopg.Connection[Any], asset_ids: Sequence[int]) -> dict[int, tuple[str, str]]:
    """Asset id -> its SHA-256 in hex and its name."""
    rows = conn.execute(
        "SELECT asset_id, encode(sha256, 'hex'), name FROM assets JOIN asset_names USING (asset_id)"
        " WHERE asset_id = ANY(%s)",
        (list(asset_ids),),
    )
    return {asset_id: (sha256, name) for asset_id, sha256, name in rows}


def read_asset(conn: psycopg.Connection[Any], sha256: str) -> dict[str, Any] | None:
    """What is known of the content with this SHA-256 (hex), by column; None when it is no asset."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "SELECT asset_id, encode(sha256, 'hex') AS sha256, byte_size, media_kind, container, duration_ms,"
            " audio_stream, width, height, fps, sample_rate_hz, channels FROM assets WHERE sha256 = %s",
            (bytes.fromhex(sha256),),
        ).fetchone()


def add_label(conn: psycopg.Connection[Any], kind: Label, name: str, asset_ids: Sequence[int]) -> int:
    """Give the assets a tag, or put them into a collection; returns how many did not have it yet.

    Names that differ in case only are one: the spelling that stands is kept. An asset that was forgotten
    meanwhile is left out.
    """
    return write_labels(conn, kind, [checked_label(kind, name)], asset_ids)


def write_labels(conn: psycopg.Connection[Any], kind: Label, names: Sequence[str], asset_ids: Sequence[int]) -> int:
    """`add_label` of several names, which may be as long as a side-car's; returns how many rows are new."""
    query = sql.SQL(
        "INSERT INTO {table} (asset_id, {column}) SELECT a.asset_id, coalesce((SELECT min({column}) FROM {table}"
        "   WHERE lower({column}) = lower(n.name)), n.name) FROM assets a CROSS JOIN"
        "   (SELECT DISTINCT ON (lower(name)) name FROM unnest(%(names)s::text[]) WITH ORDINALITY u(name, place)"
        "    ORDER BY lower(name), place) n WHERE a.asset_id = ANY(%(ids)s)"
        " AND NOT EXISTS (SELECT 1 FROM {table} t WHERE t.asset_id = a.asset_id AND lower({column}) = lower(n.name))"
        " ORDER BY a.asset_id, lower(n.name) FOR KEY SHARE OF a ON CONFLICT DO NOTHING"
    ).format(table=sql.Identifier(_TABLES[kind]), column=sql.Identifier(kind))
    return conn.execute(query, {"names": list(names), "ids": sorted(set(asset_ids))}).rowcount


def drop_label(conn: psycopg.Connection[Any], kind: Label, name: str, asset_ids: Sequence[int]) -> int:
    """Take the tag or collection from the assets; returns how many had it."""
    query = sql.SQL("DELETE FROM {} WHERE asset_id = ANY(%s) AND lower({}) = lower(%s)").format(
        sql.Identifier(_TABLES[kind]), sql.Identifier(kind)
    )
    return conn.execute(query, (list(asset_ids), name.strip())).rowcount


def checked_label(kind: Label, name: str) -> str:
    """The name without blanks around it; `UsageError` for one that nobody could read back."""
    name = name.strip()
    if not name or not name.isprintable() or len(name) > LONGEST_LABEL:
        raise UsageError(f"{kind} {name[:40]!r}: give 1 to {LONGEST_LABEL} printable characters")
    return name
