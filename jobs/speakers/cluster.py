"""The job that groups unknown voices: recorded as a run, here or as one task of a cluster."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from cluster.db.connect import database_errors, refuse_embedded_elsewhere
from cluster.db.filter import AssetFilter
from cluster.db.patience import Session
from cluster.db.spaces import Space, count_vectors
from cluster.db.speakers.clusters import Clustered, Points, read_points, summed, without_voices, write_clustering
from cluster.db.speakers.propagate import thresholds_of
from cluster.errors import RushesError
from cluster.settings import Settings
from cluster.speakers.clusters import Labels, cluster_voices
from cluster.speakers.local_voices import LEAST_CLEAN_MS
from jobs.ingest import open_database
from jobs.speakers.identify import chosen_assets, voice_space
from jobs.speakers.recorded import recorded
from jobs.speakers.remote import run_at


@dataclass(frozen=True, slots=True)
class ClusterResult:
    """What came of it; `lacking` assets have segments and no voices yet, so they took no part."""

    clustered: Clustered
    lacking: int
    cpu_s: float
    run_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The counts as plain values, for the run's record and `--json`."""
        return {**asdict(self.clustered), "assets_without_voices": self.lacking, "cpu_s": round(self.cpu_s, 2)}


def cluster_job(
    settings: Settings, names: Sequence[str], chosen: AssetFilter, *, dry_run: bool, address: str | None
) -> ClusterResult:
    """Group the unknown voices of these assets, or of all. Raises `RushesError` where there is nothing to group."""
    database = open_database(settings, settings.database_wait_s)
    refuse_embedded_elsewhere(database, address)
    with database_errors(), closing(Session(database.url, settings.database_wait_s)) as session:
        ids = session.run(lambda conn: chosen_assets(conn, names, chosen))
        run_id = None if dry_run else uuid.uuid4()
        return run_at(address, _cluster, database.url, settings.database_wait_s, ids, run_id)


def _cluster(url: str, wait_s: float, ids: list[int] | None, run_id: UUID | None) -> ClusterResult:
    def work(session: Session, found: tuple[Space, Points, int]) -> ClusterResult:
        space, points, lacking = found
        labels, cpu_s = _grouped(space, points)
        if run_id is None:
            return ClusterResult(summed(points, labels), lacking, cpu_s)
        written = session.run(lambda conn: write_clustering(conn, space, points, labels, run_id))
        return ClusterResult(written, lacking, cpu_s, str(run_id))

    return recorded(url, wait_s, run_id, "cluster", lambda conn: _read(conn, ids), work, ClusterResult.to_dict)


def _read(conn: Any, ids: list[int] | None) -> tuple[tuple[Space, Points, int], dict[str, Any]]:
    space = voice_space(conn)
    points, lacking = read_points(conn, space, ids), without_voices(conn, space, ids)
    if len(points.keys):
        return (space, points, lacking), _config(space, ids)
    if lacking:
        raise RushesError(f"no voices are stored of {lacking} asset(s): run `rushes ingest --lanes voices` first")
    if not count_vectors(conn, space):
        raise RushesError("the voice space is empty: no segment has a voice yet; run `rushes ingest` first")
    where = "" if ids is None else f" in the {len(ids)} asset(s) asked for"
    raise RushesError(
        f"there is no unknown voice{where}: all with {LEAST_CLEAN_MS / 1000} s of clean speech are decided"
    )


def _grouped(space: Space, points: Points) -> tuple[Labels, float]:
    """The clusters and the CPU seconds they took."""
    began_s, assets = time.process_time(), [asset_id for asset_id, _ in points.keys]
    labels = cluster_voices(points.vectors, assets, points.clean_ms, thresholds_of(space))
    return labels, time.process_time() - began_s


def _config(space: Space, ids: list[int] | None) -> dict[str, Any]:
    limits = thresholds_of(space)
    assets = None if ids is None else len(ids)
    return {"space_id": space.space_id, "assets": assets, "alike": limits.alike, "same": limits.same}
