"""What people decide and decided: who says so, and every log of events as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.cli.common import print_json, print_table

Author = Annotated[str | None, typer.Option(help="Who decides, for the log; the login name by default.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would follow; change nothing.")]


def author_of(author: str | None) -> str:
    """The author on one line; the login name when none is given."""
    from getpass import getuser

    from cluster.db.speakers.names import MOST_CHARS
    from cluster.errors import UsageError

    if author is None:
        try:
            author = getuser()
        except (KeyError, OSError):
            return "nobody in particular"
    cleaned = " ".join("".join(char if char.isprintable() else " " for char in author).split())
    if not cleaned or len(cleaned) > MOST_CHARS:
        raise UsageError(f"--author takes 1 to {MOST_CHARS} characters")
    return cleaned


def print_events(entries: Sequence[Any], limit: int, as_json: bool, standing: Callable[[Any], str]) -> None:
    """At most `limit` events: number, time, author, what, and whether it stands; says when there are more."""
    more, entries = len(entries) > limit, entries[:limit]
    if as_json:
        print_json([asdict(entry) | {"what": entry.in_words()} for entry in entries])
        return
    if not entries:
        typer.echo("nobody decided anything yet")
        return
    rows = [
        [one.event, f"{one.at.astimezone():%Y-%m-%d %H:%M:%S}", one.author, one.in_words(), standing(one)]
        for one in entries
    ]
    print_table(["event", "at", "by", "what", "state"], rows)
    if more:
        typer.echo("... and more: --limit")
