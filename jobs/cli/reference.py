"""docs/cli.md: the help of every command, as the program itself prints it.

`python -m jobs.cli.reference` prints it; `make docs` writes it, and a test compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

WIDTH = 100
HEAD = """# Commands

What `--help` says, made by `make docs`. Exit codes: 0 done or nothing to do, 1 error, 2 usage, 3 finished with
failures, 130 interrupted.
"""


def reference() -> str:
    """The page, in Markdown."""
    from jobs.cli.main import app

    root: Any = typer.main.get_command(app)
    parts = [f"## {' '.join(path)}\n\n```\n{_help(command, path)}\n```\n" for path, command in _walk(root, ("rushes",))]
    return "\n".join([HEAD, *parts])


def _walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from _walk(child, (*path, name))


def _help(command: Any, path: tuple[str, ...]) -> str:
    names = {"help_option_names": ["-h", "--help"]}
    context = command.context_class(
        command, info_name=" ".join(path), max_content_width=WIDTH, terminal_width=WIDTH, **names
    )
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


if __name__ == "__main__":
    print(reference(), end="")
