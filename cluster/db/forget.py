"""Forget an asset: its rows, its vectors and its cached voices; never the media itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from cluster.db.spaces import voice_spaces
from cluster.db.speakers.forget import mates_of, settle_others, speakers_named_in
from cluster.db.speakers.state import lock_decisions

_LOCK_KEY = 0x466F_7267_6574


@dataclass(frozen=True, slots=True)
class Holding:
    """What the corpus holds of one asset; `voice_key` says whether its cached voices are known as its own."""

    asset_id: int
    sha256: str
    name: str
    segments: int
    voices: int
    chunks: int
    frames: int
    voice_key: bool


_HOLDINGS = """
SELECT a.asset_id, encode(a.sha256, 'hex'), n.name,
  (SELECT count(*) FROM segments s WHERE s.asset_id = a.asset_id),
  (SELECT count(*) FROM segments s JOIN voices v USING (segment_id)
   WHERE s.asset_id = a.asset_id AND v.skip_reason IS NULL),
  (SELECT count(*) FROM chunks c WHERE c.asset_id = a.asset_id),
  (SELECT count(*) FROM frames f WHERE f.asset_id = a.asset_id), a.audio_sha256 IS NOT NULL
FROM assets a CROSS JOIN LATERAL (SELECT name FROM asset_names n WHERE n.asset_id = a.asset_id) n
WHERE a.asset_id = ANY(%s) ORDER BY n.name
"""


def holdings(conn: psycopg.Connection[Any], asset_ids: Sequence[int]) -> list[Holding]:
    """What would be forgotten, by name."""
    return [Holding(*row) for row in conn.execute(_HOLDINGS, (list(asset_ids),))]


def without_source(conn: psycopg.Connection[Any]) -> list[int]:
    """Assets that no source leads to any more."""
    rows = conn.execute(
        "SELECT asset_id FROM assets a WHERE NOT EXISTS"
        " (SELECT 1 FROM sources s WHERE s.asset_id = a.asset_id AND gone_at IS NULL) ORDER BY asset_id"
    )
    return [row[0] for row in rows]


def forget_asset(conn: psycopg.Connection[Any], asset_id: int) -> bool:
    """Delete all that was derived from the asset, in one transaction; False when it was forgotten already.

    A commit in progress is waited for; a later one finds no unit of its own and writes nothing. Cached voices
    stay while another asset has the same sound, because they are that one's too. What somebody said of its
    voices goes with it, and so does what followed from that for others.
    """
    with conn.transaction():
        lock_decisions(conn)
        # One after the other: of two assets with the same sound the last one takes the cached voices along.
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
        row = conn.execute("SELECT audio_sha256 FROM assets WHERE asset_id = %s FOR UPDATE", (asset_id,)).fetchone()
        if row is None:
            return False
        speakers, mates = speakers_named_in(conn, [asset_id]), mates_of(conn, [asset_id])
        _drop_cached_voices(conn, asset_id, row[0])
        conn.execute(
            "DELETE FROM failures WHERE asset_id IS NULL AND uri IN (SELECT uri FROM sources WHERE asset_id = %s)",
            (asset_id,),
        )
        conn.execute("DELETE FROM crash_claims WHERE asset_id = %s", (asset_id,))
        conn.execute("DELETE FROM assets WHERE asset_id = %s", (asset_id,))
        settle_others(conn, speakers, mates - {asset_id})
    return True


def _drop_cached_voices(conn: psycopg.Connection[Any], asset_id: int, audio_sha256: bytes | None) -> None:
    shared = conn.execute(
        "SELECT 1 FROM assets WHERE audio_sha256 = %s AND asset_id <> %s LIMIT 1", (audio_sha256, asset_id)
    ).fetchone()
    if audio_sha256 is None or shared is not None:
        return
    for space in voice_spaces(conn):
        query = sql.SQL("DELETE FROM {} WHERE audio_sha256 = %s").format(sql.Identifier(space.cache_table))
        conn.execute(query, (audio_sha256,))
