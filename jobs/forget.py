"""Forget assets one by one: each with its rows, then with this node's copy of its content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.lanes import cache_dir
from cluster.db.forget import Holding, forget_asset
from cluster.media.store import drop_cached
from cluster.settings import Settings


def forget_all(conn: Any, found: Sequence[Holding], settings: Settings) -> list[Holding]:
    """Those that were still there; what was forgotten before an error stays forgotten."""
    done = []
    for item in found:
        if forget_asset(conn, item.asset_id):
            drop_cached(cache_dir(settings), item.sha256)
            done.append(item)
    return done
