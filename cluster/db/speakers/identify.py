"""Recognition: unknown voices against the known ones, all of them, and what came of it in numbers that add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from cluster.db.spaces import Space
from cluster.db.speakers.calibrate import Taus, taus_in_force
from cluster.db.speakers.gallery import (
    GALLERY_BLOCK,
    Key,
    Queries,
    count_known,
    known_voices,
    present_people,
    unknown_voices,
)
from cluster.db.speakers.state import lock_assets, lock_decisions, refresh
from cluster.db.speakers.who import count_speakers
from cluster.errors import RushesError
from cluster.speakers.counts import Counts
from cluster.speakers.identify import Call, call_voices, closest

QUERY_BLOCK = 512
CLOSEST = 10


@dataclass(frozen=True, slots=True)
class IdentifyOptions:
    """What one call may touch: these assets (None: all), voices recognised before too, and nothing in a dry run."""

    asset_ids: Sequence[int] | None = None
    again: bool = False
    dry_run: bool = False
    query_block: int = QUERY_BLOCK
    gallery_block: int = GALLERY_BLOCK


@dataclass(slots=True)
class Identified:
    """What became of the local speakers in question.

    `known_before`, `named`, less `lost`, and `unknown` by reason add up to `voices`; `segments` likewise. `asked`
    is how many were compared with `gallery_voices` of `gallery_people`. `calls` are the closest ones.
    """

    gallery_people: int
    gallery_voices: int
    taus: Taus
    asked: int = 0
    voices: int = 0
    known_before: int = 0
    named: int = 0
    lost: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    segments: Counts = field(default_factory=lambda: Counts(0, 0, 0))
    asked_assets: set[int] = field(default_factory=set)
    accepted: list[tuple[Key, Call]] = field(default_factory=list)
    refused: list[tuple[Key, Call]] = field(default_factory=list)


def identify(conn: psycopg.Connection[Any], space: Space, options: IdentifyOptions, run_id: UUID | None) -> Identified:
    """Give unknown voices the names of the known ones they are alike enough.

    Every unknown voice with a vector is compared with every one that a person or a cluster named. Names are written
    in transactions of `query_block` voices. Raises `RushesError` when nobody is known.
    """
    with conn.transaction(force_rollback=True) if options.dry_run else nullcontext():
        found = Identified(*gallery_size(conn, space), taus_in_force(conn, space))
        before = _states(conn, space, options.asset_ids)
        blocks = unknown_voices(conn, space, options.asset_ids, again=options.again, block=options.query_block)
        for queries in blocks:
            calls = _calls(conn, space, queries, found.taus, options.gallery_block)
            _note(found, queries, calls)
            _write(conn, space, queries, calls, run_id)
        _count(found, before, _states(conn, space, options.asset_ids))
        found.segments = _count_segments(conn, options.asset_ids)
    return found


def gallery_size(conn: psycopg.Connection[Any], space: Space) -> tuple[int, int]:
    """How many people are known by their voices, and by how many; `RushesError` when nobody is."""
    people, voices = count_known(conn, space)
    if people:
        return people, voices
    row = conn.execute("SELECT count(*) FROM speakers WHERE is_used AND merged_into IS NULL").fetchone()
    if row is None or not row[0]:
        raise RushesError(
            "nobody has a name yet, so nobody can be recognised: `rushes speakers label NAME ASSET` first"
        )
    raise RushesError(
        f"none of the {row[0]} named people has a voice in voice space {space.space_id} ({space.profile}) yet: "
        "`rushes ingest --lanes voices` makes what is missing"
    )


def _calls(
    conn: psycopg.Connection[Any], space: Space, queries: Queries, taus: Taus, block: int
) -> dict[Key, Call | None]:
    present = present_people(conn, [asset_id for asset_id, _ in queries.keys])
    here = [present.get(asset_id, ()) for asset_id, _ in queries.keys]
    calls = call_voices(queries.vectors, known_voices(conn, space, block), here, taus.taus)
    return dict(zip(queries.keys, calls, strict=True))


def _note(found: Identified, queries: Queries, calls: Mapping[Key, Call | None]) -> None:
    found.asked += len(calls)
    found.asked_assets |= {asset_id for asset_id, _ in queries.keys}
    made = {key: call for key, call in calls.items() if call is not None}
    accepted = {key: call for key, call in made.items() if call.refused_by is None}
    refused = {key: call for key, call in made.items() if call.refused_by is not None}
    found.accepted = closest(dict(chain(found.accepted, accepted.items())), CLOSEST)
    found.refused = closest(dict(chain(found.refused, refused.items())), CLOSEST)


# A voice that was replaced since it was read has another row; a person who was forgotten has none.
_UPSERT = """
INSERT INTO identifications AS i
  (asset_id, local_speaker, space_id, speaker_id, score, margin, tau, is_accepted, run_id)
SELECT t.asset_id, t.local_speaker, %s, p.root_id, t.score, t.margin, t.tau, t.is_accepted, %s
FROM unnest(%s::bigint[], %s::int[], %s::text[], %s::bigint[], %s::real[], %s::real[], %s::real[], %s::boolean[])
  t(asset_id, local_speaker, row, speaker_id, score, margin, tau, is_accepted)
JOIN {voices} v ON (v.asset_id, v.local_speaker) = (t.asset_id, t.local_speaker) AND v.xmin::text = t.row
JOIN speakers p ON p.speaker_id = t.speaker_id ORDER BY 1, 2
ON CONFLICT (asset_id, local_speaker) DO UPDATE SET space_id = EXCLUDED.space_id, speaker_id = EXCLUDED.speaker_id,
  score = EXCLUDED.score, margin = EXCLUDED.margin, tau = EXCLUDED.tau, is_accepted = EXCLUDED.is_accepted,
  run_id = EXCLUDED.run_id
WHERE (i.space_id, i.speaker_id, i.score, i.margin, i.tau, i.is_accepted) IS DISTINCT FROM
  (EXCLUDED.space_id, EXCLUDED.speaker_id, EXCLUDED.score, EXCLUDED.margin, EXCLUDED.tau, EXCLUDED.is_accepted)
  OR EXCLUDED.is_accepted AND EXISTS (SELECT 1 FROM local_speakers l
    WHERE (l.asset_id, l.local_speaker) = (i.asset_id, i.local_speaker) AND l.speaker_id IS NULL)
RETURNING asset_id
"""
_BASIS = """
INSERT INTO recognised_from (run_id, speaker_id, mark_id)
SELECT %s, p.root_id, mark_id FROM standing_marks JOIN speakers p USING (speaker_id)
WHERE scope = 'speaker' AND p.root_id IN (SELECT root_id FROM speakers WHERE speaker_id = ANY(%s))
ON CONFLICT DO NOTHING
"""
_FORGET = """
DELETE FROM identifications i USING {voices} v,
  unnest(%s::bigint[], %s::int[], %s::text[]) t(asset_id, local_speaker, row)
WHERE (i.asset_id, i.local_speaker) = (t.asset_id, t.local_speaker)
  AND (v.asset_id, v.local_speaker) = (t.asset_id, t.local_speaker) AND v.xmin::text = t.row RETURNING i.asset_id
"""


def _write(
    conn: psycopg.Connection[Any],
    space: Space,
    queries: Queries,
    calls: Mapping[Key, Call | None],
    run_id: UUID | None,
) -> None:
    """Record the calls and let names follow, in one transaction."""
    voices = sql.Identifier(space.local_voices_table)
    upsert, forget = sql.SQL(_UPSERT).format(voices=voices), sql.SQL(_FORGET).format(voices=voices)
    made, gone = [], []
    for key, row in zip(queries.keys, queries.rows, strict=True):
        call = calls[key]
        if call is None:
            gone.append((*key, row))
        else:
            made.append((*key, row, call.speaker, call.score, call.margin, call.tau, call.refused_by is None))
    with conn.transaction():
        lock_decisions(conn)
        lock_assets(conn, {asset_id for asset_id, _ in queries.keys})
        changed = {row[0] for row in conn.execute(upsert, [space.space_id, run_id, *_columns(made, 8)])}
        changed |= {row[0] for row in conn.execute(forget, _columns(gone, 3))}
        if run_id is not None:
            conn.execute(_BASIS, (run_id, sorted({row[3] for row in made if row[-1]})))
        refresh(conn, changed)


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


_STATES = """
SELECT l.asset_id, l.local_speaker,
  CASE WHEN l.speaker_id IS NOT NULL THEN 'known' WHEN l.method = 'human' THEN 'nobody' WHEN l.is_ghost THEN 'ghost'
    WHEN v.clean_ms IS NULL THEN 'too little speech'
    WHEN i.is_accepted IS NOT FALSE THEN 'taken' WHEN i.score < i.tau THEN 'score' ELSE 'margin' END
FROM local_speakers l LEFT JOIN {voices} v USING (asset_id, local_speaker)
LEFT JOIN identifications i USING (asset_id, local_speaker)
WHERE %(ids)s::bigint[] IS NULL OR l.asset_id = ANY(%(ids)s)
"""


def _states(conn: psycopg.Connection[Any], space: Space, asset_ids: Sequence[int] | None) -> dict[Key, str]:
    """Local speaker -> `known`, or why it is not."""
    query = sql.SQL(_STATES).format(voices=sql.Identifier(space.local_voices_table))
    values = {"ids": None if asset_ids is None else list(asset_ids)}
    return {(row[0], row[1]): row[2] for row in conn.execute(query, values)}


def _count(found: Identified, before: Mapping[Key, str], after: Mapping[Key, str]) -> None:
    known_before = {key for key, state in before.items() if state == "known"}
    known = {key for key, state in after.items() if state == "known"}
    found.voices, found.known_before = len(after), len(known_before & after.keys())
    found.named, found.lost = len(known - known_before), len((known_before & after.keys()) - known)
    found.unknown = Counter(state for state in after.values() if state != "known")
    if found.known_before + found.named - found.lost + found.unknown.total() != found.voices:
        raise AssertionError(f"local speakers do not add up: {found}")


def _count_segments(conn: psycopg.Connection[Any], asset_ids: Sequence[int] | None) -> Counts:
    counts = count_speakers(conn, asset_ids=asset_ids)
    if not counts.add_up:
        raise RushesError(f"after recognition: {counts.describe()}")
    return counts
