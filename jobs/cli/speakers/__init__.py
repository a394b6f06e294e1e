"""`rushes speakers`: people across files."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="People across files: cluster, label, recognise, undo.")
