"""Forget assets one by one: each with its rows, then with this node's copy of its content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.lanes import cache_dir
from cluster.db.forget import Holding, forget_asset, without_source
from cluster.db.report import sources_of
from cluster.media.inputs import is_missing
from cluster.media.store import drop_cached, is_remote
from cluster.settings import Settings


def vanished(conn: Any) -> tuple[list[int], int]:
    """Assets that no source leads to, and how many more were marked so whose file may be there again.

    The marks are from the last ingest: a disk may have been mounted since, and that is looked at.
    """
    marked = without_source(conn)
    sources = sources_of(conn, marked)
    gone = [one for one in marked if all(is_remote(uri) or is_missing(uri) for uri in sources.get(one, ()))]
    return gone, len(marked) - len(gone)


def forget_all(conn: Any, found: Sequence[Holding], settings: Settings) -> list[Holding]:
    """Those that were still there; what was forgotten before an error stays forgotten."""
    done = []
    for item in found:
        if forget_asset(conn, item.asset_id):
            drop_cached(cache_dir(settings), item.sha256)
            done.append(item)
    return done
