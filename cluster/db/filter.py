"""Which assets a command is about: by channel, tag and collection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from cluster.errors import UsageError

_KNOWN: dict[str, LiteralString] = {
    "channel": "SELECT DISTINCT channel FROM assets WHERE channel IS NOT NULL ORDER BY 1",
    "tag": "SELECT DISTINCT tag FROM asset_tags ORDER BY 1",
    "collection": "SELECT DISTINCT collection FROM asset_collections ORDER BY 1",
}
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class AssetFilter:
    """Names of each kind are alternatives; the kinds given must all hold. Case does not count."""

    channels: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    collections: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.channels or self.tags or self.collections)


def matching(conn: psycopg.Connection[Any], chosen: AssetFilter, asset_ids: Sequence[int] | None = None) -> list[int]:
    """The assets, of `asset_ids` or of all, that the filter lets through, in the order of their ids.

    Raises `UsageError` for a name that no asset has.
    """
    for kind, names in (("channel", chosen.channels), ("tag", chosen.tags), ("collection", chosen.collections)):
        _check_known(conn, kind, names)
    rows = conn.execute(
        "SELECT asset_id FROM assets a WHERE (%(ids)s::bigint[] IS NULL OR asset_id = ANY(%(ids)s))"
        " AND (%(channels)s::text[] = '{}' OR lower(channel) = ANY(%(channels)s))"
        " AND (%(tags)s::text[] = '{}' OR EXISTS"
        "   (SELECT 1 FROM asset_tags t WHERE t.asset_id = a.asset_id AND lower(tag) = ANY(%(tags)s)))"
        " AND (%(collections)s::text[] = '{}' OR EXISTS"
        "   (SELECT 1 FROM asset_collections c WHERE c.asset_id = a.asset_id"
        "    AND lower(collection) = ANY(%(collections)s)))"
        " ORDER BY asset_id",
        {
            "ids": None if asset_ids is None else list(asset_ids),
            "channels": _lower(chosen.channels),
            "tags": _lower(chosen.tags),
            "collections": _lower(chosen.collections),
        },
    )
    return [row[0] for row in rows]


def _check_known(conn: psycopg.Connection[Any], kind: str, names: Sequence[str]) -> None:
    if not names:
        return
    known = [row[0] for row in conn.execute(_KNOWN[kind])]
    unknown = sorted(set(_lower(names)) - set(_lower(known)))
    if unknown:
        shown = ", ".join(known[:_SHOWN]) + (f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else "")
        raise UsageError(f"no asset has the {kind} {unknown[0]!r}; known: {shown or 'none'}")


def _lower(names: Sequence[str]) -> list[str]:
    return [name.lower() for name in names]
