"""How long work on media may take."""

from __future__ import annotations

from collections.abc import Iterable

MS_PER_HOUR = 3_600_000


def deadline_s(base_s: float, s_per_hour: float, durations_ms: Iterable[int | None]) -> float:
    """`base_s` plus `s_per_hour` for each hour of the media; an unknown length counts as one hour."""
    hours = sum(1.0 if ms is None else ms / MS_PER_HOUR for ms in durations_ms)
    return base_s + s_per_hour * hours
