"""Parts of the content that is registered: the picture at a time, and cut clips, each read in a media child."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.registered import read_registered
from cluster.errors import UsageError
from cluster.media.child import MediaChild
from cluster.media.clip import Clip, ClipSpec
from cluster.media.instant import Instant
from cluster.media.node_cache import NodeCache

Row = Mapping[str, Any]


def take_picture(
    child: MediaChild,
    source: Row,
    kind: str,
    t_ms: int,
    form: str,
    anchor: Row | None,
    limit_s: float,
    cache: NodeCache,
) -> Instant:
    """The picture of a source (as `readable_sources` tells it) at a time, as an image file of `form`.

    `kind` is that of the probe, `anchor` a committed frame at or before the time. Raises `UsageError` for a time
    after the end, and what `read_registered` and the media child raise.
    """
    found = read_registered(source, cache, lambda path: child.instant(path, kind, t_ms, form, anchor, limit_s))
    if found.data is None:
        end_s = (found.until_ms or 0) / 1000
        raise UsageError(f"{t_ms / 1000:g} s is after the last picture, which is shown until {end_s:g} s")
    return found


def take_clip(
    child: MediaChild, source: Row, spec: ClipSpec, anchor: Row | None, sink: int, limit_s: float, cache: NodeCache
) -> Clip:
    """Cut a clip of a source into the file of descriptor `sink`; raises as `take_picture`."""

    def cut(path: Path) -> Clip:
        # what an earlier try left of a file that was replaced meanwhile
        os.ftruncate(sink, 0)
        os.lseek(sink, 0, os.SEEK_SET)
        return child.clip(path, spec, anchor, sink, limit_s)

    return read_registered(source, cache, cut)
