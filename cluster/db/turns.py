"""Turns that a person gave: they stand in for the diarizer, now and in every rerun, until they are taken back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import psycopg

from cluster.conversation import Turn, Word, segments_from_given
from cluster.db.ledger import read_segments
from cluster.db.results import replace_segments
from cluster.db.speakers.carry import remember, resettle
from cluster.errors import RushesError
from cluster.formats.rttm import NamedTurn
from cluster.lanes import children

# Local speakers are numbered in a smallint.
MAX_SPEAKERS = 32_768
_CHILDREN = sorted(children(["speech"]))

Outcome = Literal["stored", "same", "rebuilt"]


def read_turns(conn: psycopg.Connection[Any], asset_id: int) -> list[dict[str, int | None]] | None:
    """The given turns of an asset in the shape of the `given_turns` column; None when nobody gave any."""
    rows = conn.execute(
        "SELECT start_ms, end_ms, local_speaker FROM given_turns WHERE asset_id = %s ORDER BY idx", (asset_id,)
    )
    return [{"start_ms": start, "end_ms": end, "local_speaker": who} for start, end, who in rows] or None


def give_turns(
    conn: psycopg.Connection[Any], asset_id: int, turns: Sequence[NamedTurn], prints: Mapping[str, str]
) -> Outcome:
    """Keep the turns and rebuild the segments from the words that are committed, in one transaction.

    `turns` are sorted; speakers are numbered by first appearance. `stored`: nothing is transcribed yet;
    `same`: the segments are these already; `rebuilt`: what hung on the old ones is gone, and the child
    lanes under the fingerprints `prints` are pending. `RushesError` while a run works on the asset.
    """
    numbers: dict[str, int] = {}
    for turn in turns:
        if turn.speaker is not None:
            numbers.setdefault(turn.speaker, len(numbers))
    if len(numbers) > MAX_SPEAKERS:
        raise RushesError(f"{len(numbers)} speakers in one recording, at most {MAX_SPEAKERS} are taken")
    spans = [Turn(t.start_ms, t.end_ms, None if t.speaker is None else numbers[t.speaker]) for t in turns]
    with conn.transaction():
        _take(conn, asset_id)
        _store(conn, asset_id, turns, spans)
        return _rebuild(conn, asset_id, spans, prints)


def forget_turns(conn: psycopg.Connection[Any], asset_id: int) -> int:
    """Take the given turns back; the segments stay as they are until speech is done again. Returns how many."""
    with conn.transaction():
        _take(conn, asset_id)
        return conn.execute("DELETE FROM given_turns WHERE asset_id = %s", (asset_id,)).rowcount


def _take(conn: psycopg.Connection[Any], asset_id: int) -> None:
    # New units wait for this lock, known ones for the next: no run claims the asset before we are done.
    conn.execute("SELECT 1 FROM assets WHERE asset_id = %s FOR UPDATE", (asset_id,))
    rows = conn.execute(
        "SELECT run_id, state FROM units WHERE asset_id = %s ORDER BY lane, fingerprint FOR UPDATE", (asset_id,)
    ).fetchall()
    owner = next((run_id for run_id, state in rows if state == "running"), None)
    if owner is not None:
        raise RushesError(f"run {str(owner)[:8]} works on it: try again when that run has ended")


def _store(conn: psycopg.Connection[Any], asset_id: int, turns: Sequence[NamedTurn], spans: Sequence[Turn]) -> None:
    conn.execute("DELETE FROM given_turns WHERE asset_id = %s", (asset_id,))
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO given_turns (asset_id, idx, start_ms, end_ms, local_speaker, speaker)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            [
                (asset_id, idx, span.start_ms, span.end_ms, span.local_speaker, turn.speaker)
                for idx, (turn, span) in enumerate(zip(turns, spans, strict=True))
            ],
        )


def _rebuild(conn: psycopg.Connection[Any], asset_id: int, spans: Sequence[Turn], prints: Mapping[str, str]) -> Outcome:
    committed = read_segments(conn, asset_id)
    done = conn.execute("SELECT 1 FROM units WHERE asset_id = %s AND lane = 'speech' AND state = 'done'", (asset_id,))
    if not committed and done.fetchone() is None:
        return "stored"
    words = [Word.from_row(word) for segment in committed for word in segment["words"]]
    segments = [segment.to_row() for segment in segments_from_given(spans, words)]
    if segments == committed:
        return "same"
    before = remember(conn, asset_id)
    replace_segments(conn, asset_id, segments)
    resettle(conn, asset_id, before)
    _settle(conn, asset_id, len(segments), prints)
    return "rebuilt"


def _settle(conn: psycopg.Connection[Any], asset_id: int, segments: int, prints: Mapping[str, str]) -> None:
    conn.execute(
        "UPDATE units SET outputs = %s WHERE asset_id = %s AND lane = 'speech' AND state = 'done'",
        (segments, asset_id),
    )
    current = [prints[lane] for lane in _CHILDREN if lane in prints]
    conn.execute(
        "UPDATE units SET state = 'pending', generation = generation + 1, run_id = NULL, attempts = 0, outputs = NULL,"
        " not_before = NULL WHERE asset_id = %s AND lane = ANY(%s) AND fingerprint = ANY(%s) AND state = 'done'",
        (asset_id, _CHILDREN, current),
    )
    # What other models derived from the replaced segments went with them.
    conn.execute(
        "DELETE FROM units WHERE asset_id = %s AND lane = ANY(%s) AND fingerprint <> ALL(%s) AND state <> 'pending'",
        (asset_id, _CHILDREN, current),
    )
