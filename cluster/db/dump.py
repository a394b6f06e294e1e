"""Everything the corpus says, by natural keys: no ids, no times, no runs, no attempts.

Two databases say the same when their dumps do not differ, whatever happened on the way there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from cluster.db.connect import snapshot
from cluster.db.spaces import list_spaces

Key = tuple[Any, ...]
Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Dump:
    """Section -> natural key -> fields, and section -> natural key -> vector of shape (dimension,), float32."""

    facts: Mapping[str, Mapping[Key, Mapping[str, Any]]] = field(default_factory=dict)
    vectors: Mapping[str, Mapping[Key, Vector]] = field(default_factory=dict)


# A cluster is called after its first member.
_FIRST: LiteralString = "min(encode(sha256, 'hex') || ' ' || local_speaker) OVER (PARTITION BY {})"
_SHA: LiteralString = "(SELECT asset_id, encode(sha256, 'hex') AS sha FROM assets)"
# Section -> how many leading columns are the key, and the query.
_FACTS: dict[str, tuple[int, LiteralString]] = {
    "source": (
        1,
        "SELECT uri, encode(sha256, 'hex') AS sha256, s.byte_size, etag FROM sources s JOIN assets USING (asset_id)",
    ),
    "refused source": (
        1,
        "SELECT DISTINCT ON (uri) uri, failure, stage FROM failures f WHERE asset_id IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM sources s WHERE s.uri = f.uri) ORDER BY uri, failure_id DESC",
    ),
    "asset": (
        1,
        "SELECT encode(sha256, 'hex') AS sha256, byte_size, media_kind, container, duration_ms, audio_stream, width,"
        " height, fps, sample_rate_hz, channels, recorded_at_origin,"
        " CASE WHEN recorded_at_origin <> 'mtime' THEN recorded_at END AS recorded_at, title, channel,"
        " ARRAY(SELECT tag FROM asset_tags t WHERE t.asset_id = a.asset_id ORDER BY tag) AS tags,"
        " ARRAY(SELECT collection FROM asset_collections c WHERE c.asset_id = a.asset_id ORDER BY collection)"
        "  AS collections,"
        " (SELECT jsonb_agg(jsonb_build_array(start_ms, end_ms, local_speaker, speaker) ORDER BY idx)"
        "  FROM given_turns g WHERE g.asset_id = a.asset_id) AS given_turns FROM assets a",
    ),
    "unit": (
        3,
        "SELECT encode(sha256, 'hex') AS sha256, u.lane, u.fingerprint, state, outputs, reason, failure, stage"
        " FROM units u JOIN assets USING (asset_id) LEFT JOIN LATERAL (SELECT failure, stage FROM failures f"
        "  WHERE u.state = 'failed' AND (f.asset_id, f.lane, f.fingerprint) = (u.asset_id, u.lane, u.fingerprint)"
        "  ORDER BY failure_id DESC LIMIT 1) f ON true",
    ),
    "segment": (
        2,
        "SELECT encode(sha256, 'hex') AS sha256, idx, start_ms, end_ms, s.local_speaker, text, words,"
        " text_skip_reason, g.local_speaker AS voice_group, l.segment_id IS NOT NULL AS is_labelled, p.name AS labelled"
        " FROM segments s JOIN assets USING (asset_id) LEFT JOIN segment_groups g USING (segment_id)"
        " LEFT JOIN segment_labels l USING (segment_id) LEFT JOIN speakers p ON p.speaker_id = l.speaker_id",
    ),
    "local speaker": (
        2,
        "SELECT encode(sha256, 'hex') AS sha256, local_speaker, segments, speech_ms, is_ghost, is_grouped,"
        " r.name AS speaker, method FROM local_speakers l JOIN assets USING (asset_id)"
        " LEFT JOIN speakers p ON p.speaker_id = l.speaker_id LEFT JOIN speakers r ON r.speaker_id = p.root_id",
    ),
    "speaker": (
        1,
        "SELECT name, ARRAY(SELECT name FROM speakers m WHERE m.root_id = s.speaker_id AND m.speaker_id <> m.root_id"
        "  ORDER BY name) AS merged FROM speakers s WHERE is_used AND merged_into IS NULL",
    ),
    "mark": (
        6,
        "SELECT encode(sha256, 'hex') AS sha256, start_ms, end_ms, scope, coalesce(p.name, ''), coalesce(part, -1),"
        " count(*) AS times FROM standing_marks m JOIN assets USING (asset_id) LEFT JOIN speakers p USING (speaker_id)"
        " GROUP BY 1, 2, 3, 4, 5, 6",
    ),
    "member": (
        3,
        "SELECT encode(sha256, 'hex') AS sha256, local_speaker, config_hash,"
        f" {_FIRST.format('found_in')} AS found_with, {_FIRST.format('cluster_id')} AS together_with,"
        " p.name AS offered FROM cluster_members m"
        " JOIN assets USING (asset_id) JOIN spaces USING (space_id) LEFT JOIN speakers p USING (speaker_id)",
    ),
    "identification": (
        2,
        "SELECT encode(sha256, 'hex') AS sha256, local_speaker, config_hash, name, is_accepted FROM identifications"
        " JOIN assets USING (asset_id) JOIN spaces USING (space_id) JOIN speakers USING (speaker_id)",
    ),
    "forgotten voice": (
        3,
        "SELECT encode(sha256, 'hex') AS sha256, start_ms, end_ms, count(*) AS times FROM forgotten_voices"
        " JOIN assets USING (asset_id) GROUP BY 1, 2, 3",
    ),
    "voice": (
        3,
        "SELECT encode(sha256, 'hex') AS sha256, config_hash, idx, skip_reason FROM voices"
        " JOIN segments USING (segment_id) JOIN assets USING (asset_id) JOIN spaces USING (space_id)",
    ),
    "chunk": (
        3,
        "SELECT encode(sha256, 'hex') AS sha256, config_hash, idx, first_segment, last_segment, start_ms, end_ms, text"
        " FROM chunks JOIN assets USING (asset_id) JOIN spaces USING (space_id)",
    ),
    "pictures": (
        1,
        "SELECT encode(sha256, 'hex') AS sha256, p.width, p.height, samples, sample_times, sample_hashes, is_compared"
        " FROM pictures p JOIN assets USING (asset_id)",
    ),
    "shot": (
        2,
        "SELECT encode(sha256, 'hex') AS sha256, idx, start_ms, end_ms FROM shots JOIN assets USING (asset_id)",
    ),
    "frame": (
        2,
        "SELECT encode(sha256, 'hex') AS sha256, idx, shot, pts, time_base_num, time_base_den, t_ms, phash::text,"
        " is_informative, encode(thumbnail, 'hex') AS thumbnail FROM frames JOIN assets USING (asset_id)",
    ),
    # Which of the two has the lower id is of no meaning.
    "near duplicate": (
        2,
        "SELECT least(a.sha, b.sha) AS sha256, greatest(a.sha, b.sha) AS other, method, distance,"
        " CASE WHEN a.sha < b.sha THEN ARRAY[coverage_a, coverage_b] ELSE ARRAY[coverage_b, coverage_a] END"
        "  AS coverage,"
        " CASE WHEN a.sha < b.sha THEN offset_ms ELSE -offset_ms END AS offset_ms,"
        " similarity IS NOT NULL AS is_confirmed"
        f" FROM near_duplicates JOIN {_SHA} a ON a.asset_id = asset_a JOIN {_SHA} b ON b.asset_id = asset_b",
    ),
    "duplicate decision": (
        2,
        "SELECT least(a.sha, b.sha) AS sha256, greatest(a.sha, b.sha) AS other, verdict, k.sha AS kept"
        f" FROM duplicate_decisions JOIN {_SHA} a ON a.asset_id = asset_a JOIN {_SHA} b ON b.asset_id = asset_b"
        f" LEFT JOIN {_SHA} k ON k.asset_id = kept",
    ),
    "visual member": (
        3,
        "SELECT encode(a.sha256, 'hex') AS sha256, f.idx, config_hash, encode(l.sha256, 'hex') AS leader,"
        " c.idx AS leader_idx FROM visual_members m JOIN frames f USING (frame_id) JOIN assets a USING (asset_id)"
        " JOIN visual_clusters c USING (cluster_id) JOIN assets l ON l.asset_id = c.asset_id"
        " JOIN spaces s ON s.space_id = m.space_id",
    ),
    "space": (2, "SELECT kind, config_hash, model, dimension, storage, is_active FROM spaces"),
}
_VECTORS: dict[str, LiteralString] = {
    "voice": "SELECT encode(sha256, 'hex'), idx, embedding FROM {table} JOIN segments USING (segment_id)"
    " JOIN assets USING (asset_id)",
    "text": "SELECT encode(sha256, 'hex'), idx, embedding FROM {table} JOIN chunks USING (chunk_id)"
    " JOIN assets USING (asset_id)",
    "image": "SELECT encode(sha256, 'hex'), idx, embedding FROM {table} JOIN frames USING (frame_id)"
    " JOIN assets USING (asset_id)",
}
_LOCAL: LiteralString = (
    "SELECT encode(sha256, 'hex'), local_speaker, embedding FROM {table} JOIN assets USING (asset_id)"
)
_CACHE: LiteralString = "SELECT encode(audio_sha256, 'hex'), start_sample, end_sample, embedding FROM {table}"


def canonical_dump(conn: psycopg.Connection[Any]) -> Dump:
    """The whole corpus in memory, as one moment saw it.

    `conn` comes from `open_connection` (vector types) and is in no transaction.
    """
    with snapshot(conn):
        facts = {section: _read_facts(conn, keys, query) for section, (keys, query) in _FACTS.items()}
        hashes = dict(conn.execute("SELECT space_id, config_hash FROM spaces").fetchall())
        vectors: dict[str, dict[Key, Vector]] = {
            "voice vector": {},
            "text vector": {},
            "image vector": {},
            "cached voice": {},
            "local voice": {},
        }
        for space in list_spaces(conn):
            if space.kind not in _VECTORS:
                continue
            named = hashes[space.space_id]
            vectors[f"{space.kind} vector"] |= _read_vectors(conn, _VECTORS[space.kind], space.table_name, named)
            if space.kind == "voice":
                vectors["local voice"] |= _read_vectors(conn, _LOCAL, space.local_voices_table, named)
                vectors["cached voice"] |= _read_vectors(conn, _CACHE, space.cache_table, named)
    return Dump(facts, vectors)


def differences(a: Dump, b: Dump, tolerance: float = 1e-4, limit: int = 20) -> list[str]:
    """What `a` and `b` say differently, a line each, then how many more than `limit`; empty when equal.

    Vectors may differ by `tolerance` in every element; everything else is compared exactly.
    """
    found = [*_compare_facts(a, b), *_compare_vectors(a, b, tolerance)]
    rest = len(found) - limit
    return [*found[:limit], f"and {rest} more"] if rest > 0 else found


def _read_facts(conn: psycopg.Connection[Any], keys: int, query: LiteralString) -> dict[Key, dict[str, Any]]:
    cursor = conn.execute(query)
    names = [column.name for column in cursor.description or ()][keys:]
    return {row[:keys]: dict(zip(names, row[keys:], strict=True)) for row in cursor}


def _read_vectors(
    conn: psycopg.Connection[Any], query: LiteralString, table: str, config_hash: str
) -> dict[Key, Vector]:
    rows = conn.execute(sql.SQL(query).format(table=sql.Identifier(table)), binary=True)
    return {(key[0], config_hash, *key[1:]): vector.to_numpy().astype(np.float32) for *key, vector in rows}


def _compare_facts(a: Dump, b: Dump) -> Iterator[str]:
    for section in sorted({*a.facts, *b.facts}):
        one, other = a.facts.get(section, {}), b.facts.get(section, {})
        yield from _missing(section, one, other)
        for key in sorted(one.keys() & other.keys()):
            for name, value in one[key].items():
                if value != other[key][name]:
                    yield f"{_label(section, key)}: {name} {value!r} != {other[key][name]!r}"


def _compare_vectors(a: Dump, b: Dump, tolerance: float) -> Iterator[str]:
    for section in sorted({*a.vectors, *b.vectors}):
        one, other = a.vectors.get(section, {}), b.vectors.get(section, {})
        yield from _missing(section, one, other)
        for key in sorted(one.keys() & other.keys()):
            if one[key].shape != other[key].shape:
                yield f"{_label(section, key)}: shape {one[key].shape} != {other[key].shape}"
            # A comparison with NaN is false: such a vector differs.
            elif not (gap := float(np.max(np.abs(one[key] - other[key])))) <= tolerance:
                yield f"{_label(section, key)}: an element differs by {gap:.2g}"


def _missing(section: str, one: Mapping[Key, Any], other: Mapping[Key, Any]) -> Iterator[str]:
    yield from (f"{_label(section, key)}: only in the first" for key in sorted(one.keys() - other.keys()))
    yield from (f"{_label(section, key)}: only in the second" for key in sorted(other.keys() - one.keys()))


def _label(section: str, key: Key) -> str:
    """`segment 3fa94c0d12be 4`: hashes cut to what tells them apart."""
    parts = (str(part) for part in key)
    return " ".join([section, *(part[:12] if len(part) == 64 else part for part in parts)])
