"""What the local speakers of an asset sound like in one space, written with the voices of its segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from cluster.db.spaces import Space, active_space
from cluster.speakers.local_voices import LocalVoice, Span, ghosts, group_inside, local_voices, union_ms
from cluster.speakers.thresholds import shipped_thresholds

Row = Mapping[str, Any]
FORGOTTEN = "forgotten"


def spans_of(segments: Sequence[Row]) -> list[Span]:
    """The segments as far as voices go, in their order."""
    return [Span(one["start_ms"], one["end_ms"], one["local_speaker"]) for one in segments]


def write_ghosts(conn: psycopg.Connection[Any], asset_id: int, spans: Sequence[Span]) -> None:
    """Flag the local speakers that are no people, most likely."""
    conn.execute(
        "UPDATE local_speakers SET is_ghost = true WHERE asset_id = %s AND local_speaker = ANY(%s)",
        (asset_id, sorted(ghosts(spans))),
    )


def without_forgotten(
    conn: psycopg.Connection[Any], asset_id: int, segments: Sequence[Row], voices: Sequence[Row]
) -> Sequence[Row]:
    """The voices, without the vectors of times whose voice prints a person had deleted."""
    times = conn.execute("SELECT start_ms, end_ms FROM forgotten_voices WHERE asset_id = %s", (asset_id,)).fetchall()
    if not times:
        return voices
    gone = {one["idx"] for one in segments if _mostly_in(one, times)}
    return [
        {**voice, "vector": None, "skip_reason": FORGOTTEN} if voice["idx"] in gone and voice["vector"] is not None
        else voice
        for voice in voices
    ]  # fmt: skip


def write_local_voices(
    conn: psycopg.Connection[Any], space: Space, asset_id: int, segments: Sequence[Row], voices: Sequence[Row]
) -> None:
    """Write the mean voice of each local speaker; an asset without any gets them by grouping its voices.

    The caller holds the lock on the asset, and `voices` are those of `segments`, one each.
    """
    by_idx = {voice["idx"]: voice["vector"] for voice in voices}
    vectors = {
        i: np.asarray(vector, np.float32)
        for i, segment in enumerate(segments)
        if (vector := by_idx[segment["idx"]]) is not None
    }
    spans = spans_of(segments)
    if vectors and all(span.local_speaker is None for span in spans):
        spans = _grouped(conn, space, asset_id, segments, spans, vectors)
    conn.execute(
        sql.SQL("DELETE FROM {} WHERE asset_id = %s").format(sql.Identifier(space.local_voices_table)), (asset_id,)
    )
    insert = sql.SQL("INSERT INTO {} (asset_id, local_speaker, clean_ms, embedding) VALUES (%s, %s, %s, %s)")
    with conn.cursor() as cursor:
        cursor.executemany(
            insert.format(sql.Identifier(space.local_voices_table)),
            [(asset_id, one.local_speaker, one.clean_ms, one.vector) for one in local_voices(spans, vectors)],
        )


def read_local_voice(
    conn: psycopg.Connection[Any], space: Space, asset_id: int, local_speaker: int
) -> LocalVoice | None:
    """What a local speaker sounds like in this space; None when it has too little clean speech, or no voices yet."""
    row = conn.execute(
        sql.SQL("SELECT clean_ms, embedding FROM {} WHERE (asset_id, local_speaker) = (%s, %s)").format(
            sql.Identifier(space.local_voices_table)
        ),
        (asset_id, local_speaker),
        binary=True,
    ).fetchone()
    return None if row is None else LocalVoice(local_speaker, row[0], row[1].to_numpy().astype(np.float32))


def has_local_voices(conn: psycopg.Connection[Any], asset_id: int) -> bool:
    """Whether the active space knows what any local speaker of the asset sounds like."""
    space = active_space(conn, "voice")
    if space is None:
        return False
    query = sql.SQL("SELECT 1 FROM {} WHERE asset_id = %s LIMIT 1").format(sql.Identifier(space.local_voices_table))
    return conn.execute(query, (asset_id,)).fetchone() is not None


def _mostly_in(segment: Row, times: Sequence[tuple[int, int]]) -> bool:
    """Whether half of the segment or more lies inside the times, taken together."""
    start_ms, end_ms = segment["start_ms"], segment["end_ms"]
    shared = [(max(start, start_ms), min(end, end_ms)) for start, end in times if start < end_ms and end > start_ms]
    return bool(shared) and 2 * union_ms(shared) >= end_ms - start_ms


def _grouped(
    conn: psycopg.Connection[Any],
    space: Space,
    asset_id: int,
    segments: Sequence[Row],
    spans: Sequence[Span],
    vectors: Mapping[int, NDArray[np.float32]],
) -> list[Span]:
    """The spans with the group of each; groups that stand already stay, so that every space has the same."""
    rows = conn.execute(
        "SELECT idx, g.local_speaker FROM segment_groups g JOIN segments USING (segment_id) WHERE g.asset_id = %s",
        (asset_id,),
    )
    groups = dict(rows.fetchall())
    if not groups:
        order = sorted(vectors)
        labels = group_inside(
            np.stack([vectors[i] for i in order]),
            [spans[i].length_ms for i in order],
            shipped_thresholds(space.choice.engine).inside,
        )
        groups = {segments[i]["idx"]: label for i, label in zip(order, labels, strict=True)}
        _write_groups(conn, asset_id, groups)
    numbered = [replace(span, local_speaker=groups.get(one["idx"])) for span, one in zip(spans, segments, strict=True)]
    write_ghosts(conn, asset_id, numbered)
    return numbered


def _write_groups(conn: psycopg.Connection[Any], asset_id: int, groups: Mapping[int, int]) -> None:
    idxs, labels = list(groups), list(groups.values())
    conn.execute(
        "INSERT INTO local_speakers (asset_id, local_speaker, segments, speech_ms, is_grouped)"
        " SELECT s.asset_id, g.label, count(*), sum(end_ms - start_ms), true"
        " FROM unnest(%s::int[], %s::int[]) g(idx, label) JOIN segments s ON s.asset_id = %s AND s.idx = g.idx"
        " GROUP BY 1, 2 ORDER BY 2",
        (idxs, labels, asset_id),
    )
    conn.execute(
        "INSERT INTO segment_groups (segment_id, asset_id, local_speaker) SELECT s.segment_id, s.asset_id, g.label"
        " FROM unnest(%s::int[], %s::int[]) g(idx, label) JOIN segments s ON s.asset_id = %s AND s.idx = g.idx"
        " ORDER BY 1",
        (idxs, labels, asset_id),
    )
