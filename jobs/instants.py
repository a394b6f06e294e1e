"""Single pictures of assets as files: what a player shows at a time, decoded again from the registered content."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from actors.lanes import cache_dir
from actors.registered import read_registered
from cluster.db.pictures import read_frames
from cluster.deadline import deadline_s
from cluster.errors import RushesError, UsageError, os_reason
from cluster.media.child import MediaChild
from cluster.media.instant import FORMATS, Instant
from cluster.settings import Settings
from jobs.clips import present_source


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
    row = {**present_source(conn, asset["asset_id"]), "sha256": asset["sha256"]}
    before = [frame for frame in read_frames(conn, asset["asset_id"]) if frame["t_ms"] <= t_ms]
    kind, form = asset["media_kind"], FORMATS[target.suffix.lower()]
    limit_s = deadline_s(settings.pictures_base_s, settings.pictures_s_per_hour, [asset["duration_ms"]])
    with closing(MediaChild(settings.decode_memory_bytes)) as child:
        found = read_registered(
            row,
            cache_dir(settings),
            lambda path: child.instant(path, kind, t_ms, form, before[-1] if before else None, limit_s),
        )
    if found.data is None:
        end_s = (found.until_ms or 0) / 1000
        raise UsageError(f"{t_ms / 1000:g} s is after the last picture, which is shown until {end_s:g} s")
    return found


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
