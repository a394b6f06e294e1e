"""Segments are replaced: labels find their place again, and a voice found again keeps what the machine knew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from cluster.db.speakers.parts import assets_found_in, derive_parts
from cluster.db.speakers.state import (
    decide_anew,
    have_decisions_locked,
    lock_assets,
    lock_decisions,
    lock_reach,
    pieces_of,
    read_marks,
    settle,
    touch_speakers,
)
from cluster.speakers.decide import Piece, attach, carried_over


@dataclass(frozen=True, slots=True)
class Before:
    """What the machine thought of the local speakers of an asset, and when these spoke.

    `naming` are the clusters, as clustering found them, of those that a person named.
    """

    pieces: Sequence[Piece]
    members: Sequence[tuple[Any, ...]]
    identified: Sequence[tuple[Any, ...]]
    speakers: frozenset[int]
    naming: frozenset[int]


_MEMBER = "local_speaker, space_id, found_in, cluster_id, similarity, speaker_id, score, margin, tau"
_IDENTIFIED = "local_speaker, space_id, speaker_id, score, margin, tau, is_accepted, run_id"

_NAMING = (
    "SELECT DISTINCT found_in FROM cluster_members JOIN local_speakers USING (asset_id, local_speaker)"
    " WHERE asset_id = %s AND method = 'human'"
)


def lock_naming(conn: psycopg.Connection[Any], asset_id: int) -> None:
    """Keep decisions out where a voice of the asset gives its name to a cluster, which follows when it changes.

    Comes before the lock on the asset.
    """
    if conn.execute(_NAMING, (asset_id,)).fetchone() is not None:
        lock_decisions(conn)


def remember(conn: psycopg.Connection[Any], asset_id: int) -> Before | None:
    """What `resettle` needs once the segments are replaced; None where nobody is named or grouped."""
    one = (asset_id,)
    members = conn.execute(f"SELECT {_MEMBER} FROM cluster_members WHERE asset_id = %s".encode(), one).fetchall()
    identified = conn.execute(f"SELECT {_IDENTIFIED} FROM identifications WHERE asset_id = %s".encode(), one).fetchall()
    speakers = _named(conn, asset_id)
    if not (members or identified or speakers or read_marks(conn, [asset_id])):
        return None
    naming = frozenset(row[0] for row in conn.execute(_NAMING, one))
    return Before(pieces_of(conn, asset_id), members, identified, speakers, naming)


def resettle(conn: psycopg.Connection[Any], asset_id: int, before: Before | None, *, voiced: bool = False) -> None:
    """After the segments of an asset were replaced: labels find their place again, and a voice found again keeps
    its cluster and its name.

    The caller has held the lock on the asset since `remember`. `voiced`: it has its voices again, so clusters that
    one of them names are decided anew; until then their other members keep the name.
    """
    if before is None:
        return
    after = pieces_of(conn, asset_id)
    same = carried_over(before.pieces, after)
    labelled = _labelled_over(conn, asset_id, before.pieces, after)
    led = {old: new for old, new in labelled.items() if new not in same.values()} | same
    _restore(conn, "cluster_members", _MEMBER, asset_id, led, before.members)
    _restore(conn, "identifications", _IDENTIFIED, asset_id, same, before.identified)
    if before.naming and voiced and have_decisions_locked(conn):
        mates = assets_found_in(conn, before.naming) | {asset_id}
        lock_assets(conn, mates)
        derive_parts(conn, before.naming)
        touched = decide_anew(conn, mates, lock_reach(conn, mates))
    else:
        touched = settle(conn, [asset_id])
    touch_speakers(conn, touched | _named(conn, asset_id) | before.speakers)


def _labelled_over(
    conn: psycopg.Connection[Any], asset_id: int, before: Sequence[Piece], after: Sequence[Piece]
) -> dict[int, int]:
    """Old number -> new number of the local speakers that the same word of a person names."""
    marks = read_marks(conn, [asset_id]).get(asset_id, [])
    now = {mark.mark_id: who for who, mark in attach(marks, after).local_speakers.items()}
    was = attach(marks, before).local_speakers
    return {who: now[mark.mark_id] for who, mark in was.items() if mark.mark_id in now}


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
