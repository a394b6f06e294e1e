"""The job that recognises voices: one at a time, recorded as a run, here or on a cluster."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any
from uuid import UUID

from cluster.db.connect import database_errors, refuse_embedded_elsewhere
from cluster.db.filter import AssetFilter, matching
from cluster.db.patience import Session
from cluster.db.report import find_asset
from cluster.db.spaces import Space, active_space
from cluster.db.speakers.identify import Identified, IdentifyOptions, gallery_size
from cluster.errors import RushesError
from cluster.settings import Settings
from jobs.ingest import open_database
from jobs.speakers.recognise import identify_alone
from jobs.speakers.recorded import recorded
from jobs.speakers.remote import run_at


def voice_space(conn: Any) -> Space:
    """The active voice space; `RushesError` before there is any."""
    space = active_space(conn, "voice")
    if space is None:
        raise RushesError("no voice is stored yet: run `rushes ingest` first, or `rushes ingest --lanes voices`")
    return space


def chosen_assets(conn: Any, names: Sequence[str], chosen: AssetFilter) -> list[int] | None:
    """The assets that names and filter leave; None for all there are."""
    if not names and not chosen:
        return None
    return matching(conn, chosen, [find_asset(conn, name)["asset_id"] for name in names] if names else None)


def identify_job(
    settings: Settings, names: Sequence[str], chosen: AssetFilter, *, again: bool, dry_run: bool, address: str | None
) -> tuple[Identified, str | None]:
    """Recognise what is unknown in these assets, or in all; returns what came of it and the run's id, if any."""
    database = open_database(settings, settings.database_wait_s)
    refuse_embedded_elsewhere(database, address)
    with database_errors(), closing(Session(database.url, settings.database_wait_s)) as session:
        ids = session.run(lambda conn: chosen_assets(conn, names, chosen))
        options = IdentifyOptions(ids, again, dry_run)
        run_id = None if dry_run else uuid.uuid4()
        found = run_at(address, _recognise, database.url, settings.database_wait_s, options, run_id)
    return found, None if run_id is None else str(run_id)


def _recognise(url: str, wait_s: float, options: IdentifyOptions, run_id: UUID | None) -> Identified:
    def look(conn: Any) -> tuple[Space, dict[str, Any]]:
        space, ids = voice_space(conn), options.asset_ids
        gallery_size(conn, space)
        return space, {"space_id": space.space_id, "again": options.again, "assets": None if ids is None else len(ids)}

    def work(session: Session, space: Space) -> Identified:
        return session.run(lambda conn: identify_alone(conn, space, options, run_id))

    return recorded(url, wait_s, run_id, "identify", look, work, summary_of)


def summary_of(found: Identified) -> dict[str, Any]:
    """The counts as plain values, for the run's record and `--json`."""
    return {
        "gallery": {"people": found.gallery_people, "voices": found.gallery_voices},
        "taus": {**asdict(found.taus), "at": None if found.taus.at is None else found.taus.at.isoformat()},
        "asked": found.asked,
        "voices": found.voices,
        "known_before": found.known_before,
        "named": found.named,
        "lost": found.lost,
        "unknown": dict(found.unknown),
        "segments": asdict(found.segments),
    }
