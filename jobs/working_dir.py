"""The code of a job: a small copy of this checkout, or none where the nodes have it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.errors import UsageError, os_reason

# What a driver and its actors import, and what names the project.
CODE = ("actors", "cluster", "jobs", "serve", "pyproject.toml")
BYTECODE = "__pycache__"
MOST_BYTES = 20 * 2**20
ON_THE_NODES = "none"
ROOT = Path(__file__).parents[1]


def code_of(asked: str | None) -> dict[str, Any]:
    """The part of a runtime environment that carries the code.

    `asked` is a folder with a checkout, an address that Ray fetches (a zip), `none` where the nodes have the code
    already, or None for the checkout that runs now. Raises `UsageError` for what is no checkout and for more than
    20 MiB.
    """
    if asked == ON_THE_NODES:
        return {}
    if asked is not None and "://" in asked:
        return {"working_dir": asked}
    root = Path(asked).expanduser().absolute() if asked is not None else ROOT
    if not (root / "jobs" / "cli" / "main.py").is_file() or not (root / "pyproject.toml").is_file():
        raise UsageError(
            f"--working-dir {root} is no checkout of rushes: name one, or say --working-dir {ON_THE_NODES} where the "
            "nodes have the code"
        )
    _refuse_large(root)
    return {"working_dir": str(root), "excludes": excludes(root)}


def excludes(root: Path) -> list[str]:
    """Everything beside the code, as patterns of .gitignore."""
    others = sorted(path.name for path in root.iterdir() if path.name not in CODE)
    return [*(f"/{_literal(name)}" for name in others), BYTECODE]


def _refuse_large(root: Path) -> None:
    try:
        sizes = {path: path.stat().st_size for path in _files(root)}
    except OSError as error:
        raise UsageError(f"--working-dir {root}: {error.filename}: {os_reason(error)}") from error
    total = sum(sizes.values())
    if total <= MOST_BYTES:
        return
    largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
    named = ", ".join(f"{path.relative_to(root)} ({sizes[path] / 2**20:.1f} MiB)" for path in largest)
    raise UsageError(
        f"the code in {root} is {total / 2**20:.1f} MiB, and a job carries {MOST_BYTES // 2**20} at most: move away "
        f"what is no code, {named}"
    )


def _files(root: Path) -> Iterator[Path]:
    yield root / "pyproject.toml"
    for folder in CODE[:-1]:
        for place, inner, names in os.walk(root / folder):
            inner[:] = [name for name in inner if name != BYTECODE]
            yield from (Path(place, name) for name in names)


def _literal(name: str) -> str:
    return re.sub(r"([\\*?\[\]! ])", r"\\\1", name)
