"""`rushes dupes find`, `list` and `show`: what the machine found."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jobs.cli.common import AsJson, Config, Limit, corpus, print_json, settings_from
from jobs.cli.dupes.told import count, event_line, group_lines, member, member_line, named, pair_lines, plain

Asset = Annotated[str, typer.Argument(metavar="ASSET", help="Source path, its ending, or 8+ digits of the SHA-256.")]


def find(
    again: Annotated[bool, typer.Option("--again", help="Compare everything anew; decisions stay.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how much there is to compare; do nothing.")] = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Compare what was ingested since the last time with everything else. An ingest does this by itself."""
    from contextlib import closing

    from cluster.db.connect import database_errors
    from cluster.db.duplicates.find import count_compared, waiting
    from cluster.db.patience import Session
    from jobs.dupes import compare
    from jobs.ingest import open_database

    settings = settings_from(config)
    database = open_database(settings, settings.database_wait_s)
    with database_errors(), closing(Session(database.url, settings.database_wait_s)) as session:
        number = len(session.run(waiting)) + (session.run(count_compared) if again else 0)
        found = 0 if dry_run else compare(session, again=again)
    if as_json:
        print_json({"assets": number, "pairs": None if dry_run else found})
    elif dry_run:
        typer.echo(f"dry run: {count(number, 'asset')} would be compared with all others")
    elif not number:
        typer.echo("nothing to compare: no picture or video came in since the last time")
    else:
        seen = "look at them: rushes dupes list" if found else "no two of them show the same"
        typer.echo(f"compared {count(number, 'asset')}: {count(found, 'pair')}; {seen}")


def list_command(
    with_decided: Annotated[bool, typer.Option("--all", help="Those that people decided about too.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Equal files instead: assets with several sources.")] = False,
    limit: Limit = 50,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """The pairs that nobody decided about, in groups of assets that belong together."""
    from cluster.db.duplicates.find import waiting
    from cluster.db.duplicates.groups import exact_duplicates, read_groups, with_members
    from cluster.errors import UsageError

    if exact and with_decided:
        raise UsageError("--exact lists equal files, about which nobody decides: leave out --all")
    with corpus(config) as conn:
        if exact:
            _print_exact(exact_duplicates(conn, limit + 1), limit, as_json)
            return
        groups, late = read_groups(conn, decided=with_decided), len(waiting(conn))
        shown = [with_members(conn, pairs) for pairs in groups[:limit]]
    if as_json:
        print_json([plain(group) for group in shown])
        return
    for number, group in enumerate(shown, 1):
        for line in group_lines(number, group):
            typer.echo(line)
    if not groups:
        typer.echo("no near duplicate" if with_decided else "no near duplicate that waits for a decision")
    elif len(groups) > limit:
        typer.echo(f"... and more: {limit} of {len(groups)} groups shown; --limit")
    if late:
        typer.echo(f"not compared yet: {count(late, 'asset')}; `rushes dupes find` does it")


def _print_exact(found: list[Any], limit: int, as_json: bool) -> None:
    if as_json:
        print_json([member(one) for one in found[:limit]])
        return
    for one in found[:limit]:
        typer.echo(f"{one.sha256[:8]}: {count(len(one.sources), 'source')} of the same content")
        for uri in one.sources:
            typer.echo(f"  {uri}")
    if not found:
        typer.echo("no two files are equal")
    elif len(found) > limit:
        typer.echo("... and more: --limit")


def show(asset: Asset, as_json: AsJson = False, config: Config = None) -> None:
    """One asset: what is like it, what it is a copy of, what it stands for, and what was decided."""
    from dataclasses import asdict

    from cluster.db.duplicates.decisions import read_decisions, read_history
    from cluster.db.duplicates.groups import read_groups, read_members, with_members
    from cluster.db.report import find_asset

    with corpus(config) as conn:
        asset_id = find_asset(conn, asset)["asset_id"]
        pairs = [pair for group in read_groups(conn, decided=True, asset_id=asset_id) for pair in group]
        decisions = read_decisions(conn)
        root = decisions.root(asset_id)
        copies = [one for one in decisions.kept if one != asset_id and asset_id in decisions.way(one)]
        [me] = read_members(conn, [asset_id])
        kept = read_members(conn, [root])[0] if root != asset_id else None
        stands_for = read_members(conn, copies)
        group = with_members(conn, pairs)
        events = list(read_history(conn, asset_id=asset_id))
    if as_json:
        print_json({
            "asset": member(me), "copy_of": None if kept is None else member(kept),
            "stands_for": [member(one) for one in stands_for], **plain(group),
            "events": [asdict(event) | {"what": event.in_words()} for event in events],
        })  # fmt: skip
        return
    typer.echo(member_line(me))
    if kept is not None:
        typer.echo(f"is a copy of {named(kept)}")
    if stands_for:
        typer.echo(f"stands for {', '.join(map(named, stands_for))}")
    for line in pair_lines(group):
        typer.echo(line)
    if not pairs:
        typer.echo("nothing that was compared is like it")
    for event in events:
        typer.echo(event_line(event))
