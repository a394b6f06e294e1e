"""`rushes failures`: what failed, why, and another try."""

from __future__ import annotations

import os.path
from typing import Annotated, Any

import typer

from jobs.cli.common import AsJson, Config, corpus, print_json, print_table, short_uri

app = typer.Typer(help="What failed and why.", no_args_is_help=True, rich_markup_mode=None)
Run = Annotated[str | None, typer.Option("--run", help="Of this run.", show_default=False)]
Class = Annotated[str | None, typer.Option("--class", help="Of this class, such as bad_media.", show_default=False)]
Lane = Annotated[str | None, typer.Option("--lane", help="Of this lane.", show_default=False)]


@app.command("list")
def list_failures(
    run: Run = None, failure: Class = None, lane: Lane = None, as_json: AsJson = False, config: Config = None
) -> None:
    """Everything that is failed now, one line each."""
    from cluster.db.report import open_failures

    with corpus(config) as conn:
        rows = open_failures(conn, checked_filter(conn, run, failure, lane))
    if as_json:
        print_json(rows)
        return
    if not rows:
        typer.echo("nothing failed")
        return
    print_table(
        ["source", "lane", "class", "stage", "reason"],
        [[short_uri(r["uri"]), r["lane"] or "-", r["failure"], r["stage"], r["message"]] for r in rows],
    )


@app.command("show")
def show_failure(
    asset: Annotated[str, typer.Argument(help="Source path or 8+ digits of the SHA-256.")],
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Every failure of one asset, oldest first."""
    from cluster.db.report import failure_history, find_asset, summary_time

    with corpus(config) as conn:
        rows = failure_history(conn, find_asset(conn, asset)["asset_id"])
    if as_json:
        print_json(rows)
        return
    for row in rows:
        typer.echo(
            f"{summary_time(row['at'])} run {(row['run_id'] or '-')[:8]} {row['lane']}"
            f" {row['failure']} in {row['stage']} (attempt {row['attempt']}): {row['message']}"
        )
    if not rows:
        typer.echo("this asset never failed")


@app.command("retry")
def retry(
    run: Run = None, failure: Class = None, lane: Lane = None, quiet: bool = False, config: Config = None
) -> None:
    """Try again exactly what failed, with the present settings."""
    from cluster.db.report import open_failures, sources_of
    from jobs.cli.ingest import run_options

    with corpus(config) as conn:
        rows = open_failures(conn, checked_filter(conn, run, failure, lane))
        sources = sources_of(conn, [row["asset_id"] for row in rows if row["asset_id"] is not None])
    uris = set()
    for row in rows:
        found = [uri for uri in sources.get(row["asset_id"], [row["uri"]]) if _is_there(uri)]
        uris.update(found[:1])
        if not found:
            typer.echo(f"gone: {row['uri']}", err=True)
    if not uris:
        typer.echo("nothing failed" if not rows else "nothing left to retry")
        return
    units = frozenset((row["asset_id"], row["lane"]) for row in rows if row["asset_id"] is not None)
    run_options(config, inputs=sorted(uris), retry_units=units, quiet=quiet)


def _is_there(uri: str) -> bool:
    # Path.exists raises for a name that is too long.
    return "://" in uri or os.path.exists(uri)  # noqa: PTH110


def checked_filter(conn: Any, run: str | None, failure: str | None, lane: str | None) -> Any:
    """The filter of these flags; `UsageError` for a run, class or lane that does not exist."""
    from cluster.db.report import FailureFilter, find_run
    from cluster.errors import FailureClass, UsageError
    from cluster.lanes import LANES

    for flag, value, known in (("--class", failure, [str(c) for c in FailureClass]), ("--lane", lane, LANES)):
        if value is not None and value not in known:
            raise UsageError(f"{flag} {value!r}: choose from {', '.join(known)}")
    return FailureFilter(find_run(conn, run)["run_id"] if run else None, failure, lane)
