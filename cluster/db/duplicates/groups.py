"""Near duplicates as a person reads them: pairs in connected groups, with names, and what was decided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from cluster.db.duplicates.decisions import Decisions, read_decisions
from cluster.db.report import dicts
from cluster.duplicates.groups import connected


@dataclass(frozen=True, slots=True)
class Member:
    """An asset of a group: its name is its first source."""

    asset_id: int
    sha256: str
    name: str
    media_kind: str
    duration_ms: int | None
    width: int | None
    height: int | None
    byte_size: int
    sources: Sequence[str]


@dataclass(frozen=True, slots=True)
class Likeness:
    """Two assets that the machine found to be alike; a moment t of b is t + `offset_ms` of a.

    `decided` is `copy` or `different` where people said so, None for an open pair.
    """

    asset_a: int
    asset_b: int
    method: str
    distance: float
    coverage_a: float
    coverage_b: float
    offset_ms: int
    similarity: float | None
    decided: str | None


@dataclass(frozen=True, slots=True)
class Group:
    """Assets that pairs connect, the largest picture or longest video first, and those pairs."""

    members: Sequence[Member]
    pairs: Sequence[Likeness]


def read_groups(
    conn: psycopg.Connection[Any], *, decided: bool = False, asset_id: int | None = None
) -> list[list[Likeness]]:
    """The open pairs, or all, in connected groups; those of one asset are one group. Largest groups first."""
    decisions = read_decisions(conn)
    pairs = [pair for pair in _pairs(conn, decisions, asset_id) if decided or pair.decided is None]
    groups = connected((pair.asset_a, pair.asset_b) for pair in pairs)
    place = {one: number for number, group in enumerate(groups) for one in group}
    found: list[list[Likeness]] = [[] for _ in groups]
    for pair in pairs:
        found[place[pair.asset_a]].append(pair)
    return sorted(found, key=lambda group: (-len(group), group[0].asset_a))


def with_members(conn: psycopg.Connection[Any], pairs: Sequence[Likeness]) -> Group:
    """A group with what its assets are called."""
    ids = {one for pair in pairs for one in (pair.asset_a, pair.asset_b)}
    members = read_members(conn, ids)
    return Group(sorted(members, key=_size, reverse=True), pairs)


def read_members(conn: psycopg.Connection[Any], asset_ids: Iterable[int]) -> list[Member]:
    """What these assets are, by name."""
    return [Member(**row) for row in dicts(conn, f"{_MEMBERS} AND a.asset_id = ANY(%(ids)s) ORDER BY n.name",
                                           {"ids": sorted(set(asset_ids))})]  # fmt: skip


def exact_duplicates(conn: psycopg.Connection[Any], limit: int | None = None) -> list[Member]:
    """The assets to which several sources lead, by name."""
    several = "(SELECT count(*) FROM sources s WHERE s.asset_id = a.asset_id AND gone_at IS NULL) > 1"
    return [Member(**row) for row in dicts(conn, f"{_MEMBERS} AND {several} ORDER BY n.name LIMIT %(limit)s",
                                           {"limit": limit})]  # fmt: skip


def _size(member: Member) -> tuple[int, int, int]:
    return (member.width or 0) * (member.height or 0), member.duration_ms or 0, member.byte_size


def _pairs(conn: psycopg.Connection[Any], decisions: Decisions, asset_id: int | None) -> list[Likeness]:
    rows = conn.execute(
        "SELECT asset_a, asset_b, method, distance, coverage_a, coverage_b, offset_ms, similarity FROM near_duplicates"
        " WHERE %(id)s::bigint IS NULL OR %(id)s IN (asset_a, asset_b) ORDER BY asset_a, asset_b",
        {"id": asset_id},
    )
    return [Likeness(*row, decided=decisions.decided(row[0], row[1])) for row in rows]


_MEMBERS = """
SELECT a.asset_id, encode(a.sha256, 'hex') AS sha256, n.name, a.media_kind, a.duration_ms, p.width, p.height,
  a.byte_size, coalesce((SELECT array_agg(uri ORDER BY uri) FROM sources s
    WHERE s.asset_id = a.asset_id AND gone_at IS NULL), '{}') AS sources
FROM assets a JOIN asset_names n USING (asset_id) LEFT JOIN pictures p USING (asset_id) WHERE true
"""
