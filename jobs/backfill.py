"""The backfill: a selection sent to a cluster as a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.errors import UsageError, os_reason
from cluster.settings import Settings
from jobs.submission import STOP_WAIT_S, Submission, key_of, refuse_what_cannot_travel, travelling
from jobs.working_dir import code_of

# They change how a job goes or what it prints, not what it does; what the settings hold is told by them.
_PRINTED = ("only_missing", "fail_fast", "max_failures", "quiet", "verbose")
_SETTINGS = ("segment_source", "language", "num_speakers", "min_speakers", "max_speakers", "profile")


def submission_of(
    asked: Mapping[str, Any],
    words: Sequence[str],
    sent: Settings,
    in_force: Settings,
    *,
    working_dir: str | None,
    address: str | None,
) -> Submission:
    """The job that does what was asked.

    `words` are what was asked as a command line; `sent` are the settings that travel beside it, `in_force` the same
    with what the words set. Raises `UsageError` for what cannot travel.
    """
    variables = travelling(sent)
    line = [*words[: _end_of_options(words)], "--address=auto", *words[_end_of_options(words) :]]
    refuse_what_cannot_travel(line, variables)
    selection = {name: value for name, value in asked.items() if name not in (*_PRINTED, *_SETTINGS)}
    if selection.get("lanes"):
        selection["lanes"] = sorted({lane.strip() for lane in selection["lanes"].split(",")})
    env = {**code_of(working_dir), "env_vars": {**variables, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}}
    return Submission(tuple(line), key_of(selection, in_force), env, address)


def _end_of_options(words: Sequence[str]) -> int:
    return words.index("--") if "--" in words else len(words)


def absolute_inputs(inputs: Sequence[str], list_files: Sequence[str], stdin: Any) -> list[str]:
    """The inputs and the lines of the lists, as a driver elsewhere finds them: addresses, and absolute paths.

    A list is read here, because the nodes may not have it. Raises `UsageError` for one that cannot be read.
    """
    found: list[str] = []
    for name in inputs:
        found += _lines(stdin.read()) if name == "-" else [name]
    for path in list_files:
        try:
            found += _lines(Path(path).read_text("utf-8", "surrogateescape"))
        except OSError as error:
            raise UsageError(f"list {path}: {os_reason(error)}") from error
    if not found and (inputs or list_files):
        raise UsageError("the list names no input: nothing was submitted")
    return [name if "://" in name else str(Path(name).expanduser().absolute()) for name in found]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
