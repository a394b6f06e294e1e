"""Sources and assets: what was found where, by content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg

Refusal = TypeVar("Refusal", bound=tuple[Any, ...])


@dataclass(frozen=True, slots=True)
class NewAsset:
    """One content as registration found it; `media_kind` is None when it could not be read."""

    sha256: str
    byte_size: int
    media_kind: str | None = None
    container: str | None = None
    duration_ms: int | None = None
    audio_stream: int | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    sample_rate_hz: int | None = None
    channels: int | None = None
    recorded_at: str | None = None
    recorded_at_origin: str | None = None


@dataclass(frozen=True, slots=True)
class KnownSource:
    """What the corpus remembers of a source, to skip it when nothing changed."""

    asset_id: int
    byte_size: int
    mtime_ns: int | None
    etag: str | None


def known_sources(conn: psycopg.Connection[Any], uris: Sequence[str]) -> dict[str, KnownSource]:
    """uri -> what is known of it."""
    rows = conn.execute(
        "SELECT uri, asset_id, byte_size, mtime_ns, etag FROM sources WHERE uri = ANY(%s)", (list(uris),)
    )
    return {uri: KnownSource(*rest) for uri, *rest in rows}


_COLUMNS = (
    "byte_size", "media_kind", "container", "duration_ms", "audio_stream", "width", "height", "fps",
    "sample_rate_hz", "channels", "recorded_at", "recorded_at_origin",
)  # fmt: skip

_KEPT = {
    name: f"CASE WHEN assets.recorded_at_origin = 'info' THEN assets.{name} ELSE excluded.{name} END"
    for name in ("recorded_at", "recorded_at_origin")
}


def add_asset(conn: psycopg.Connection[Any], asset: NewAsset) -> int:
    """The asset's id, whether it is new or was known by its content.

    A known asset keeps what was probed, unless it could not be read then; a date that a downloader noted stays.
    """
    names = ", ".join(_COLUMNS)
    marks = ", ".join(["%s"] * len(_COLUMNS))
    sha256 = bytes.fromhex(asset.sha256)
    updates = ", ".join(f"{name} = {_KEPT.get(name, f'excluded.{name}')}" for name in _COLUMNS)
    while True:
        conn.execute(
            f"INSERT INTO assets (sha256, {names}) VALUES (%s, {marks}) ON CONFLICT (sha256)"
            f" DO UPDATE SET {updates} WHERE assets.media_kind IS NULL".encode(),
            (sha256, *(getattr(asset, name) for name in _COLUMNS)),
        )
        # Held, so that nobody forgets the asset before its source is recorded; forgotten already, it is new.
        row = conn.execute("SELECT asset_id FROM assets WHERE sha256 = %s FOR KEY SHARE", (sha256,)).fetchone()
        if row is not None:
            return row[0]


def add_source(
    conn: psycopg.Connection[Any],
    uri: str,
    asset_id: int,
    byte_size: int,
    mtime_ns: int | None,
    etag: str | None,
) -> None:
    """Record that `uri` leads to the asset now."""
    conn.execute(
        "INSERT INTO sources (uri, asset_id, byte_size, mtime_ns, etag) VALUES (%s, %s, %s, %s, %s)"
        " ON CONFLICT (uri) DO UPDATE SET asset_id = excluded.asset_id, byte_size = excluded.byte_size,"
        " mtime_ns = excluded.mtime_ns, etag = excluded.etag, seen_at = now(), gone_at = NULL",
        (uri, asset_id, byte_size, mtime_ns, etag),
    )


def touch_sources(conn: psycopg.Connection[Any], times: Mapping[str, int | None]) -> dict[str, int]:
    """Note the times of change (source -> ns) of what was moved without being changed; source -> asset."""
    rows = conn.execute(
        "UPDATE sources s SET mtime_ns = n.mtime_ns, seen_at = now(), gone_at = NULL"
        " FROM unnest(%s::text[], %s::bigint[]) n (uri, mtime_ns) WHERE s.uri = n.uri RETURNING s.uri, s.asset_id",
        (list(times), list(times.values())),
    )
    return dict(rows.fetchall())


def sources_below(conn: psycopg.Connection[Any], folder: tuple[str, str]) -> list[str]:
    """The sources that begin and end like the folder's and were there when last looked for."""
    rows = conn.execute(
        "SELECT uri FROM sources WHERE starts_with(uri, %(start)s) AND right(uri, length(%(end)s)) = %(end)s"
        " AND gone_at IS NULL ORDER BY uri",
        {"start": folder[0], "end": folder[1]},
    )
    return [row[0] for row in rows]


def had_sources(conn: psycopg.Connection[Any], folder: tuple[str, str]) -> bool:
    """Whether any source, there or gone, begins and ends like the folder's."""
    row = conn.execute(
        "SELECT EXISTS (SELECT 1 FROM sources WHERE starts_with(uri, %(start)s)"
        " AND right(uri, length(%(end)s)) = %(end)s)",
        {"start": folder[0], "end": folder[1]},
    ).fetchone()
    return row == (True,)


def sources_beside(conn: psycopg.Connection[Any], uris: Sequence[str]) -> list[str]:
    """The other sources of what `uris` lead to, as far as they were there when last looked for."""
    rows = conn.execute(
        "SELECT DISTINCT o.uri FROM sources s JOIN sources o USING (asset_id)"
        " WHERE s.uri = ANY(%(uris)s) AND o.uri <> ALL(%(uris)s) AND o.gone_at IS NULL ORDER BY o.uri",
        {"uris": list(uris)},
    )
    return [row[0] for row in rows]


def mark_gone(conn: psycopg.Connection[Any], uris: Sequence[str]) -> None:
    """These sources are not there any more; what they led to stays."""
    conn.execute("UPDATE sources SET gone_at = now() WHERE uri = ANY(%s) AND gone_at IS NULL", (list(uris),))


def mark_present(conn: psycopg.Connection[Any], uris: Sequence[str]) -> int:
    """These sources are there, unchanged; returns how many of them were marked as gone."""
    query = "UPDATE sources SET gone_at = NULL WHERE uri = ANY(%s) AND gone_at IS NOT NULL"
    return conn.execute(query, (list(uris),)).rowcount


def count_moved(conn: psycopg.Connection[Any], gone: Sequence[str], found: Sequence[str]) -> int:
    """How many of the sources `gone` led to what one of `found` leads to now."""
    row = conn.execute(
        "SELECT count(DISTINCT g.uri) FROM sources g JOIN sources f USING (asset_id)"
        " WHERE g.uri = ANY(%s) AND f.uri = ANY(%s)",
        (list(gone), list(found)),
    ).fetchone()
    return 0 if row is None else row[0]


def add_failure(
    conn: psycopg.Connection[Any],
    *,
    run_id: Any,
    asset_id: int | None,
    uri: str | None,
    lane: str | None,
    fingerprint: str | None,
    failure: str,
    stage: str,
    message: str,
) -> None:
    """Append one failure to the history."""
    conn.execute(
        "INSERT INTO failures (run_id, asset_id, uri, lane, fingerprint, attempt, failure, stage, message)"
        " VALUES (%s, %s, %s, %s, %s, 1 + (SELECT count(*) FROM failures WHERE asset_id = %s AND lane = %s"
        " AND fingerprint = %s), %s, %s, %s)",
        (run_id, asset_id, uri, lane, fingerprint, asset_id, lane, fingerprint, failure, stage, message),
    )


def forget_registration(conn: psycopg.Connection[Any], run_id: Any) -> None:
    """Take back what the run filed about its registration, so that filing it again counts once."""
    conn.execute("DELETE FROM failures WHERE run_id = %s AND stage = 'register'", (run_id,))


def unreadable_assets(conn: psycopg.Connection[Any], asset_ids: Sequence[int], *, told: bool) -> set[int]:
    """Those of the assets whose content could not be read when they were registered.

    With `told` also those whose failure is on record; without, only what a registration that died left unsaid.
    """
    chosen = frozenset(asset_ids)
    rows = conn.execute(
        "SELECT asset_id FROM assets a WHERE media_kind IS NULL"
        " AND (%s OR NOT EXISTS (SELECT 1 FROM failures f WHERE f.asset_id = a.asset_id))",
        (told,),
    )
    return {row[0] for row in rows if row[0] in chosen}


def new_refusals(conn: psycopg.Connection[Any], refused: Sequence[Refusal]) -> list[Refusal]:
    """Those of the (uri, reason, ...) that are not on record yet, or only from before their last success."""
    rows = conn.execute(
        "SELECT uri, message FROM failures f WHERE asset_id IS NULL AND uri = ANY(%s)"
        " AND NOT EXISTS (SELECT 1 FROM sources s WHERE s.uri = f.uri AND s.seen_at > f.at)",
        ([item[0] for item in refused],),
    )
    known = set(rows.fetchall())
    return [item for item in refused if item[:2] not in known]


def all_asset_ids(conn: psycopg.Connection[Any]) -> list[int]:
    """Every asset, whether a source still leads to it or not."""
    return [row[0] for row in conn.execute("SELECT asset_id FROM assets ORDER BY asset_id")]


def existing(conn: psycopg.Connection[Any], asset_ids: Sequence[int]) -> set[int]:
    """Those of the assets that were not forgotten."""
    return {row[0] for row in conn.execute("SELECT asset_id FROM assets WHERE asset_id = ANY(%s)", (list(asset_ids),))}
