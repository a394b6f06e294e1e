"""`rushes speakers voices`: the voices that a label needs to be passed on, for assets transcribed without them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jobs.cli.common import AsJson, Config, corpus, print_json, settings_from, short_uri


def voices(
    assets: Annotated[
        list[str],
        typer.Argument(metavar="ASSET...", help="Source paths, their endings, or 8+ digits of the SHA-256."),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which have none; do nothing.")] = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Extract the voices of assets that have a transcript and none; what people said there follows at once."""
    from cluster.db.report import asset_names, find_asset
    from cluster.errors import RushesError
    from jobs.speakers.voices import lacks_voices

    settings = settings_from(config)
    with corpus(config) as conn:
        ids = list(dict.fromkeys(find_asset(conn, name)["asset_id"] for name in assets))
        names = asset_names(conn, ids)
        lacking = [asset_id for asset_id in ids if lacks_voices(conn, settings, asset_id)]
        problems = {} if dry_run else _extract(conn, settings, lacking, quiet=as_json)
    if as_json:
        print_json([
            {"asset": names[one], "lacked": one in lacking, "problem": problems.get(one)} for one in ids
        ])  # fmt: skip
    else:
        for one in ids:
            typer.echo(f"{short_uri(names[one])}: {_told(one in lacking, problems.get(one), dry_run)}")
    if problems:
        raise RushesError(f"{len(problems)} of {len(lacking)} asset(s) have no voices still")


def _extract(conn: Any, settings: Any, lacking: list[int], *, quiet: bool) -> dict[int, str]:
    """Asset -> why it has no voices still."""
    from cluster.errors import RushesError, first_line
    from jobs.cli.progress import make_reporter
    from jobs.speakers.voices import extract_voices

    problems: dict[int, str] = {}
    for asset_id in lacking:
        try:
            with make_reporter(quiet=quiet, verbose=False) as reporter:
                problem = extract_voices(conn, settings, asset_id, reporter)
        except RushesError as error:
            problem = first_line(error)
        if problem is not None:
            problems[asset_id] = problem
    return problems


def _told(lacked: bool, problem: str | None, dry_run: bool) -> str:
    if not lacked:
        return "has its voices, or no transcript to make them from"
    if dry_run:
        return "the voices would be extracted"
    return "the voices were extracted; nothing was transcribed" if problem is None else problem
