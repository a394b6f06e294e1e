"""`rushes dupes resolve`, `undo` and `history`: what people decide."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.cli.common import AsJson, Config, Limit, corpus, print_json
from jobs.cli.dupes.told import count, named, standing
from jobs.cli.events import Author, DryRun, author_of, print_events


def resolve(
    assets: Annotated[
        list[str],
        typer.Argument(metavar="KEEP COPY...", help="The asset that stands for all, then its copies, as paths or SHA."),
    ],
    different: Annotated[bool, typer.Option("--different", help="They are different, each from each other.")] = False,
    author: Author = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Say which assets are copies of KEEP, or that assets are different. It holds until you undo it."""
    from cluster.db.duplicates.decisions import resolve_copies, resolve_different
    from cluster.db.duplicates.groups import read_members
    from cluster.db.report import find_asset
    from cluster.errors import UsageError

    if len(assets) < 2:
        raise UsageError("name two or more assets: KEEP and its copies, or those that are --different")
    who = author_of(author)
    with corpus(config) as conn:
        ids = [find_asset(conn, name)["asset_id"] for name in assets]
        names = {member.asset_id: named(member) for member in read_members(conn, ids)}
        with conn.transaction(force_rollback=dry_run):
            made = resolve_different(conn, ids, who) if different else resolve_copies(conn, ids[0], ids[1:], who)
    if as_json:
        print_json({"events": None if dry_run else made, "decisions": len(made)})
        return
    listed = [names[one] for one in dict.fromkeys(ids)]
    what = "are different" if different else f"{'is a copy' if len(listed) == 2 else 'are copies'} of {listed[0]}"
    typer.echo(f"{' and '.join(listed if different else listed[1:])} {what}")
    typer.echo(_outcome(made, dry_run))


def _outcome(made: list[int], dry_run: bool) -> str:
    if not made:
        return "decided already: nothing was changed"
    if dry_run:
        return f"dry run: {count(len(made), 'decision')}, nothing was changed"
    numbers = f"event {made[0]}" if len(made) == 1 else f"events {', '.join(map(str, made))}"
    return f"{numbers}; `rushes dupes undo {made[-1]}` takes {'it' if len(made) == 1 else 'the last'} back"


def undo(
    event: Annotated[
        int | None, typer.Argument(metavar="EVENT", min=1, max=2**63 - 1, help="Its number; none: the latest.")
    ] = None,
    author: Author = None,
    config: Config = None,
) -> None:
    """Take a decision back; the pair waits for one again."""
    from cluster.db.duplicates.decisions import undo as do_undo

    who = author_of(author)
    with corpus(config) as conn:
        taken = do_undo(conn, event, who)
    typer.echo(f"took back event {taken.event} ({taken.in_words()})")


def history(
    asset: Annotated[str | None, typer.Argument(metavar="ASSET", help="Only what is about this asset.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """What people decided about copies, latest first: number, time, author, what, and whether it stands."""
    from cluster.db.duplicates.decisions import read_history
    from cluster.db.report import find_asset

    with corpus(config) as conn:
        asset_id = None if asset is None else find_asset(conn, asset)["asset_id"]
        entries = list(read_history(conn, asset_id=asset_id, limit=limit + 1))
    print_events(entries, limit, as_json, standing)
