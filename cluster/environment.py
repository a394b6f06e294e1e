"""The environment of our own child processes."""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def child_environment(**more: str) -> dict[str, str]:
    """This process's environment in which a child finds our packages, wherever it is started; `more` is added."""
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{_ROOT}{os.pathsep}{path}" if path else str(_ROOT), **more}
