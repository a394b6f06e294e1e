"""Search what was shown: keyframes by image vector, or by perceptual hash where there are no vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray

from cluster.db.connect import snapshot
from cluster.db.knn import EVERYWHERE, Answer, Scope, nearest
from cluster.db.pictures import unpack_samples
from cluster.db.search import while_there
from cluster.db.spaces import Space
from cluster.duplicates.bands import NEAR_BITS, distances, probes
from cluster.errors import UsageError

# How many frames are asked for: first few, then many, when the first fold into too few answers.
CANDIDATES = (200, 4000)
# Of one asset, while others have something to show: a film that cuts to and fro would fill the list.
MOMENTS_PER_ASSET = 3
# Shots of two copies are cut apart by a few frames.
SLACK_MS = 2000

# Frame id, what it scored, and the moment in milliseconds where that is not the frame's own.
Found = tuple[int, float, int | None]


@dataclass(frozen=True, slots=True)
class PictureHit:
    """A moment that looks like what was asked for: the best keyframe of its shot; of an image the image itself.

    `start_ms` and `end_ms` are the shot's, None for an image. `thumbnail` is the SHA-256 of a JPEG in the store.
    Found by vector it has a cosine `similarity`, by hash a `distance` in bits of 64. `copies` are sources of
    assets that people called copies of this one and that show it too.
    """

    asset_id: int
    sha256: str
    uri: str
    media_kind: str
    idx: int
    t_ms: int
    shot: int | None
    start_ms: int | None
    end_ms: int | None
    thumbnail: str
    similarity: float | None
    distance: int | None
    copies: tuple[str, ...] = ()


def search_by_vector(
    conn: psycopg.Connection[Any],
    space: Space,
    vector: NDArray[np.float32],
    *,
    scope: Scope = EVERYWHERE,
    limit: int = 10,
    ef_search: int | None = None,
) -> Answer[PictureHit]:
    """The best `limit` moments of the image space for a unit `vector` of shape (dimension,), best first.

    All is read from one snapshot. Raises `SpaceGoneError` when the space is there no more.
    """

    def find(count: int) -> Answer[Found]:
        near = nearest(conn, space, vector, count, scope=scope, ef_search=ef_search)
        return near.of([(frame_id, distance, None) for frame_id, distance in near.hits])

    with while_there(space), snapshot(conn):
        return _answers(conn, find, _with_similarity, limit)


def frames_near(
    conn: psycopg.Connection[Any],
    space: Space,
    vector: NDArray[np.float32],
    *,
    scope: Scope = EVERYWHERE,
    limit: int = 10,
    ef_search: int | None = None,
) -> Answer[PictureHit]:
    """The `limit` keyframes nearest to the unit `vector` of shape (dimension,), each by itself.

    Neither shots nor copies are folded. All is read from one snapshot. Raises `SpaceGoneError` when the space is
    there no more.
    """
    with while_there(space), snapshot(conn):
        near = nearest(conn, space, vector, limit, scope=scope, ef_search=ef_search)
        frames = _frames(conn, [frame_id for frame_id, _ in near.hits])
        return near.of([_with_similarity(frames[frame_id], d) for frame_id, d in near.hits])


def search_by_hash(
    conn: psycopg.Connection[Any], phash: bytes, *, scope: Scope = EVERYWHERE, limit: int = 10
) -> Answer[PictureHit]:
    """The moments whose hash differs from the 8 bytes of `phash` in 7 bits or fewer, fewest first.

    No keyframe is missed; of what lies between keyframes each still stretch is looked at twice a second, once the
    video was compared with others. Flat and black pictures are left out. All is read from one snapshot. Raises
    `UsageError` for a scope of people, which takes an image space.
    """
    if scope.speaker_ids is not None:
        raise UsageError("pictures found by their hash are not told by who speaks: that takes an image space")

    def similar(count: int) -> Answer[Found]:
        found = [find(conn, phash, scope, count) for find in (_similar, _between_keyframes)]
        in_order = sorted([one for some in found for one in some], key=lambda one: one[1])
        where = " that match the filters" if scope else ""
        few = (
            f"only {len(in_order)} pictures{where} differ in {NEAR_BITS} of 64 bits or fewer"
            if len(in_order) < count
            else None
        )
        return Answer(in_order, is_exact=True, ef_search=None, why_fewer=few)

    with snapshot(conn):
        return _answers(conn, similar, lambda hit, value: replace(hit, distance=int(value)), limit)


def has_frames(conn: psycopg.Connection[Any]) -> bool:
    """Whether there is anything to find."""
    return conn.execute("SELECT EXISTS (SELECT 1 FROM frames)").fetchone() == (True,)


def _answers(
    conn: psycopg.Connection[Any],
    find: Callable[[int], Answer[Found]],
    scored: Callable[[PictureHit, float], PictureHit],
    limit: int,
) -> Answer[PictureHit]:
    for count in CANDIDATES:
        found = find(count)
        hits = _spread(_without_copies(conn, _moments(conn, found.hits, scored)), limit)
        if len(hits) == limit or len(found.hits) < count:
            break
    why = f"{found.why_fewer or f'the best {count} were looked at'}; they show {len(hits)} moments"
    return Answer(hits, found.is_exact, found.ef_search, why if len(hits) < limit else None)


def _with_similarity(hit: PictureHit, distance: float) -> PictureHit:
    return replace(hit, similarity=1.0 - distance)


def _similar(conn: psycopg.Connection[Any], phash: bytes, scope: Scope, count: int) -> list[Found]:
    """Keyframes with their differing bits, fewest first."""
    rows = conn.execute(
        f"SELECT frame_id, {_BITS} AS d, NULL FROM frames WHERE is_informative AND {_NEAR}"
        " ORDER BY d, frame_id LIMIT %(n)s".encode(),
        _near_values(phash, scope, count),
    )
    return rows.fetchall()


def _between_keyframes(conn: psycopg.Connection[Any], phash: bytes, scope: Scope, count: int) -> list[Found]:
    """The best sample of each shot that shows it, as the keyframe next to it; `count` videos at the most."""
    rows = conn.execute(
        f"SELECT asset_id, min({_BITS}) AS d FROM anchors WHERE {_NEAR} GROUP BY 1 ORDER BY d, 1 LIMIT %(n)s".encode(),
        _near_values(phash, scope, count),
    ).fetchall()
    return [one for asset_id, _ in rows for one in _best_samples(conn, asset_id, phash)]


def _best_samples(conn: psycopg.Connection[Any], asset_id: int, phash: bytes) -> list[Found]:
    packed = conn.execute(
        "SELECT sample_times, sample_hashes FROM pictures WHERE asset_id = %s", (asset_id,), binary=True
    ).fetchone()
    times, hashes = unpack_samples(*(packed or (b"", b"")))
    bits = distances(hashes, np.frombuffer(phash, ">u8").astype(np.uint64))
    near = np.flatnonzero(bits <= NEAR_BITS)
    rows = conn.execute(
        "SELECT DISTINCT ON (s.idx) f.frame_id, t.bits::float8, t.at"
        " FROM unnest(%s::int[], %s::int[]) t(at, bits)"
        " JOIN shots s ON s.asset_id = %s AND t.at >= s.start_ms AND t.at < s.end_ms"
        " CROSS JOIN LATERAL (SELECT frame_id FROM frames WHERE asset_id = s.asset_id"
        "  ORDER BY shot <> s.idx, abs(t_ms - t.at) LIMIT 1) f ORDER BY s.idx, t.bits, t.at",
        (times[near].tolist(), bits[near].tolist(), asset_id),
    )
    return rows.fetchall()


_BITS: LiteralString = "bit_count(phash # %(q)s::bigint::bit(64))"
_NEAR: LiteralString = (
    "(band0 = ANY(%(band0)s) OR band1 = ANY(%(band1)s) OR band2 = ANY(%(band2)s) OR band3 = ANY(%(band3)s))"
    f" AND {_BITS} <= %(most)s AND (%(assets)s::bigint[] IS NULL OR asset_id = ANY(%(assets)s))"
)


def _near_values(phash: bytes, scope: Scope, count: int) -> dict[str, Any]:
    keys = probes(np.frombuffer(phash, ">u8").astype(np.uint64))[0].tolist()
    return {
        **{f"band{band}": found for band, found in enumerate(keys)},
        "q": int.from_bytes(phash, "big", signed=True),
        "most": NEAR_BITS,
        "n": count,
        **scope.values,
    }


def _moments(
    conn: psycopg.Connection[Any], found: Sequence[Found], scored: Callable[[PictureHit, float], PictureHit]
) -> list[PictureHit]:
    """The best frame of each shot, best first."""
    hits = _frames(conn, [frame_id for frame_id, *_ in found])
    best: dict[tuple[int, int | None], PictureHit] = {}
    for frame_id, value, at_ms in found:
        hit = hits.get(frame_id)
        if hit is None:
            continue
        hit = hit if at_ms is None else replace(hit, t_ms=at_ms)
        best.setdefault((hit.asset_id, hit.shot), scored(hit, value))
    return list(best.values())


def _frames(conn: psycopg.Connection[Any], frame_ids: Sequence[int]) -> dict[int, PictureHit]:
    """Frame id -> the moment it shows, without a score; flat and black ones are left out."""
    rows = conn.execute(
        "SELECT f.frame_id, f.asset_id, encode(a.sha256, 'hex'),"
        " (SELECT name FROM asset_names n WHERE n.asset_id = f.asset_id), a.media_kind, f.idx, f.t_ms, f.shot,"
        " s.start_ms, s.end_ms, encode(f.thumbnail, 'hex')"
        " FROM frames f JOIN assets a USING (asset_id) LEFT JOIN shots s ON (s.asset_id, s.idx) = (f.asset_id, f.shot)"
        " WHERE f.frame_id = ANY(%s) AND f.is_informative",
        (list(frame_ids),),
    )
    return {row[0]: PictureHit(*row[1:], similarity=None, distance=None) for row in rows}


def _without_copies(conn: psycopg.Connection[Any], hits: Sequence[PictureHit]) -> list[PictureHit]:
    """A hit in a copy is told with that of the asset that stands for it, where both show the same moment.

    What only the copy shows stays as it is.
    """
    kept = _kept(conn, {hit.asset_id for hit in hits})
    places: dict[int, list[int]] = {}
    for number, hit in enumerate(hits):
        places.setdefault(hit.asset_id, []).append(number)
    copies: dict[int, set[str]] = {}
    gone: set[int] = set()
    for number, hit in enumerate(hits):
        asset_id, offset_ms = kept.get(hit.asset_id, (None, 0))
        away_ms = {other: _away_ms(hits[other], hit.t_ms + offset_ms) for other in places.get(asset_id or 0, ())}
        whole = min(away_ms, key=away_ms.__getitem__, default=number)
        if whole != number and away_ms[whole] <= SLACK_MS:
            copies.setdefault(whole, set()).add(hit.uri)
            gone.add(number)
    return [
        replace(hit, copies=tuple(sorted(copies.get(number, ()))))
        for number, hit in enumerate(hits)
        if number not in gone
    ]


def _away_ms(hit: PictureHit, t_ms: int) -> int:
    """How far outside the hit's shot a moment lies; an image shows every moment."""
    if hit.start_ms is None or hit.end_ms is None:
        return 0
    return max(hit.start_ms - t_ms, t_ms - hit.end_ms + 1, 0)


def _kept(conn: psycopg.Connection[Any], asset_ids: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Copy -> the asset that stands for it in the end, and what to add to a time in the copy to have it there."""
    step: dict[int, tuple[int, int]] = {}
    waiting = set(asset_ids)
    while waiting:
        rows = conn.execute(
            "SELECT asset_a, asset_b, kept, coalesce(offset_ms, 0) FROM duplicate_decisions"
            " LEFT JOIN near_duplicates USING (asset_a, asset_b)"
            " WHERE verdict = 'copy' AND ((asset_a = ANY(%(ids)s) AND kept = asset_b)"
            " OR (asset_b = ANY(%(ids)s) AND kept = asset_a)) ORDER BY event_id",
            {"ids": list(waiting)},
        ).fetchall()
        met = {(b if kept == a else a): (kept, offset if kept == a else -offset) for a, b, kept, offset in rows}
        step |= met
        waiting = {kept for kept, _ in met.values()} - set(step)
    return {copy: _end(step, copy) for copy in step}


def _end(step: Mapping[int, tuple[int, int]], copy: int) -> tuple[int, int]:
    """Where the steps lead from `copy`, and the sum of their offsets; a circle is left where it closes."""
    at, offset_ms = step[copy]
    seen = {copy}
    while at in step and at not in seen:
        seen.add(at)
        at, more_ms = step[at]
        offset_ms += more_ms
    return at, offset_ms


def _spread(hits: Sequence[PictureHit], limit: int) -> list[PictureHit]:
    """The best `limit`, no more than a few of an asset while others have something to show; best first."""
    first: list[int] = []
    later: list[int] = []
    taken: Counter[int] = Counter()
    for number, hit in enumerate(hits):
        taken[hit.asset_id] += 1
        (first if taken[hit.asset_id] <= MOMENTS_PER_ASSET else later).append(number)
    return [hits[number] for number in sorted([*first, *later][:limit])]
