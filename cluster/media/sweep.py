"""The node's copies of object-store content: which of them no source needs any more."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

# A copy this young may belong to a source that is being registered.
GRACE_S = 3_600.0
_NAME = re.compile(r"[0-9a-f]{64}")


def unneeded_copies(cache_dir: Path, needed: Collection[str], now_s: float) -> list[tuple[Path, int]]:
    """Copies in the cache that no content in `needed` (SHA-256, hex) has, with their bytes; broken-off ones too."""
    if not cache_dir.is_dir():
        return []
    copies = [path for path in cache_dir.glob("[0-9a-f][0-9a-f]/*") if _NAME.fullmatch(path.name)]
    found = []
    for path in sorted([*copies, *cache_dir.glob(".part-*")]):
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        if path.name not in needed and now_s - stat.st_mtime > GRACE_S:
            found.append((path, stat.st_size))
    return found
