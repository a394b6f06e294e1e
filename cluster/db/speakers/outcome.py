"""What followed from a decision: how far a name reaches, where it was not passed on, who is unknown again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from cluster.db.speakers.actions import Decision
from cluster.db.speakers.events import Target, count_unnamed
from cluster.db.speakers.names import Speaker
from cluster.db.speakers.pointing import clusters_of
from cluster.db.speakers.propagate import held_back
from cluster.db.speakers.state import pieces_of
from cluster.db.speakers.who import voices_of
from cluster.speakers.decide import speaks_most
from cluster.speakers.who import Who


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a name goes: voices by the method that gave it to them, their segments and assets."""

    voices: dict[str, int]
    segments: int
    assets: int

    def describe(self) -> str:
        """`13 voices (1 by a person, 12 by cluster), 340 segments in 13 assets`."""
        words = {"human": "by a person", "cluster": "by cluster", "knn": "by recognition"}
        parts = ", ".join(f"{count} {words[method]}" for method, count in self.voices.items())
        how = f" ({parts})" if parts else ""
        return f"{sum(self.voices.values())} voice(s){how}, {self.segments} segment(s) in {self.assets} asset(s)"


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Why -> how many voices of a cluster did not get the name."""

    cluster_id: int
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A decision and what followed; `voices` are those of the assets pointed at, with their counts of segments.

    `unnamed` voices were recognised by what was decided about, and are unknown now.
    """

    decision: Decision
    reach: Reach | None
    held_back: Sequence[HeldBack]
    voices: Mapping[int, Mapping[Who, int]]
    unnamed: int


def decide(
    conn: psycopg.Connection[Any],
    action: Callable[[], Decision],
    targets: Sequence[Target] = (),
    *,
    dry_run: bool = False,
) -> Outcome:
    """Do it and read what followed in the same transaction, which a dry run takes back."""
    with conn.transaction(force_rollback=dry_run):
        done = action()
        speaker = done.speaker
        return Outcome(
            decision=done,
            reach=None if speaker is None else reach_of(conn, speaker),
            held_back=[] if speaker is None else not_passed_on(conn, targets, speaker),
            voices=voices_of(conn, sorted({target.asset_id for target in targets})),
            unnamed=count_unnamed(conn, done.event_id),
        )


def reach_of(conn: psycopg.Connection[Any], speaker: Speaker) -> Reach:
    """How far the name of this root speaker goes now."""
    voices = conn.execute(
        "SELECT method, count(*) FROM local_speakers JOIN speakers p USING (speaker_id) WHERE p.root_id = %s"
        " GROUP BY method ORDER BY array_position(ARRAY['human', 'cluster', 'knn'], method)",
        (speaker.speaker_id,),
    ).fetchall()
    row = conn.execute(_SEGMENTS, {"root": speaker.speaker_id}).fetchone()
    assert row is not None
    return Reach(dict(voices), *row)


# From the speaker's rows outward: the view would be read whole.
_SEGMENTS = """
WITH family AS (SELECT speaker_id FROM speakers WHERE root_id = %(root)s),
voices AS (SELECT asset_id, local_speaker FROM local_speakers WHERE speaker_id IN (SELECT speaker_id FROM family)),
mine AS (
  SELECT s.segment_id, s.asset_id FROM voices v JOIN segments s USING (asset_id, local_speaker)
  UNION SELECT g.segment_id, g.asset_id FROM voices v JOIN segment_groups g USING (asset_id, local_speaker)
  EXCEPT SELECT s.segment_id, s.asset_id FROM segment_labels JOIN segments s USING (segment_id)
  UNION SELECT s.segment_id, s.asset_id FROM segment_labels l JOIN segments s USING (segment_id)
    WHERE l.speaker_id IN (SELECT speaker_id FROM family))
SELECT count(*), count(DISTINCT asset_id) FROM mine
"""


def not_passed_on(conn: psycopg.Connection[Any], targets: Sequence[Target], speaker: Speaker) -> list[HeldBack]:
    """What the clusters of these voices did not pass on of the name, cluster by cluster."""
    numbers: dict[int, None] = {}
    for target in targets:
        who = speaks_most(target.start_ms, target.end_ms, pieces_of(conn, target.asset_id))
        if target.scope == "speaker" and who is not None:
            numbers |= dict.fromkeys(clusters_of(conn, target.asset_id, who)[:1])
    return [HeldBack(number, held_back(conn, [number], speaker.speaker_id)) for number in numbers]
