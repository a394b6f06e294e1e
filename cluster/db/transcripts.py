"""What exports are written from: names that tell assets apart, transcripts, and rows with their vectors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from cluster.conversation import Segment
from cluster.db.connect import snapshot
from cluster.db.ledger import read_segments
from cluster.db.report import assets_table, dicts, transcript_language
from cluster.db.spaces import Space, active_space, get_space, list_spaces
from cluster.db.speakers.who import speakers_in
from cluster.errors import RushesError, UsageError
from cluster.formats import Transcript
from cluster.lanes import SPACE_OF_LANE

# A file name has at most 255 bytes, and a format and a speaker come after the asset.
NAME_BYTES = 180
BATCH_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Named:
    """An asset and the name it has in files: its source's, with digits of its SHA-256 where two share one."""

    asset_id: int
    sha256: str
    name: str
    duration_ms: int | None = None


def name_asset(conn: psycopg.Connection[Any], asset_id: int) -> Named:
    """One asset by the name of its source alone, which another may share."""
    row = conn.execute(
        "SELECT encode(sha256, 'hex'), name, duration_ms FROM asset_names JOIN assets USING (asset_id)"
        " WHERE asset_id = %s",
        (asset_id,),
    ).fetchone()
    assert row is not None
    return Named(asset_id, row[0], _stem(row[1]), row[2])


def name_assets(conn: psycopg.Connection[Any]) -> list[Named]:
    """Every asset by name; which others are asked for does not change a name, so that a rerun finds its files."""
    rows = conn.execute(
        "SELECT asset_id, encode(sha256, 'hex'), name, duration_ms FROM asset_names JOIN assets USING (asset_id)"
        " ORDER BY name, asset_id"
    ).fetchall()
    found = [Named(asset_id, sha256, _stem(uri), duration_ms) for asset_id, sha256, uri, duration_ms in rows]
    for digits in (8, 64):
        shared = Counter(item.name.casefold() for item in found)
        found = [
            replace(item, name=f"{item.name}-{item.sha256[:digits]}") if shared[item.name.casefold()] > 1 else item
            for item in found
        ]
    return found


def _stem(uri: str) -> str:
    place = uri.partition("?")[0] if "://" in uri else uri
    stem = Path(place.rsplit("/", 1)[-1]).stem.strip() or "unnamed"
    return stem.encode()[:NAME_BYTES].decode("utf-8", "ignore")


def read_transcript(conn: psycopg.Connection[Any], named: Named) -> Transcript | None:
    """The committed transcript of an asset; None when there is none yet.

    Segments of an earlier pass stay good when a later one is pending or failed.
    """
    row = conn.execute(
        "SELECT duration_ms, title, channel, EXISTS (SELECT 1 FROM units u WHERE u.asset_id = a.asset_id"
        "  AND lane = 'speech' AND state = 'done') FROM assets a WHERE asset_id = %s",
        (named.asset_id,),
    ).fetchone()
    segments = [Segment.from_row(segment) for segment in read_segments(conn, named.asset_id)]
    if row is None or not (segments or row[3]):
        return None
    return Transcript(
        named.name,
        row[0],
        transcript_language(conn, named.asset_id),
        segments,
        speakers_in(conn, named.asset_id),
        named.sha256,
        row[1],
        row[2],
    )


def transcript_of(conn: psycopg.Connection[Any], named: Named) -> Transcript:
    """The transcript of one asset that a person named; `RushesError` when there is none yet."""
    with snapshot(conn):
        transcript = read_transcript(conn, named)
    if transcript is None:
        raise RushesError(missing_reason(conn, named))
    return transcript


def missing_reason(conn: psycopg.Connection[Any], named: Named) -> str:
    """Why the asset has no transcript, in a line."""
    row = assets_table(conn, [named.asset_id])[0]
    return f"{row['uris'][0]} has no transcript: {row['reason'] or 'run `rushes ingest` on it first'}"


def readable_sources(conn: psycopg.Connection[Any], asset_id: int) -> list[dict[str, Any]]:
    """What the decoder needs to know of each source of the asset that is not gone."""
    return dicts(
        conn,
        "SELECT s.uri, encode(a.sha256, 'hex') AS sha256, s.byte_size, s.mtime_ns, a.audio_stream, a.duration_ms"
        " FROM assets a JOIN sources s USING (asset_id) WHERE asset_id = %(id)s AND gone_at IS NULL ORDER BY uri",
        {"id": asset_id},
    )


def chosen_spaces(conn: psycopg.Connection[Any], asked: Sequence[int]) -> dict[str, Space]:
    """Kind -> the space whose vectors are exported: the one asked for, else the active one."""
    known = {space.space_id: space for space in list_spaces(conn)}
    unknown = [number for number in asked if number not in known]
    if unknown:
        listed = ", ".join(f"{space.space_id} ({space.kind}, {space.profile})" for space in known.values())
        raise UsageError(f"there is no space {unknown[0]}; known: {listed or 'none'}")
    chosen = {kind: space for kind in SPACE_OF_LANE.values() if (space := active_space(conn, kind)) is not None}
    for number in asked:
        space = get_space(conn, number)
        if any(known[other].kind == space.kind for other in asked if other != number):
            raise UsageError(f"--space {' and '.join(map(str, asked))} are of one kind: one of each is exported")
        chosen[space.kind] = space
    return chosen


def describe_space(conn: psycopg.Connection[Any], space: Space) -> dict[str, str]:
    """What a file of its vectors says of the space: model, revision, dimension and where it came from."""
    row = conn.execute(
        "SELECT config_hash, identity->>'weights' FROM spaces WHERE space_id = %s", (space.space_id,)
    ).fetchone()
    config_hash, weights = row or ("", None)
    pinned = re.fullmatch(r"hub:[^@]+@([0-9a-f]+).*|.*==(.+)|(sha256:.+)", weights or "")
    return {
        "rushes.space": str(space.space_id),
        "rushes.kind": space.kind,
        "rushes.profile": space.profile,
        "rushes.model": space.model,
        "rushes.revision": next(filter(None, pinned.groups()), "") if pinned else "",
        "rushes.dimension": str(space.dimension),
        "rushes.storage": space.storage,
        "rushes.config_hash": config_hash,
    }


_VOICES: LiteralString = (
    "SELECT s.idx, v.skip_reason, e.embedding FROM segments s"
    " LEFT JOIN voices v ON v.segment_id = s.segment_id AND v.space_id = %(space)s"
    " LEFT JOIN {table} e ON e.segment_id = s.segment_id WHERE s.asset_id = %(asset)s"
    " AND (%(idxs)s::int[] IS NULL OR s.idx = ANY(%(idxs)s)) ORDER BY s.idx"
)
_CHUNKS: LiteralString = (
    "SELECT idx, first_segment, last_segment, start_ms, end_ms, text, embedding FROM chunks"
    " LEFT JOIN {table} USING (chunk_id) WHERE asset_id = %(asset)s AND space_id = %(space)s ORDER BY idx"
)


def read_voices(
    conn: psycopg.Connection[Any], asset_id: int, space: Space, idxs: Collection[int] | None = None
) -> Iterator[list[tuple[Any, ...]]]:
    """(idx, skip_reason, vector) of each segment, or of those of `idxs`, in batches.

    The vector is float32 of shape (dimension,) or None.
    """
    yield from _batches(conn, _VOICES, asset_id, space, {"idxs": None if idxs is None else sorted(idxs)})


def read_chunks(conn: psycopg.Connection[Any], asset_id: int, space: Space) -> Iterator[list[tuple[Any, ...]]]:
    """(idx, first_segment, last_segment, start_ms, end_ms, text, vector) of each chunk of the space, in batches."""
    yield from _batches(conn, _CHUNKS, asset_id, space, {})


def _batches(
    conn: psycopg.Connection[Any], query: LiteralString, asset_id: int, space: Space, chosen: Mapping[str, Any]
) -> Iterator[list[tuple[Any, ...]]]:
    statement = sql.SQL(query).format(table=sql.Identifier(space.table_name))
    with conn.transaction(), conn.cursor("rushes_export", binary=True) as cursor:
        # The plan for the first tenth of a cursor, PostgreSQL's default, takes sixty times as long for all of it.
        conn.execute("SET LOCAL cursor_tuple_fraction = 1")
        cursor.execute(statement, {"asset": asset_id, "space": space.space_id, **chosen})
        while rows := cursor.fetchmany(BATCH_ROWS):
            yield [(*row, _array(vector)) for *row, vector in rows]


def _array(vector: Any) -> NDArray[np.float32] | None:
    return None if vector is None else vector.to_numpy().astype(np.float32)
