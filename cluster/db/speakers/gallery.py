"""Voices out of the database, block by block: those of known people, and those that nobody knows yet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, LiteralString

import numpy as np
import psycopg
from psycopg import sql

from cluster.db.spaces import Space
from cluster.speakers.identify import Block
from cluster.speakers.scoring import Vectors

GALLERY_BLOCK = 10_000

Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Queries:
    """Unknown voices: unit vectors (queries, dimension), and which row of the space each one was read from."""

    keys: list[Key]
    rows: list[str]
    vectors: Vectors


# A voice that the machine recognised is no example of anybody: its errors would feed on themselves.
_KNOWN: LiteralString = (
    " FROM {voices} v JOIN local_speakers l USING (asset_id, local_speaker)"
    " JOIN speakers p ON p.speaker_id = l.speaker_id WHERE l.method IN ('human', 'cluster')"
)
_UNKNOWN: LiteralString = (
    "SELECT v.asset_id, v.local_speaker, v.xmin::text, v.embedding FROM {voices} v"
    " JOIN local_speakers l USING (asset_id, local_speaker) JOIN assets a USING (asset_id)"
    " WHERE NOT l.is_ghost AND (l.method IS NULL OR (%(again)s AND l.method = 'knn'))"
    " AND (%(ids)s::bigint[] IS NULL OR v.asset_id = ANY(%(ids)s)) ORDER BY a.sha256, v.local_speaker"
)


def count_known(conn: psycopg.Connection[Any], space: Space) -> tuple[int, int]:
    """How many people have a voice in the space, and how many voices they have."""
    query = sql.SQL("SELECT count(DISTINCT p.root_id), count(*)" + _KNOWN)
    row = conn.execute(query.format(voices=sql.Identifier(space.local_voices_table))).fetchone()
    assert row is not None
    return row[0], row[1]


def voices_of_person(
    conn: psycopg.Connection[Any], space: Space, speaker_id: int, but: Sequence[int], limit: int = 1_000
) -> Vectors:
    """Unit vectors (voices, dimension) of those that bear the person's name, longest first, outside assets `but`."""
    query = sql.SQL(
        "SELECT v.embedding"
        + _KNOWN
        + " AND p.root_id = %s AND v.asset_id <> ALL(%s) ORDER BY v.clean_ms DESC LIMIT %s"
    ).format(voices=sql.Identifier(space.local_voices_table))
    rows = conn.execute(query, (speaker_id, list(but), limit), binary=True).fetchall()
    return np.asarray([row[0].to_numpy() for row in rows], np.float32).reshape(-1, space.dimension)


def known_voices(conn: psycopg.Connection[Any], space: Space, block: int = GALLERY_BLOCK) -> Iterator[Block]:
    """The voices of known people with whose each is, those of a person in a row, so many at a time."""
    query = sql.SQL("SELECT p.root_id, v.embedding" + _KNOWN + " ORDER BY 1, v.asset_id, v.local_speaker")
    with conn.transaction(), conn.cursor("rushes_known_voices", binary=True) as cursor:
        # The plan for the first tenth of a cursor, PostgreSQL's default, is not the one for all of it.
        conn.execute("SET LOCAL cursor_tuple_fraction = 1")
        cursor.execute(query.format(voices=sql.Identifier(space.local_voices_table)))
        while rows := cursor.fetchmany(block):
            yield [row[0] for row in rows], stack([row[1] for row in rows])


def unknown_voices(
    conn: psycopg.Connection[Any], space: Space, asset_ids: Sequence[int] | None, *, again: bool, block: int
) -> Iterator[Queries]:
    """The voices to be recognised, in the order of content and number; `again`: those recognised before too."""
    query = sql.SQL(_UNKNOWN).format(voices=sql.Identifier(space.local_voices_table))
    values = {
        "again": again,
        "ids": None if asset_ids is None else list(asset_ids),
    }
    # It outlives the transactions in which the names of each block are written.
    with closing(conn.cursor("rushes_unknown_voices", withhold=True)) as cursor:
        cursor.execute(query, values, binary=True)
        while rows := cursor.fetchmany(block):
            yield Queries([(row[0], row[1]) for row in rows], [row[2] for row in rows], stack([r[3] for r in rows]))


def never_asked(conn: psycopg.Connection[Any], space: Space) -> list[int]:
    """Assets with unknown voices that were never compared with the known ones."""
    query = sql.SQL(
        "SELECT DISTINCT v.asset_id FROM {} v JOIN local_speakers l USING (asset_id, local_speaker)"
        " WHERE NOT l.is_ghost AND l.method IS NULL AND NOT EXISTS"
        "  (SELECT 1 FROM identifications i WHERE (i.asset_id, i.local_speaker) = (v.asset_id, v.local_speaker))"
        " ORDER BY 1"
    ).format(sql.Identifier(space.local_voices_table))
    return [row[0] for row in conn.execute(query)]


def present_people(conn: psycopg.Connection[Any], asset_ids: Sequence[int]) -> dict[int, set[int]]:
    """Asset id -> the people who speak there, as a person or a cluster says."""
    rows = conn.execute(
        "SELECT asset_id, root_id FROM local_speakers JOIN speakers USING (speaker_id)"
        " WHERE asset_id = ANY(%s) AND method IN ('human', 'cluster')",
        (sorted(set(asset_ids)),),
    )
    found: defaultdict[int, set[int]] = defaultdict(set)
    for asset_id, who in rows:
        found[asset_id].add(who)
    return found


def stack(embeddings: Sequence[Any]) -> Vectors:
    """Vectors read in binary as one array (vectors, dimension), float32, of unit length whatever stored them."""
    found = np.stack([one.to_numpy() for one in embeddings]).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)
