"""What this process did that no row of it tells: bytes fetched, rows written. It only grows; monitoring reads it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """Bytes that came from object stores; rows committed, by lane; voices that the cache had."""

    fetched_bytes: int = 0
    written: Counter[str] = field(default_factory=Counter)
    voice_cache_hits: int = 0


TALLY = Tally()
