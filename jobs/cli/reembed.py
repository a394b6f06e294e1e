"""`rushes reembed`: stored transcripts into the text space of a profile."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from jobs.cli.common import (
    Address,
    AsJson,
    Channels,
    Collections,
    Config,
    Tags,
    asset_filter,
    print_json,
    set_verbosity,
    settings_from,
)

Profile = Annotated[
    str | None, typer.Option(help="Profile of the text role; none: that of the settings.", show_default=False)
]


def reembed(
    profile: Profile = None,
    channel: Channels = None,
    tag: Tags = None,
    collection: Collections = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many assets.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; do nothing.")] = False,
    address: Address = None,
    as_json: AsJson = False,
    config: Config = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the last lines and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what happens.")] = False,
) -> None:
    """Build the text space of a profile beside the old one, from stored segments; search goes on meanwhile."""
    from jobs.cli.progress import make_reporter
    from jobs.reembed import ReembedOptions, reembedded_dict
    from jobs.reembed import reembed as run

    set_verbosity(quiet, verbose)
    settings = settings_from(config)
    if profile is not None:
        settings = settings.following("text", profile)
        settings.model_choice("text")
    options = ReembedOptions(asset_filter(channel, tag, collection), limit, dry_run, address)
    with make_reporter(quiet=quiet or as_json, verbose=verbose) as reporter:
        result = run(settings, options, reporter)
    if as_json:
        print_json(reembedded_dict(result))
    else:
        choices = settings.model_choice("text"), settings_from(config).model_choice("text")
        for line in [*_ends(result, quiet), *(_forecast(result) if dry_run else _switched(result, *choices))]:
            typer.echo(line)
    raise typer.Exit(result.exit_code)


def _ends(result: Any, quiet: bool) -> list[str]:
    """What the runs say besides hours: failures, and notes that are not about the switch."""
    from jobs.summary import describe

    if quiet:
        return []
    return [line for summary in result.summaries if summary.state != "nothing" for line in describe(summary)]


def _forecast(result: Any) -> list[str]:
    lines = [f"{result.assets} asset(s) would be embedded; search holds {result.chunks_now} chunks now"]
    if result.usual_texts_per_s:
        seconds = result.chunks_now / result.usual_texts_per_s
        lines.append(
            f"all of them take about {seconds:.0f} s at {result.usual_texts_per_s:.0f} texts/s, measured before"
        )
    return lines


def _switched(result: Any, asked: Any, in_force: Any) -> list[str]:
    if result.space is None:
        return ["nothing to embed: no transcript is stored yet; run `rushes ingest PATH` first"]
    lines = []
    if result.texts:
        rate = f"{result.wall_s:.1f} s = {result.texts_per_s:.1f} texts/s"
        lines.append(f"{result.texts} texts of {result.assets} asset(s) in {rate}")
    elif not result.missing:
        lines.append("nothing to embed: every stored transcript is in the space")
    active, before, space = result.active, result.before, result.space
    if active is None or active.space_id != space.space_id:
        lines.append(f"{_name(space)} lacks {result.missing} asset(s): run it again for the rest")
        return [*lines, *([f"search keeps {_name(active)}"] if active else [])]
    lines.append(f"search uses {_name(active)}")
    if before is not None and before.space_id != active.space_id:
        first = "the settings of before, then " if before.profile == active.profile else ""
        lines.append(f"back: {first}rushes profiles use {before.profile} --role text")
    # A space carries the name of the profile that made it; another may name the same model.
    if replace(in_force, profile=asked.profile) != asked:
        lines.append(
            f"the settings say {in_force.profile}, which the next ingest goes back to; to keep this one: "
            f"rushes profiles use {asked.profile} --role text"
        )
    return lines


def _name(space: Any) -> str:
    return f"text space {space.space_id} ({space.profile}, {space.dimension}-d)"
