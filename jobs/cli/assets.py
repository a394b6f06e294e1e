"""`rushes assets` and `rushes forget`: what is kept, under which labels, and what is not kept any more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli.common import (
    MOST_ROWS,
    AsJson,
    Channels,
    Collections,
    Config,
    Limit,
    Tags,
    Yes,
    asset_filter,
    confirm,
    corpus,
    print_json,
    print_table,
    settings_from,
)

app = typer.Typer(help="The assets: list and label them.", no_args_is_help=True, rich_markup_mode=None)
Assets = Annotated[list[str], typer.Argument(help="Source paths, their endings, or 8+ digits of the SHA-256.")]
TagName = Annotated[str, typer.Argument(metavar="TAG", help="The tag.")]
CollectionName = Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection.")]


@app.command("list")
def list_command(
    channel: Channels = None,
    tag: Tags = None,
    collection: Collections = None,
    vanished: Annotated[bool, typer.Option("--vanished", help="Only those that no source leads to any more.")] = False,
    limit: Limit = 100,
    offset: Annotated[int, typer.Option(min=0, max=MOST_ROWS, help="Leave out this many before.")] = 0,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """The assets by name: what they are, their labels, lanes and sources."""
    from cluster.db.assets import Page, list_assets
    from cluster.db.filter import matching

    chosen = asset_filter(channel, tag, collection)
    with corpus(config) as conn:
        ids = matching(conn, chosen) if chosen else None
        rows = list_assets(conn, Page(ids, vanished, limit + 1, offset))
    more, rows = len(rows) > limit, rows[:limit]
    if as_json:
        print_json([_plain(row) for row in rows])
        return
    if rows:
        print_table(
            ["asset", "source", "kind", "length", "recorded", "title", "labels", "lanes"], list(map(_cells, rows))
        )
    else:
        typer.echo("no asset" if offset == 0 else f"no asset after the first {offset}")
    if more:
        typer.echo(f"... and more: --limit, or --offset {offset + limit}")


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("asset_id", "uris", "speakers", "reason")}


def _cells(row: dict[str, Any]) -> list[Any]:
    from jobs.cli.status import lane_states, length_cell, source_cell

    title = " / ".join(part for part in (row["channel"], row["title"]) if part)
    recorded = row["recorded_at"].strftime("%Y-%m-%d") if row["recorded_at"] else "-"
    labels = ", ".join([*(f"#{tag}" for tag in row["tags"]), *row["collections"]])
    return [
        row["sha256"][:8], source_cell(row), row["media_kind"] or "unreadable", length_cell(row), recorded,
        title or "-", labels or "-", lane_states(row["lanes"] or {}),
    ]  # fmt: skip


@app.command("tag")
def tag(name: TagName, assets: Assets, config: Config = None) -> None:
    """Give assets a tag."""
    _add("tag", name, assets, config)


@app.command("untag")
def untag(name: TagName, assets: Assets, config: Config = None) -> None:
    """Take a tag from assets."""
    _drop("tag", name, assets, config)


@app.command("collect")
def collect(name: CollectionName, assets: Assets, config: Config = None) -> None:
    """Put assets into a collection."""
    _add("collection", name, assets, config)


@app.command("uncollect")
def uncollect(name: CollectionName, assets: Assets, config: Config = None) -> None:
    """Take assets out of a collection."""
    _drop("collection", name, assets, config)


def _add(kind: Any, name: str, assets: list[str], config: Path | None) -> None:
    from cluster.db.assets import add_label, checked_label

    name = checked_label(kind, name)
    with corpus(config) as conn:
        ids = _find(conn, assets)
        added = add_label(conn, kind, name, ids)
    had = f"; {len(ids) - added} had it already" if added < len(ids) else ""
    typer.echo(f"{kind} {name!r}: {added} asset(s) added{had}")


def _drop(kind: Any, name: str, assets: list[str], config: Path | None) -> None:
    from cluster.db.assets import drop_label
    from cluster.errors import UsageError

    with corpus(config) as conn:
        ids = _find(conn, assets)
        dropped = drop_label(conn, kind, name, ids)
    if not dropped:
        raise UsageError(f"none of the {len(ids)} asset(s) has the {kind} {name!r}: see `rushes assets list`")
    typer.echo(f"{kind} {name!r}: {dropped} asset(s) removed")


def _find(conn: Any, names: list[str]) -> list[int]:
    from cluster.db.report import find_asset

    return sorted({find_asset(conn, name)["asset_id"] for name in names})


def forget(
    assets: Annotated[
        list[str] | None,
        typer.Argument(help="Source paths, their endings, or 8+ digits of the SHA-256.", show_default=False),
    ] = None,
    vanished: Annotated[bool, typer.Option("--vanished", help="All that no source leads to any more.")] = False,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be forgotten; do nothing.")] = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Delete assets with all that was derived from them; the media files stay."""
    from dataclasses import asdict

    from cluster.db.forget import holdings
    from cluster.errors import UsageError
    from jobs.forget import forget_all
    from jobs.forget import vanished as without_file

    if not assets and not vanished:
        raise UsageError("name the assets to forget, or give --vanished")
    with corpus(config) as conn:
        gone, back = without_file(conn) if vanished else ([], 0)
        found = holdings(conn, sorted({*_find(conn, assets or []), *gone}))
        if back:
            typer.echo(f"left alone: {back} asset(s) whose files may be there again: ingest their folder", err=True)
        _say_what([] if as_json else found, dry_run)
        question = f"Forget {len(found)} asset(s) for good?"
        if found and not dry_run and not confirm(question, yes):
            typer.echo("nothing was forgotten", err=True)
            raise typer.Exit(1)
        done = [] if dry_run else forget_all(conn, found, settings_from(config))
    if as_json:
        print_json({"forgotten": [asdict(item) for item in done], "found": [asdict(item) for item in found]})
    elif done:
        typer.echo(f"forgotten: {len(done)} asset(s); a later ingest of the same files takes them in again")


def _say_what(found: list[Any], dry_run: bool) -> None:
    for item in found:
        typer.echo(
            f"{item.sha256[:8]} {item.name}: {item.segments} segments, {item.voices} voices, {item.chunks} chunks, "
            f"{item.frames} frames"
        )
    if any(item.voices and not item.voice_key for item in found):
        typer.echo("cached voices of assets from before schema 3 cannot be told apart here: `rushes db gc` drops them")
    if not found:
        typer.echo("nothing to forget")
    elif dry_run:
        typer.echo(f"dry run: {len(found)} asset(s) would be forgotten; the media files stay")
