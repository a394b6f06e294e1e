"""What human decisions, clusters and recognition come to for the voices of some assets.

Everything here follows from rows that stay: marks of persons, members of clusters, identifications. It is computed
anew whenever one of these changes, so taking a decision back restores what was before it, exactly.

Locks are taken in this order by everybody: the lock on decisions (not by commits of media), assets by id,
speakers by id.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql

from cluster.db.spaces import voice_spaces
from cluster.db.speakers.propagate import propose
from cluster.speakers.decide import Assignment, Mark, Piece, attach, decide

_LOCK_KEY = 0x5370_6561_6B65_72

Key = tuple[int, int]


def lock_decisions(conn: psycopg.Connection[Any]) -> None:
    """One decision about people at a time, until the transaction ends."""
    conn.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))


def have_decisions_locked(conn: psycopg.Connection[Any]) -> bool:
    """Whether the lock on decisions is held or was free, so that it is held now; nobody is waited for.

    Who holds it waits for assets, so a commit that has one must not wait for it. A name given in the moment
    between is decided anew by the next decision there.
    """
    return conn.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK_KEY,)).fetchone() == (True,)


def refresh(conn: psycopg.Connection[Any], asset_ids: Iterable[int]) -> None:
    """Decide anew who speaks in these assets, and in those that share a cluster with them.

    The caller holds the lock on decisions. Reads the vectors of cluster members, writes no vector.
    """
    ids = set(asset_ids)
    touch_speakers(conn, decide_anew(conn, ids, lock_reach(conn, ids)))


def decide_anew(conn: psycopg.Connection[Any], asset_ids: Iterable[int], cluster_ids: Iterable[int]) -> set[int]:
    """`refresh` after `lock_reach`, without forgetting mean voices.

    Returns the speakers to touch, which lock last and all at once.
    """
    touched = settle(conn, asset_ids)
    return touched | settle(conn, propose(conn, cluster_ids))


def lock_reach(conn: psycopg.Connection[Any], asset_ids: Collection[int]) -> set[int]:
    """Lock these assets and those that share a cluster with them; returns the clusters."""
    clusters = _clusters_of(conn, asset_ids)
    lock_assets(conn, {*asset_ids, *_assets_of(conn, clusters)})
    return clusters


def lock_assets(conn: psycopg.Connection[Any], asset_ids: Iterable[int]) -> int:
    """Let no commit change these assets until the transaction ends; returns how many of them there are."""
    return conn.execute(
        "SELECT 1 FROM assets WHERE asset_id = ANY(%s) ORDER BY asset_id FOR NO KEY UPDATE", (sorted(set(asset_ids)),)
    ).rowcount


def settle(conn: psycopg.Connection[Any], asset_ids: Iterable[int]) -> set[int]:
    """Write what becomes of the local speakers and labelled segments of these assets; returns speakers touched.

    The caller holds the lock on each asset.
    """
    ids = sorted(set(asset_ids))
    if not ids:
        return set()
    marks = read_marks(conn, ids)
    human, touched, voices = _attach(conn, ids, marks)
    offers = _offers(conn, ids)
    numbers, ghosts, now = _local_speakers(conn, ids)
    changes = {}
    for asset_id, there in numbers.items():
        found = decide(there, human.get(asset_id, {}), offers.get(asset_id, {}), ghosts[asset_id])
        changes |= {(asset_id, who): found.get(who) for who in there if now[asset_id, who] != found.get(who)}
    touched |= {one.speaker for key in {*changes, *voices} if (one := now.get(key)) is not None}
    touched |= {one.speaker for one in changes.values() if one is not None}
    _write(conn, changes)
    return {speaker for speaker in touched if speaker is not None}


def touch_speakers(conn: psycopg.Connection[Any], speaker_ids: Iterable[int]) -> None:
    """Forget the mean voices of these speakers: what they are made of changed. Call it last in a transaction."""
    ids = sorted(set(speaker_ids))
    spaces = voice_spaces(conn) if ids else []
    if not spaces:
        return
    roots = conn.execute(
        "SELECT root_id FROM speakers WHERE speaker_id IN (SELECT root_id FROM speakers WHERE speaker_id = ANY(%s))"
        " ORDER BY speaker_id FOR NO KEY UPDATE",
        (ids,),
    ).fetchall()
    for space in spaces:
        query = sql.SQL("DELETE FROM {} WHERE speaker_id = ANY(%s)").format(sql.Identifier(space.means_table))
        conn.execute(query, ([*ids, *(row[0] for row in roots)],))


def _clusters_of(conn: psycopg.Connection[Any], asset_ids: Collection[int]) -> set[int]:
    rows = conn.execute(
        "SELECT DISTINCT cluster_id FROM cluster_members WHERE asset_id = ANY(%s)", (sorted(asset_ids),)
    )
    return {row[0] for row in rows}


def _assets_of(conn: psycopg.Connection[Any], cluster_ids: Collection[int]) -> set[int]:
    rows = conn.execute(
        "SELECT DISTINCT asset_id FROM cluster_members WHERE cluster_id = ANY(%s)", (sorted(cluster_ids),)
    )
    return {row[0] for row in rows}


def read_marks(conn: psycopg.Connection[Any], asset_ids: Sequence[int]) -> dict[int, list[Mark]]:
    """The standing marks of these assets that say who speaks."""
    rows = conn.execute(
        "SELECT m.asset_id, m.mark_id, m.start_ms, m.end_ms, m.scope, m.speaker_id, p.root_id FROM standing_marks m"
        " LEFT JOIN speakers p USING (speaker_id) WHERE m.asset_id = ANY(%s) AND m.scope <> 'part'",
        (list(asset_ids),),
    )
    found: defaultdict[int, list[Mark]] = defaultdict(list)
    for asset_id, *values in rows:
        found[asset_id].append(Mark(*values))
    return found


def pieces_of(conn: psycopg.Connection[Any], asset_id: int) -> list[Piece]:
    """The segments of an asset with whose voice inside it each is, by time."""
    return _pieces(conn, [asset_id]).get(asset_id, [])


def _pieces(conn: psycopg.Connection[Any], asset_ids: Sequence[int]) -> dict[int, list[Piece]]:
    rows = conn.execute(
        "SELECT s.asset_id, s.segment_id, s.start_ms, s.end_ms, coalesce(s.local_speaker, g.local_speaker)"
        " FROM segments s LEFT JOIN segment_groups g USING (segment_id) WHERE s.asset_id = ANY(%s)"
        " ORDER BY s.asset_id, s.idx",
        (list(asset_ids),),
    )
    found: defaultdict[int, list[Piece]] = defaultdict(list)
    for asset_id, *values in rows:
        found[asset_id].append(Piece(*values))
    return found


def _attach(
    conn: psycopg.Connection[Any], asset_ids: Sequence[int], marks: Mapping[int, Sequence[Mark]]
) -> tuple[dict[int, Mapping[int, Mark]], set[int | None], set[Key]]:
    """Write the labels of segments.

    Returns those of local speakers by asset, the speakers touched, and the voices that segments left or came back to.
    """
    pieces = _pieces(conn, sorted(marks)) if marks else {}
    human, labels = {}, {}
    for asset_id, found in marks.items():
        attached = attach(found, pieces.get(asset_id, ()))
        human[asset_id] = attached.local_speakers
        labels |= {segment: (mark.speaker, mark.mark_id) for segment, mark in attached.segments.items()}
    had = {
        row[0]: row[1:]
        for row in conn.execute(
            "SELECT segment_id, l.speaker_id, mark_id FROM segment_labels l JOIN segments USING (segment_id)"
            " WHERE asset_id = ANY(%s)",
            (list(asset_ids),),
        )
    }
    gone = [segment for segment, said in had.items() if labels.get(segment) != said]
    new = [(segment, *said) for segment, said in labels.items() if had.get(segment) != said]
    conn.execute("DELETE FROM segment_labels WHERE segment_id = ANY(%s)", (gone,))
    with conn.cursor() as cursor:
        cursor.executemany("INSERT INTO segment_labels (segment_id, speaker_id, mark_id) VALUES (%s, %s, %s)", new)
    changed = [*gone, *(row[0] for row in new)]
    return human, {had[segment][0] for segment in gone} | {row[1] for row in new}, _voices_of(conn, changed)


def _voices_of(conn: psycopg.Connection[Any], segment_ids: Sequence[int]) -> set[Key]:
    if not segment_ids:
        return set()
    rows = conn.execute(
        "SELECT DISTINCT s.asset_id, coalesce(s.local_speaker, g.local_speaker)"
        " FROM segments s LEFT JOIN segment_groups g USING (segment_id) WHERE segment_id = ANY(%s)",
        (list(segment_ids),),
    )
    return {(row[0], row[1]) for row in rows}


_OFFERS = """
SELECT asset_id, local_speaker, m.speaker_id, p.root_id, 'cluster', score, margin, tau, NULL::uuid
FROM cluster_members m JOIN speakers p USING (speaker_id) JOIN spaces s USING (space_id)
WHERE asset_id = ANY(%(ids)s) AND p.is_used ORDER BY s.is_active DESC, s.space_id DESC
"""
# A recognition rests on the labels of its time: without one of them nobody knows what it would have been.
_KNN = """
WITH found AS MATERIALIZED (
  SELECT asset_id, local_speaker, i.speaker_id, p.root_id, score, margin, tau, run_id
  FROM identifications i JOIN speakers p USING (speaker_id)
  WHERE asset_id = ANY(%(ids)s) AND is_accepted AND p.is_used
), void AS MATERIALIZED (
  SELECT DISTINCT k.run_id, k.speaker_id FROM (SELECT DISTINCT run_id, speaker_id, root_id FROM found) k
  JOIN recognised_from f USING (run_id, speaker_id)
  LEFT JOIN (speaker_marks m JOIN standing_events USING (event_id) JOIN speakers n ON n.speaker_id = m.speaker_id)
    ON m.mark_id = f.mark_id
  WHERE n.root_id IS DISTINCT FROM k.root_id OR EXISTS (SELECT 1 FROM superseded_marks s
    JOIN speaker_marks b ON b.mark_id = s.by_mark_id JOIN standing_events e ON e.event_id = b.event_id
    LEFT JOIN speakers o ON o.speaker_id = b.speaker_id
    WHERE s.mark_id = f.mark_id AND o.root_id IS DISTINCT FROM k.root_id)
)
SELECT asset_id, local_speaker, speaker_id, root_id, 'knn', score, margin, tau, run_id FROM found i
WHERE NOT EXISTS (SELECT 1 FROM void v WHERE (v.run_id, v.speaker_id) = (i.run_id, i.speaker_id))
"""


def _offers(conn: psycopg.Connection[Any], asset_ids: Sequence[int]) -> dict[int, dict[int, list[Assignment]]]:
    found: defaultdict[int, dict[int, list[Assignment]]] = defaultdict(dict)
    for query in (_OFFERS, _KNN):
        for asset_id, who, *values in conn.execute(query, {"ids": list(asset_ids)}):
            mine = found[asset_id].setdefault(who, [])
            # of several spaces the active one is asked
            if not any(one.method == values[2] for one in mine):
                mine.append(Assignment(*values))
    return found


def _local_speakers(
    conn: psycopg.Connection[Any], asset_ids: Sequence[int]
) -> tuple[dict[int, list[int]], dict[int, set[int]], dict[Key, Assignment | None]]:
    numbers: defaultdict[int, list[int]] = defaultdict(list)
    ghosts: defaultdict[int, set[int]] = defaultdict(set)
    now: dict[Key, Assignment | None] = {}
    rows = conn.execute(
        "SELECT asset_id, local_speaker, is_ghost, speaker_id, method, score, margin, tau, run_id"
        " FROM local_speakers WHERE asset_id = ANY(%s) ORDER BY 1, 2",
        (list(asset_ids),),
    )
    for asset_id, who, is_ghost, speaker, method, *numbers_of in rows:
        numbers[asset_id].append(who)
        if is_ghost:
            ghosts[asset_id].add(who)
        now[asset_id, who] = None if method is None else Assignment(speaker, None, method, *numbers_of)
    return numbers, ghosts, now


def _write(conn: psycopg.Connection[Any], changes: Mapping[Key, Assignment | None]) -> None:
    if not changes:
        return
    rows = [
        (*key, *((one.speaker, one.method, one.score, one.margin, one.tau, one.run_id) if one else [None] * 6))
        for key, one in changes.items()
    ]
    conn.execute(
        "UPDATE local_speakers l SET speaker_id = t.speaker_id, method = t.method, score = t.score,"
        " margin = t.margin, tau = t.tau, run_id = t.run_id FROM unnest(%s::bigint[], %s::int[], %s::bigint[],"
        "  %s::text[], %s::real[], %s::real[], %s::real[], %s::uuid[])"
        "  t(asset_id, local_speaker, speaker_id, method, score, margin, tau, run_id)"
        " WHERE (l.asset_id, l.local_speaker) = (t.asset_id, t.local_speaker)",
        [list(column) for column in zip(*rows, strict=True)],
    )
