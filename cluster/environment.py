"""The environment of our own child processes, and of every process that holds models."""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path(__file__).parents[1]
# No library tells anybody what it does; threads are set by us.
MODEL_ENV = {
    "PYANNOTE_METRICS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def child_environment(**more: str) -> dict[str, str]:
    """This process's environment in which a child finds our packages, wherever it is started; `more` is added."""
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{_ROOT}{os.pathsep}{path}" if path else str(_ROOT), **more}
