"""What a person points at without a time: the one voice of an asset, the middle of a cluster."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from cluster.conversation import speaker_letter
from cluster.db.spaces import active_space
from cluster.db.speakers.events import Target, without_segments
from cluster.db.speakers.state import pieces_of
from cluster.errors import RushesError, UsageError
from cluster.speakers.decide import Piece, speaks_most


@dataclass(frozen=True, slots=True)
class AssetVoice:
    """A local speaker that is a person, most likely: its number, how much it speaks, where it is heard best."""

    local_speaker: int
    speech_ms: int
    target: Target

    def describe(self) -> str:
        """`A: 34.1 s of speech, best heard at 1:02.5`."""
        minutes, rest_ms = divmod(self.target.start_ms, 60_000)
        letter = speaker_letter(self.local_speaker)
        return f"{letter}: {self.speech_ms / 1000:.1f} s of speech, best heard at {minutes}:{rest_ms / 1000:06.3f}"


def asset_voices(conn: psycopg.Connection[Any], asset_id: int) -> list[AssetVoice]:
    """The local speakers of an asset that are no ghosts, by number."""
    rows = conn.execute(
        "SELECT local_speaker, speech_ms FROM local_speakers WHERE asset_id = %s AND NOT is_ghost ORDER BY 1",
        (asset_id,),
    ).fetchall()
    pieces, heard = pieces_of(conn, asset_id), _with_vector(conn, asset_id)
    return [AssetVoice(who, ms, _clearest(asset_id, pieces, who, heard)) for who, ms in rows]


def point_at_voice(conn: psycopg.Connection[Any], asset_id: int, name: str) -> Target:
    """The one voice of the asset called `name`; an error that lists them when there are several, or none."""
    voices = asset_voices(conn, asset_id)
    if len(voices) == 1:
        return voices[0].target
    if not pieces_of(conn, asset_id):
        raise without_segments(conn, asset_id, name)
    if not voices:
        raise UsageError(f"no voice of {name} was told apart: say which segment is meant, with a time of it")
    listed = "; ".join(voice.describe() for voice in voices[:10])
    more = f"; and {len(voices) - 10} more" if len(voices) > 10 else ""
    raise UsageError(f"{name} has {len(voices)} voices: give a time of the one that is meant ({listed}{more})")


def point_at_cluster(conn: psycopg.Connection[Any], cluster_id: int) -> Target:
    """The clearest segment of the member that is most like the whole cluster."""
    row = conn.execute(
        "SELECT asset_id, local_speaker FROM cluster_members WHERE cluster_id = %s"
        " ORDER BY similarity DESC, asset_id, local_speaker LIMIT 1",
        (cluster_id,),
    ).fetchone()
    if row is None:
        raise UsageError(f"there is no cluster {cluster_id}: see `rushes speakers clusters`")
    asset_id, who = row
    pieces = pieces_of(conn, asset_id)
    if not any(piece.local_speaker == who for piece in pieces):
        raise RushesError(f"the middle of cluster {cluster_id} has no segments any more: cluster again")
    return _clearest(asset_id, pieces, who, _with_vector(conn, asset_id))


def clusters_of(conn: psycopg.Connection[Any], asset_id: int, local_speaker: int | None) -> list[int]:
    """The clusters of a voice, one for each space it was clustered in; that of the active space first."""
    rows = conn.execute(
        "SELECT cluster_id FROM cluster_members JOIN spaces USING (space_id)"
        " WHERE (asset_id, local_speaker) = (%s, %s) ORDER BY is_active DESC, space_id DESC",
        (asset_id, local_speaker),
    )
    return [row[0] for row in rows]


def _with_vector(conn: psycopg.Connection[Any], asset_id: int) -> set[int]:
    space = active_space(conn, "voice")
    if space is None:
        return set()
    rows = conn.execute(
        "SELECT segment_id FROM voices JOIN segments USING (segment_id)"
        " WHERE asset_id = %s AND space_id = %s AND skip_reason IS NULL",
        (asset_id, space.space_id),
    )
    return {row[0] for row in rows}


def _clearest(asset_id: int, pieces: Sequence[Piece], who: int, heard: Collection[int]) -> Target:
    """The longest segment of the voice with a vector whose time is its own, and not somebody else's."""
    mine = [piece for piece in pieces if piece.local_speaker == who]
    mine.sort(key=lambda piece: (piece.segment_id not in heard, piece.start_ms - piece.end_ms, piece.start_ms))
    own = (piece for piece in mine if speaks_most(piece.start_ms, piece.end_ms, pieces) == who)
    best = next(own, mine[0])
    return Target(asset_id, best.start_ms, best.end_ms)
