"""Title, channel, date, tags and collections: what people and their downloaders say of an asset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from cluster.db.assets import write_labels
from cluster.formats.info_json import Info


def apply_info(conn: psycopg.Connection[Any], asset_id: int, info: Info) -> None:
    """Record what `info` says; what it leaves open stays, tags and collections are added to those there are.

    The date wins over the container's, the name's and the file's, now and in later registrations.
    """
    with conn.transaction():
        conn.execute(
            "UPDATE assets SET title = coalesce(%(title)s, title), channel = coalesce(%(channel)s, channel),"
            " recorded_at = coalesce(%(at)s::timestamptz, recorded_at),"
            " recorded_at_origin = CASE WHEN %(at)s::timestamptz IS NULL THEN recorded_at_origin ELSE 'info' END"
            " WHERE asset_id = %(id)s",
            {"id": asset_id, "title": info.title, "channel": info.channel, "at": info.recorded_at},
        )
        write_labels(conn, "tag", info.tags, [asset_id])
        write_labels(conn, "collection", info.collections, [asset_id])


def said_of(conn: psycopg.Connection[Any], asset_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Asset -> its title, channel, tags and collections."""
    rows = conn.execute(
        "SELECT asset_id, title, channel,"
        " ARRAY(SELECT tag FROM asset_tags t WHERE t.asset_id = a.asset_id ORDER BY tag),"
        " ARRAY(SELECT collection FROM asset_collections c WHERE c.asset_id = a.asset_id ORDER BY collection)"
        " FROM assets a WHERE asset_id = ANY(%s)",
        (list(asset_ids),),
    )
    return {row[0]: dict(zip(("title", "channel", "tags", "collections"), row[1:], strict=True)) for row in rows}


def sources_like(conn: psycopg.Connection[Any], start: str) -> list[tuple[str, int]]:
    """(source, asset) of every source whose name begins with `start`."""
    return conn.execute(
        "SELECT uri, asset_id FROM sources WHERE starts_with(uri, %s) ORDER BY uri", (start,)
    ).fetchall()
