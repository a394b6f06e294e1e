"""`rushes dupes`: assets that show the same, found by the machine and decided by people."""

from __future__ import annotations

import typer

from jobs.cli.dupes.decisions import history, resolve, undo
from jobs.cli.dupes.find import find, list_command, show

app = typer.Typer(
    help="Pictures and videos that show the same: find and decide.", no_args_is_help=True, rich_markup_mode=None
)
app.command("find")(find)
app.command("list")(list_command)
app.command("show")(show)
app.command("resolve")(resolve)
app.command("undo")(undo)
app.command("history")(history)
