"""What Ray says in pages, in one line."""

from __future__ import annotations

import re

_ERROR = re.compile(r"^(?:\w+\.)*(\w*(?:Error|Exception))(?:\(\w+\))?: (.+)$", re.MULTILINE)
_MOST_CHARS = 400


def one_line(text: str) -> str:
    """The last error that a traceback ends with, without its path; the first line of anything else."""
    found = _ERROR.findall(text)
    if found:
        name, said = found[-1]
        ours = name in ("RushesError", "UsageError", "PlanError")
        return (said if ours else f"{name}: {said}")[:_MOST_CHARS]
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:_MOST_CHARS]
