"""Single pictures of assets as files: what a player shows at a time, decoded again from the registered content."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from actors.excerpts import take_picture
from actors.lanes import node_cache
from cluster.db.pictures import last_frame
from cluster.db.transcripts import readable_sources
from cluster.deadline import deadline_s
from cluster.errors import RushesError, UsageError, os_reason
from cluster.media.child import MediaChild
from cluster.media.inputs import first_present
from cluster.media.instant import FORMATS, Instant
from cluster.settings import Settings


def check_target(target: Path) -> None:
    """Raise `UsageError` for a file that cannot be written, before anything is decoded."""
    if target.suffix.lower() not in FORMATS:
        raise UsageError(f"{target}: name a file that ends in {', '.join(FORMATS)}")
    if target.is_dir():
        raise UsageError(f"{target} is a folder: name a file in it")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise UsageError(f"{target}: the folder {target.parent} does not exist or cannot be written to")


def picture_at(conn: Any, settings: Settings, asset: Mapping[str, Any], t_ms: int, target: Path) -> Instant:
    """The picture of `asset` (as `find_asset` gives it) at a time, in the format of `target`.

    Raises `UsageError` for a time after the end, `RushesError` when no source is there, and what the media
    reader raises.
    """
    source = first_present(readable_sources(conn, asset["asset_id"]))
    anchor, form = last_frame(conn, asset["asset_id"], t_ms), FORMATS[target.suffix.lower()]
    limit_s = deadline_s(settings.pictures_base_s, settings.pictures_s_per_hour, [asset["duration_ms"]])
    with closing(MediaChild(settings.decode_memory_bytes)) as child:
        return take_picture(child, source, asset["media_kind"], t_ms, form, anchor, limit_s, node_cache(settings))


def write_whole(target: Path, data: bytes) -> None:
    """Write the file whole or not at all, in place of one of this name; `RushesError` when that fails."""
    part = target.with_name(f".{os.getpid()}-{target.name}")
    try:
        try:
            part.write_bytes(data)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise RushesError(f"cannot write {target}: {os_reason(error)}") from error
