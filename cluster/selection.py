"""What the flags of a bulk command mean: times, limits, tolerated failures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cluster.errors import UsageError

PERCENT_COUNTS_AFTER = 100


def parse_when(text: str | None, now: datetime, flag: str) -> datetime | None:
    """`20240131`, `2024-01-31[T12:00[+01:00]]` or `30d` / `12h` before `now`; UTC unless said."""
    if text is None:
        return None
    ago = re.fullmatch(r"(\d+)([dh])", text)
    if ago:
        return now - timedelta(**{"d": {"days": int(ago[1])}, "h": {"hours": int(ago[1])}}[ago[2]])
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{flag} {text!r}: write YYYYMMDD, an ISO time, or 30d / 12h for the past") from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class FailureLimit:
    """How many failures a run bears: a count, or a share of what is planned."""

    count: int | None = None
    percent: float | None = None

    def exceeded(self, failed: int, finished: int) -> bool:
        """Whether to stop; a percentage counts only after 100 finished assets."""
        if self.count is not None and failed > self.count:
            return True
        return (
            self.percent is not None and finished >= PERCENT_COUNTS_AFTER and 100.0 * failed > self.percent * finished
        )


def parse_failure_limit(text: str | None) -> FailureLimit:
    """`10` or `5%`; None bears everything."""
    if text is None:
        return FailureLimit()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text)
    if match is None or (not match[2] and "." in match[1]):
        raise UsageError(f"--max-failures {text!r}: write a count such as 10, or a share such as 5%")
    return FailureLimit(percent=float(match[1])) if match[2] else FailureLimit(count=int(match[1]))
