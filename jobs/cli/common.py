"""What every command shares: settings from flags, output as text or JSON, the database."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.words import short_uri as short_uri

if TYPE_CHECKING:
    from cluster.settings import Settings

Config = Annotated[Path | None, typer.Option("--config", help="Settings file (TOML).", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
Channels = Annotated[list[str] | None, typer.Option("--channel", help="Only of this channel; may be repeated.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Only with this tag; may be repeated.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Lanes = Annotated[
    str | None, typer.Option(help="Some of speech,voices,texts,frames,images; without it all that have models.")
]
Address = Annotated[str | None, typer.Option(help="Ray cluster to run on; none: this machine.")]
Collections = Annotated[
    list[str] | None, typer.Option("--collection", help="Only in this collection; may be repeated.")
]

# What the database takes as a count of rows.
MOST_ROWS = 2**31 - 1
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=MOST_ROWS, help="At most this many.")]


def settings_from(config: Path | None, **flags: Any) -> Settings:
    """Settings of this command: flag > environment > file > default."""
    from cluster.settings import load_settings

    return load_settings(config, **flags)


@contextmanager
def corpus(config: Path | None) -> Iterator[Any]:
    """A connection to the corpus of the settings, schema checked."""
    from cluster.db.connect import database_errors
    from cluster.errors import UsageError
    from jobs.ingest import open_database

    database = open_database(settings_from(config))
    try:
        with database_errors(), database.connect() as conn:
            yield conn
    except UnicodeEncodeError as error:
        raise UsageError(f"{error.object!r} is not valid UTF-8: nothing in the corpus has such a name") from error


def asked_lanes(settings: Settings, text: str | None) -> tuple[str, ...]:
    """The lanes of `--lanes`, every one that is on without it; `UsageError` for an unknown one and one that is off."""
    from actors.lanes import lanes_on
    from cluster.lanes import parse_lanes

    return parse_lanes(text, lanes_on(settings))


def asset_filter(channels: list[str] | None, tags: list[str] | None, collections: list[str] | None) -> Any:
    """The filter that `--channel`, `--tag` and `--collection` ask for."""
    from cluster.db.filter import AssetFilter

    return AssetFilter(tuple(channels or ()), tuple(tags or ()), tuple(collections or ()))


def print_json(value: Any) -> None:
    """One JSON document on standard output; times as ISO text."""
    typer.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def print_table(header: list[str], rows: list[list[Any]]) -> None:
    """Left-aligned columns as wide as their content."""
    for line in table_lines(header, rows):
        typer.echo(line)


def table_lines(header: list[str], rows: list[list[Any]]) -> list[str]:
    """The lines of `print_table`."""
    texts = [[_one_line(str(cell)) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [header, *texts]) for i in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [header, *texts]
    ]


def confirm(question: str, yes: bool) -> bool:
    """Whether the person agrees; `UsageError` where nobody can be asked and --yes was not given."""
    from cluster.errors import UsageError

    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody can be asked here: add --yes to do it")
    return typer.confirm(question)


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def set_verbosity(quiet: bool, verbose: bool) -> None:
    """Log warnings; with -v everything of ours, with -q errors only."""
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    for name in ("cluster", "actors", "jobs"):
        logging.getLogger(name).setLevel(level)


def clock(ms: int | None) -> str:
    """`0:01:02.3` for a position, `?` for none."""
    if ms is None:
        return "?"
    seconds, rest = divmod(ms, 1000)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest // 100}"
