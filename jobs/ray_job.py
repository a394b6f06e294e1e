"""The Ray job that this process is the driver of."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping


def this_job(environment: Mapping[str, str] = os.environ) -> str | None:
    """The submission id of the job whose driver this is; None for a command started by hand."""
    try:
        # Ray says it to its drivers here and nowhere else, however they were submitted.
        config = json.loads(environment.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
        found = config["metadata"]["job_submission_id"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None
