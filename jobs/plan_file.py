"""plan.toml: a selection and the plan for it, in one file."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cluster.errors import UsageError, os_reason
from cluster.settings import PlanSettings

PLAN = tuple(PlanSettings.model_fields)


def read_plan_file(path: Path, words: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The selection, by the names of `words`, and what is said of the plan.

    Raises `UsageError` for a file that cannot be read and for names that are neither, with those that are.
    """
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"plan file {path}: {os_reason(error)}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"plan file {path}: {error}") from error
    unknown = sorted(found.keys() - set(words) - set(PLAN))
    if unknown:
        raise UsageError(f"plan file {path}: unknown {', '.join(unknown)}; it may hold {', '.join([*words, *PLAN])}")
    return {name: found[name] for name in words if name in found}, {name: found[name] for name in PLAN if name in found}
