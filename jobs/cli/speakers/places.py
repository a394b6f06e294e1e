"""Times and places as a person writes them on the command line."""

from __future__ import annotations

import re
from typing import Any

_TIME = re.compile(r"(?:(?:(\d{1,6}):)?(\d{1,6}):)?(\d{1,9}(?:\.\d{1,9})?)", re.ASCII)


def parse_time(text: str) -> int:
    """Milliseconds of `SECONDS`, `M:SS` or `H:MM:SS`, each with a fraction or without; raises `UsageError`."""
    from cluster.errors import UsageError
    from jobs.cli.common import MOST_ROWS

    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is no time: write seconds, M:SS or H:MM:SS, such as 75.5, 1:15.5 or 0:01:15.5")
    hours, minutes, seconds = match.groups()
    if (minutes is not None and float(seconds) >= 60) or (hours is not None and int(minutes or 0) >= 60):
        raise UsageError(f"{text!r} is no time: minutes and seconds go to 59")
    at_ms = round((int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds)) * 1000)
    if at_ms > MOST_ROWS:
        raise UsageError(f"{text!r} is later than any recording is long")
    return at_ms


def parse_place(conn: Any, text: str) -> tuple[dict[str, Any], int | None]:
    """The asset and the time of `ASSET` or `ASSET@TIME`; a name that is an asset's as a whole is that asset."""
    from cluster.db.report import find_asset
    from cluster.errors import UsageError

    name, at, time = text.rpartition("@")
    try:
        return find_asset(conn, text), None
    except UsageError:
        if not at or not name or _TIME.fullmatch(time) is None:
            raise
    return find_asset(conn, name), parse_time(time)
