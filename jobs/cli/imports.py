"""`rushes import`: speaker turns and side-cars into the corpus."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli.common import Config, Yes, confirm, corpus, settings_from


def import_files(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="RTTM files, .info.json files, or folders of the latter."),
    ] = None,
    asset: Annotated[str | None, typer.Option("--asset", help="What the file is about.", show_default=False)] = None,
    add_tags: Annotated[list[str] | None, typer.Option("--add-tag", help="Also this tag; may be repeated.")] = None,
    add_collections: Annotated[
        list[str] | None, typer.Option("--add-collection", help="Also into this collection; may be repeated.")
    ] = None,
    forget_turns: Annotated[
        list[str] | None,
        typer.Option("--forget-turns", metavar="ASSET", help="Take imported turns back; may be repeated."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the files and say what they would do.")] = False,
    yes: Yes = False,
    config: Config = None,
) -> None:
    """Take in who speaks when (RTTM), or title, channel, date and tags (.info.json)."""
    from cluster.errors import UsageError

    said = _said(add_tags or [], add_collections or [])
    about = bool(asset and (said.tags or said.collections))
    if not (files or forget_turns or about):
        raise UsageError("import what? Name .rttm or .info.json files, or --asset with --add-tag or --add-collection")
    with corpus(config) as conn:
        if forget_turns:
            _forget(conn, forget_turns, dry_run, yes)
        if files or about:
            _import(conn, files or [], asset, said, dry_run, config)


def _said(tags: list[str], collections: list[str]) -> Any:
    from cluster.errors import UsageError
    from cluster.formats.info_json import Info, check_name

    try:
        info = Info(
            tags=tuple(check_name("--add-tag", tag) for tag in tags),
            collections=tuple(check_name("--add-collection", name) for name in collections),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not all((*info.tags, *info.collections)):
        raise UsageError("--add-tag and --add-collection need a name, one is empty")
    return info


def _forget(conn: Any, assets: list[str], dry_run: bool, yes: bool) -> None:
    from cluster.db.report import find_asset, sources_of
    from cluster.db.runs import recover_dead_runs
    from cluster.db.turns import forget_turns, read_turns

    found = {name: find_asset(conn, name)["asset_id"] for name in assets}
    given = {asset_id: len(read_turns(conn, asset_id) or ()) for asset_id in found.values()}
    if not dry_run and any(given.values()):
        if not confirm(f"Take {sum(given.values())} turn(s) back that a person gave?", yes):
            raise typer.Exit(1)
        recover_dead_runs(conn)
    for name, asset_id in found.items():
        turns = given[asset_id] if dry_run else forget_turns(conn, asset_id)
        if not turns:
            typer.echo(f"{name}: no turns were imported for it")
        elif dry_run:
            typer.echo(f"{name}: would take back {turns} turn(s)")
        else:
            [place, *_] = sources_of(conn, [asset_id]).get(asset_id, [name])
            again = f"rushes ingest --force {shlex.quote(place)}"
            typer.echo(f"{name}: {turns} turn(s) taken back; `{again}` finds its speakers again")


def _import(conn: Any, files: list[Path], asset: str | None, said: Any, dry_run: bool, config: Path | None) -> None:
    from actors.lanes import fingerprints
    from cluster.db.runs import recover_dead_runs
    from jobs.imports import InfoFor, apply, collect

    found = collect(conn, files, asset, said)
    for note in found.notes:
        typer.echo(note)
    outcomes = set()
    if dry_run:
        for item in (*found.turns, *found.infos):
            typer.echo(f"would import {_what(item)}")
    else:
        recover_dead_runs(conn)
        for item, outcome in apply(conn, found, fingerprints(settings_from(config))):
            if not outcome.startswith("failed"):
                typer.echo(f"{_what(item)}{'' if isinstance(item, InfoFor) else _OUTCOMES[outcome]}")
            outcomes.add(outcome)
    for failure in found.failures:
        typer.echo(f"failed: {failure}", err=True)
    if "rebuilt" in outcomes:
        typer.echo("run `rushes ingest` for the vectors of the new segments")
    if found.failures:
        raise typer.Exit(3)


_OUTCOMES = {
    "stored": "; nothing is transcribed yet, `rushes ingest` uses them",
    "same": "; the segments are these already",
    "rebuilt": "; segments rebuilt",
}


def _what(item: Any) -> str:
    from jobs.imports import TurnsFor

    if isinstance(item, TurnsFor):
        speakers = len({turn.speaker for turn in item.turns} - {None})
        return f"{item.asset.name}: {len(item.turns)} turn(s) of {speakers} speaker(s)"
    info = item.info
    parts = [
        *([f"title {info.title!r}"] if info.title else []),
        *([f"channel {info.channel!r}"] if info.channel else []),
        *([f"date {info.recorded_at:%Y-%m-%d}"] if info.recorded_at else []),
        *([f"{len(info.tags)} tag(s)"] if info.tags else []),
        *([f"collection {', '.join(info.collections)}"] if info.collections else []),
    ]
    return f"{item.asset.name}: {', '.join(parts) or 'nothing to take'}"
