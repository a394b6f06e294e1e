"""A new text space beside the old one, made from stored segments: no media is read, and search goes on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from actors.lanes import space_identities, stored_fingerprints
from cluster.db import spaces, stored
from cluster.db.connect import Database, database_errors
from cluster.db.filter import AssetFilter
from cluster.db.patience import Session
from cluster.settings import Settings
from jobs.ingest import ingest, open_database
from jobs.job import IngestOptions, Reporter
from jobs.summary import Summary

LANES = ("texts",)


@dataclass(frozen=True, slots=True)
class ReembedOptions:
    """What one call may touch."""

    chosen: AssetFilter = field(default_factory=AssetFilter)
    limit: int | None = None
    dry_run: bool = False
    address: str | None = None


@dataclass(slots=True)
class Reembedded:
    """What became of it: a summary per kind of transcript, the space, and the one search used before.

    `active` is the space that search uses now, `missing` how many assets keep `space` from being it.
    """

    summaries: list[Summary] = field(default_factory=list)
    space: spaces.Space | None = None
    before: spaces.Space | None = None
    active: spaces.Space | None = None
    missing: int = 0
    chunks_now: int = 0
    usual_texts_per_s: float | None = None

    @property
    def texts(self) -> int:
        """Chunks committed by this call."""
        return sum(summary.outputs.get("texts", 0) for summary in self.summaries)

    @property
    def assets(self) -> int:
        """Assets done by this call; planned ones in a dry run."""
        return sum(summary.planned if summary.state == "dry-run" else summary.ok for summary in self.summaries)

    @property
    def failed(self) -> int:
        """Assets that failed."""
        return sum(summary.failed for summary in self.summaries)

    @property
    def wall_s(self) -> float:
        """Seconds of work, model loads and start-up apart."""
        return sum(summary.wall_s for summary in self.summaries)

    @property
    def texts_per_s(self) -> float:
        """Chunks committed per second of work."""
        return self.texts / self.wall_s if self.wall_s else 0.0

    @property
    def exit_code(self) -> int:
        """That of the worst summary; 1 and 130 end the call, so they come last."""
        codes = [summary.exit_code for summary in self.summaries]
        return codes[-1] if codes and codes[-1] in (1, 130) else max(codes, default=0)


def reembed(settings: Settings, options: ReembedOptions, reporter: Reporter) -> Reembedded:
    """Fill the text space of the settings with every stored transcript, and let search use it once it is complete.

    Assets that are done in it already cost nothing; those that failed are tried again.
    """
    database = open_database(settings, settings.database_wait_s)
    with database_errors(), closing(Session(database.url, settings.database_wait_s)) as session:
        return _Reembedding(database, session, settings, options, reporter).run()


class _Reembedding:
    def __init__(
        self, database: Database, session: Session, settings: Settings, options: ReembedOptions, reporter: Reporter
    ) -> None:
        self.session, self.settings, self.options, self.reporter = session, settings, options, reporter
        self.name = spaces.space_name("text", *space_identities(settings)["text"])
        self.result = Reembedded()

    def run(self) -> Reembedded:
        result = self.result
        result.before = self.session.run(partial(spaces.active_space, kind="text"))
        transcripts = self.session.run(stored.stored_transcripts)
        if self.options.dry_run:
            self._estimate(transcripts)
        left = self.options.limit
        for speech, asset_ids in transcripts.items():
            if left == 0:
                break
            summary = self._of(speech, asset_ids, left)
            left = None if left is None else max(0, left - summary.planned)
            if summary.exit_code in (1, 130):
                break
        self.session.run(self._look)
        return result

    def _of(self, speech: str, asset_ids: list[int], limit: int | None) -> Summary:
        asked = IngestOptions(
            lanes=LANES,
            chosen=self.options.chosen,
            limit=limit,
            retry_failed=True,
            dry_run=self.options.dry_run,
            address=self.options.address,
            kind="reembed",
            asset_ids=asset_ids,
            prints=stored_fingerprints(self.settings, speech),
        )
        summary = ingest(self.settings, asked, self.reporter)
        self.result.summaries.append(summary)
        return summary

    def _look(self, conn: Any) -> None:
        result = self.result
        result.space = spaces.find_space(conn, "text", self.name)
        result.active = spaces.active_space(conn, "text")
        if result.space is None or self.options.dry_run:
            return
        result.missing = spaces.count_missing(conn, result.space)
        for summary in result.summaries:
            texts = summary.outputs.get("texts", 0)
            if summary.run_id is not None and texts and summary.wall_s:
                stored.note_texts_per_s(conn, summary.run_id, result.space.space_id, texts / summary.wall_s)

    def _estimate(self, transcripts: Mapping[str, list[int]]) -> None:
        ids = [asset_id for group in transcripts.values() for asset_id in group]
        before = self.result.before
        space = self.session.run(partial(spaces.find_space, kind="text", name=self.name))
        rates = self.session.run(stored.last_texts_per_s)
        if before is not None:
            self.result.chunks_now = self.session.run(lambda conn: stored.count_chunks(conn, ids, before.space_id))
        if space is not None:
            self.result.usual_texts_per_s = rates.get(space.space_id)


def reembedded_dict(result: Reembedded) -> dict[str, Any]:
    """The result as plain values, for `--json`."""
    return {
        "space": _space_dict(result.space),
        "active": _space_dict(result.active),
        "before": _space_dict(result.before),
        "assets": result.assets,
        "failed": result.failed,
        "missing": result.missing,
        "texts": result.texts,
        "wall_s": round(result.wall_s, 3),
        "texts_per_s": round(result.texts_per_s, 1),
        "runs": [summary.run_id for summary in result.summaries if summary.run_id],
        "exit_code": result.exit_code,
    }


def _space_dict(space: spaces.Space | None) -> dict[str, Any] | None:
    if space is None:
        return None
    return {"space_id": space.space_id, "profile": space.profile, "model": space.model, "dimension": space.dimension}
