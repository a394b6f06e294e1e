"""The folder of a run: its summary, and what its processes print."""

from __future__ import annotations

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)


def run_folder(data_dir: Path, run_id: str) -> Path:
    """Where a run keeps its files."""
    return data_dir / "runs" / run_id


def run_log(data_dir: Path, run_id: str, name: str) -> Path:
    """The run's log of this name, in a folder that exists; nowhere when there is no room for one."""
    folder = run_folder(data_dir, run_id)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    except OSError as error:
        # A full disk must not cost the work, only its log.
        logger.warning("no %s in %s: %s", name, folder, error)
        return Path(os.devnull)
    return folder / name
