"""`rushes ingest`: the main job."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli.common import (
    Address,
    AsJson,
    Channels,
    Collections,
    Config,
    Lanes,
    Tags,
    asked_lanes,
    asset_filter,
    print_json,
    set_verbosity,
    settings_from,
)

# What of the words is a setting: flag > environment > file.
_SETTINGS = ("segment_source", "language", "num_speakers", "min_speakers", "max_speakers", "profile")

Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        help="Files, folders, globs, object-store URIs, or - for a list on standard input. "
        "None: everything registered.",
        show_default=False,
    ),
]
Lists = Annotated[list[str] | None, typer.Option("--list-file", "-a", help="Read inputs from this file, one a line.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most this many assets.")]
Newest = Annotated[bool, typer.Option("--newest-first", help="Latest recordings first.")]
Since = Annotated[str | None, typer.Option(help="Recorded at or after: YYYYMMDD, ISO time, 30d.")]
Until = Annotated[str | None, typer.Option(help="Recorded before: YYYYMMDD, ISO time, 30d.")]
Source = Annotated[str | None, typer.Option(help="diarization, or whisper for the transcriber's own boundaries.")]
Language = Annotated[str | None, typer.Option(help="Spoken language, such as en or de.")]
NumSpeakers = Annotated[int | None, typer.Option(min=1, help="Exactly this many people per asset.")]
MinSpeakers = Annotated[int | None, typer.Option(min=1, help="At least this many people per asset.")]
MaxSpeakers = Annotated[int | None, typer.Option(min=1, help="At most this many people per asset.")]
Profile = Annotated[str | None, typer.Option(help="Model profile for every role.")]
Missing = Annotated[bool, typer.Option("--only-missing", help="Do what is not done under these settings (default).")]
Force = Annotated[bool, typer.Option("--force", help="Do it again, done or not.")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Try failed units again.")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure.")]
MaxFailures = Annotated[str | None, typer.Option(help="Stop after more than N failures, or P% of 100 or more assets.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; do nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the last line and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say what happens.")]


def ingest(
    inputs: Inputs = None,
    list_file: Lists = None,
    channel: Channels = None,
    tag: Tags = None,
    collection: Collections = None,
    limit: Limit = None,
    newest_first: Newest = False,
    since: Since = None,
    until: Until = None,
    lanes: Lanes = None,
    segment_source: Source = None,
    language: Language = None,
    num_speakers: NumSpeakers = None,
    min_speakers: MinSpeakers = None,
    max_speakers: MaxSpeakers = None,
    profile: Profile = None,
    only_missing: Missing = False,
    force: Force = False,
    retry_failed: Retry = False,
    fail_fast: FailFast = False,
    max_failures: MaxFailures = None,
    dry_run: DryRun = False,
    address: Address = None,
    as_json: AsJson = False,
    config: Config = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turn recordings and pictures into a corpus to search and name; does what is missing, and only that."""
    set_verbosity(quiet, verbose)
    asked = {
        "inputs": inputs,
        "list_file": list_file,
        "channel": channel,
        "tag": tag,
        "collection": collection,
        "limit": limit,
        "newest_first": newest_first,
        "since": since,
        "until": until,
        "lanes": lanes,
        "segment_source": segment_source,
        "language": language,
        "num_speakers": num_speakers,
        "min_speakers": min_speakers,
        "max_speakers": max_speakers,
        "profile": profile,
        "only_missing": only_missing,
        "force": force,
        "retry_failed": retry_failed,
        "fail_fast": fail_fast,
        "max_failures": max_failures,
    }
    settings = check_asked(config, asked)
    options = _options(settings, asked, dry_run=dry_run, address=address)
    _run(settings, options, quiet=quiet or as_json, verbose=verbose, as_json=as_json)


def check_asked(config: Path | None, asked: Mapping[str, Any], **more: Any) -> Any:
    """The settings under what was asked, with `more` of them given; `UsageError` for what makes no sense."""
    _refuse_both("--only-missing", asked["only_missing"], "--force", asked["force"])
    _refuse_both("--fail-fast", asked["fail_fast"], "--max-failures", asked["max_failures"] is not None)
    settings = settings_from(config, **{name: asked[name] for name in _SETTINGS}, **more)
    _options(settings, {**asked, "inputs": ()})
    return settings


def _refuse_both(one: str, has_one: bool, other: str, has_other: bool) -> None:
    from cluster.errors import UsageError

    if has_one and has_other:
        raise UsageError(f"{one} and {other} exclude each other: choose one")


def run_options(config: Path | None, *, quiet: bool, **flags: Any) -> None:
    """Run the main job as another command asks for it; same output, same exit codes."""
    from jobs.job import IngestOptions

    _run(settings_from(config), IngestOptions(**flags), quiet=quiet, verbose=False, as_json=False)


def _options(settings: Any, asked: Mapping[str, Any], **more: Any) -> Any:
    from datetime import UTC, datetime

    from cluster.selection import parse_failure_limit, parse_when
    from jobs.job import IngestOptions

    now, inputs = datetime.now(UTC), list(asked["inputs"] or ())
    return IngestOptions(
        inputs=inputs,
        list_files=list(asked.get("list_file") or ()),
        stdin=sys.stdin if "-" in inputs else None,
        chosen=asset_filter(asked["channel"], asked["tag"], asked["collection"]),
        lanes=asked_lanes(settings, asked["lanes"]),
        since=parse_when(asked["since"], now, "--since"),
        until=parse_when(asked["until"], now, "--until"),
        max_failures=parse_failure_limit("0" if asked["fail_fast"] else asked["max_failures"]),
        **{name: asked[name] for name in ("limit", "newest_first", "force", "retry_failed")},
        **more,
    )


def _run(settings: Any, options: Any, *, quiet: bool, verbose: bool, as_json: bool) -> None:
    from jobs.cli.progress import make_reporter
    from jobs.ingest import ingest as run_ingest
    from jobs.summary import summary_dict

    with make_reporter(quiet=quiet, verbose=verbose) as reporter:
        summary = run_ingest(settings, options, reporter)
    if summary.run_id is not None and not options.dry_run:
        try:
            write_summary(settings.data_dir, summary)
        except OSError as error:
            typer.echo(f"no summary.json: {error} (the run itself is recorded: rushes status)", err=True)
    if as_json:
        print_json(summary_dict(summary))
    else:
        print_summary(summary, quiet=quiet)
    raise typer.Exit(summary.exit_code)


def write_summary(data_dir: Path, summary: Any) -> Path:
    """`runs/RUN_ID/summary.json` in the data directory."""
    import json

    from jobs.run_files import run_folder
    from jobs.summary import summary_dict

    folder = run_folder(data_dir, str(summary.run_id))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "summary.json"
    path.write_text(json.dumps(summary_dict(summary), indent=2, default=str) + "\n", encoding="utf-8")
    return path


def print_summary(summary: Any, *, quiet: bool) -> None:
    """What was found, what failed and why, and the line that states hours, rate and counts."""
    from jobs.summary import describe

    for line in describe(summary, brief=quiet):
        typer.echo(line)
