"""A corpus of people: assets whose local speakers have voices that a model might have made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cluster.db import runs
from cluster.db.results import commit_row
from cluster.db.speakers.events import Target, point_at
from tests.corpus_rows import PRINTS, claimed, computed_row, make_spaces, new_asset, new_run

DIMENSION = 32
SEGMENT_MS = 3_000
STEP_MS = 4_000


def voice_of(person: str, seed: int = 0, spread: float = 0.3, dimension: int = DIMENSION) -> Any:
    """A unit vector near the person's own; two with spread 0.3 have a cosine of about 0.9, two people about 0."""
    own = np.random.default_rng(int(hashlib.sha256(person.encode()).hexdigest()[:8], 16)).standard_normal(dimension)
    noise = np.random.default_rng([seed, len(person), *person.encode()]).standard_normal(dimension)
    vector = own / np.linalg.norm(own) + spread * noise / np.linalg.norm(noise)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def spoken(
    people: Sequence[str | None], *, numbered: bool = True, start_ms: int = 0, spread: float = 0.3, seed: int = 0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Segments and voices: one of 3 s every 4 s per entry; the same name is the same local speaker."""
    numbers: dict[str, int] = {}
    segments, voices = [], []
    for idx, person in enumerate(people):
        who = None if person is None else numbers.setdefault(person, len(numbers))
        at = start_ms + idx * STEP_MS
        segments.append(
            {
                "idx": idx,
                "start_ms": at,
                "end_ms": at + SEGMENT_MS,
                "local_speaker": who if numbered else None,
                "text": f"words {idx}",
                "words": [{"start_ms": at, "end_ms": at + 500, "text": f"words {idx}", "probability": 0.9}],
                "text_skip_reason": None,
            }
        )
        vector = None if person is None else voice_of(person, seed * 1000 + idx, spread)
        voices.append(
            {
                "idx": idx,
                "start_sample": at * 16,
                "end_sample": (at + SEGMENT_MS) * 16,
                "vector": None if vector is None else list(vector),
                "skip_reason": "too_short" if vector is None else None,
            }
        )
    return segments, voices


def commit_spoken(conn: Any, asset_id: int, segments: Any, voices: Any, prints: Any = None) -> None:
    """Commit speech and voices of one asset, as a run does it, again when it was done."""
    prints = prints or PRINTS
    conn.execute("UPDATE units SET state = 'pending', run_id = NULL WHERE asset_id = %s", (asset_id,))
    made, run_id = make_spaces(conn, DIMENSION), new_run(conn)
    units = claimed(conn, run_id, asset_id, ("speech", "voices"), prints)
    row = {**computed_row(asset_id, units, dimension=DIMENSION), "segments": segments, "voices": voices}
    assert commit_row(conn, run_id, row, made) == "done"
    runs.finish_run(conn, run_id, "done", {})


def archive(conn: Any, files: Mapping[str, Sequence[str | None]], **how: Any) -> dict[str, int]:
    """File name -> asset id, for a corpus in which these people speak, a segment each, in this order."""
    ids = {}
    for number, (name, people) in enumerate(files.items()):
        ids[name] = new_asset(conn, name)
        commit_spoken(conn, ids[name], *spoken(people, seed=number, **how))
    return ids


def at(conn: Any, asset_id: int, segment: int, scope: Any = "speaker") -> Target:
    """The target a person hits who points at this segment of a `spoken` asset."""
    return point_at(conn, asset_id, "it", segment * STEP_MS + 100, scope)


def named(conn: Any) -> dict[str, list[str | None]]:
    """File -> the name of each segment's speaker, in order."""
    rows = conn.execute(
        "SELECT n.name, p.name FROM segment_speakers s JOIN asset_names n USING (asset_id)"
        " LEFT JOIN speakers p USING (speaker_id) ORDER BY 1, idx"
    )
    found: dict[str, list[str | None]] = {}
    for name, who in rows:
        found.setdefault(name.rsplit("/", 1)[-1], []).append(who)
    return found


def put_in_cluster(conn: Any, members: Sequence[tuple[int, int]]) -> int:
    """One cluster of these (asset, local speaker) in the active voice space, as clustering leaves it."""
    space = make_spaces(conn, DIMENSION)["voice"]
    [(cluster_id,)] = conn.execute(
        "INSERT INTO voice_clusters (space_id) VALUES (%s) RETURNING cluster_id", (space.space_id,)
    ).fetchall()
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO cluster_members (asset_id, local_speaker, space_id, found_in, cluster_id, similarity)"
            " VALUES (%s, %s, %s, %s, %s, 0.9)",
            [(*member, space.space_id, cluster_id, cluster_id) for member in members],
        )
    return cluster_id


def everything(conn: Any) -> dict[str, list[tuple[Any, ...]]]:
    """All that decisions come to: an undo must restore every value of it."""
    queries = {
        "speakers": "SELECT speaker_id, name, merged_into, root_id FROM speakers WHERE is_used ORDER BY 1",
        "local": "SELECT asset_id, local_speaker, speaker_id, method, score, margin, tau, run_id FROM local_speakers"
        " ORDER BY 1, 2",
        "segments": "SELECT segment_id, speaker_id, mark_id FROM segment_labels ORDER BY 1",
        "offers": "SELECT asset_id, local_speaker, cluster_id, speaker_id, score, margin FROM cluster_members"
        " ORDER BY 1, 2",
        "view": "SELECT segment_id, speaker_id, method FROM segment_speakers ORDER BY 1",
    }
    return {name: conn.execute(query).fetchall() for name, query in queries.items()}
