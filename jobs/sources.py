"""Sources that moved, went or came back since the corpus last looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.db import register as db
from cluster.media.inputs import Listing
from jobs.summary import SourceChanges


def gone_below(conn: Any, listing: Listing) -> list[str]:
    """Known sources below the listed folders that are certainly not there any more.

    The listing only proposes: what it did not name (unreadable folders, hidden or other suffixes) is looked at.
    """
    listed = {file.uri for file in listing.files}
    known = {uri for folder in listing.folders for uri in db.sources_below(conn, folder)}
    return listing.gone(sorted(known - listed))


@dataclass(frozen=True, slots=True)
class Sources:
    """What one listing tells of known sources: those unchanged (source -> asset), and those gone."""

    listing: Listing
    same: Mapping[str, int]
    gone: Sequence[str]

    def record(self, conn: Any, found: Sequence[str]) -> SourceChanges:
        """Mark what went and what came back; `found` are sources registered just now.

        A file that moved is a new source of a known asset, whose old one is looked at wherever it was.
        Nothing but the marks changes. Safe to repeat.
        """
        left = self.listing.gone(db.sources_beside(conn, found)) if found else []
        gone = sorted({*self.gone, *left})
        with conn.transaction():
            back = db.mark_present(conn, list(self.same))
            db.mark_gone(conn, gone)
            moved = db.count_moved(conn, gone, found)
        return SourceChanges(moved=moved, gone=len(gone) - moved, back=back)
