"""Segments are replaced: labels find their place again, and a voice found again keeps what the machine knew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from cluster.db.speakers.state import pieces_of, read_marks, settle, touch_speakers
from cluster.speakers.decide import Piece, carried_over


@dataclass(frozen=True, slots=True)
class Before:
    """What the machine thought of the local speakers of an asset, and when these spoke."""

    pieces: Sequence[Piece]
    members: Sequence[tuple[Any, ...]]
    identified: Sequence[tuple[Any, ...]]
    speakers: frozenset[int]


_MEMBER = "local_speaker, space_id, found_in, cluster_id, similarity, speaker_id, score, margin, tau"
_IDENTIFIED = "local_speaker, space_id, speaker_id, score, margin, tau, is_accepted, run_id"


def remember(conn: psycopg.Connection[Any], asset_id: int) -> Before | None:
    """What `resettle` needs once the segments are replaced; None where nobody is named or grouped."""
    members = conn.execute(f"SELECT {_MEMBER} FROM cluster_members WHERE asset_id = %s".encode(), (asset_id,))
    identified = conn.execute(f"SELECT {_IDENTIFIED} FROM identifications WHERE asset_id = %s".encode(), (asset_id,))
    found = Before(
        pieces_of(conn, asset_id),
        members.fetchall(),
        identified.fetchall(),
        _named(conn, asset_id),
    )
    return found if found.members or found.identified or found.speakers or read_marks(conn, [asset_id]) else None


def resettle(conn: psycopg.Connection[Any], asset_id: int, before: Before | None) -> None:
    """After the segments of an asset were replaced: labels find their place again, and a voice found again keeps
    its cluster and its name.

    The caller holds the lock on the asset.
    """
    if before is None and not read_marks(conn, [asset_id]):
        return
    if before is not None:
        same = carried_over(before.pieces, pieces_of(conn, asset_id))
        _restore(conn, "cluster_members", _MEMBER, asset_id, same, before.members)
        _restore(conn, "identifications", _IDENTIFIED, asset_id, same, before.identified)
    touched = settle(conn, [asset_id])
    touch_speakers(conn, touched | _named(conn, asset_id) | (before.speakers if before else frozenset()))


def _restore(
    conn: psycopg.Connection[Any],
    table: str,
    columns: str,
    asset_id: int,
    same: Mapping[int, int],
    rows: Sequence[tuple[Any, ...]],
) -> None:
    marks = ", ".join(["%s"] * (len(columns.split(",")) + 1))
    with conn.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {table} (asset_id, {columns}) VALUES ({marks}) ON CONFLICT DO NOTHING".encode(),
            [(asset_id, same[row[0]], *row[1:]) for row in rows if row[0] in same],
        )


def _named(conn: psycopg.Connection[Any], asset_id: int) -> frozenset[int]:
    rows = conn.execute(
        "SELECT speaker_id FROM local_speakers WHERE asset_id = %s AND speaker_id IS NOT NULL"
        " UNION SELECT l.speaker_id FROM segment_labels l JOIN segments USING (segment_id)"
        " WHERE asset_id = %s AND l.speaker_id IS NOT NULL",
        (asset_id, asset_id),
    )
    return frozenset(row[0] for row in rows)
