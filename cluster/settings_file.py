"""One value of the settings file set to another one; every other line and comment stays as it is."""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.errors import RushesError, UsageError

_HEADER = re.compile(r"^\s*\[")


def set_value(path: Path, table: str | None, key: str, value: str) -> None:
    """Set the text `key` of `table` (None: of the top) in the TOML file at `path`, made with its folder if absent.

    The new file replaces the old one at once. Raises `UsageError`, and writes nothing, when the file is not
    sound or is written in a way that a line cannot change.
    """
    path = path.resolve()
    try:
        before = path.read_bytes().decode() if path.exists() else ""
        after = edited(before, table, key, value)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"settings file {path}: {error}") from error
    except ValueError as error:
        wanted = f"[{table}] {key}" if table else key
        raise UsageError(f"settings file {path}: {error}; write {wanted} = {_text(value)} there yourself") from error
    except OSError as error:
        raise RushesError(f"cannot read the settings file {path}: {error.strerror or error}") from error
    try:
        _replace(path, after)
    except OSError as error:
        raise RushesError(f"cannot write the settings file {path}: {error.strerror or error}") from error


def edited(text: str, table: str | None, key: str, value: str) -> str:
    """`text` with the value set; `ValueError` when more or less than that would change."""
    wanted: dict[str, Any] = tomllib.loads(text)
    inner = wanted if table is None else wanted.setdefault(table, {})
    if not isinstance(inner, dict):
        raise ValueError(f"{table} is no table")
    inner[key] = value
    after = _with_line(text, table, key, value)
    with suppress(tomllib.TOMLDecodeError):
        if tomllib.loads(after) == wanted:
            return after
    raise ValueError("it cannot be changed line by line")


def _with_line(text: str, table: str | None, key: str, value: str) -> str:
    lines = text.splitlines(keepends=True)
    first, last = _section(lines, table)
    end = "\r\n" if "\r\n" in text else "\n"
    line = f"{key} = {_text(value)}{end}"
    dotted = rf"{table}\s*\.\s*{key}" if table and first is None else key
    found = re.compile(rf"""^(\s*{dotted}\s*=\s*)("[^"\n]*"|'[^'\n]*')(?=\s*(#.*)?$)""")
    for number in range(first or 0, last):
        if found.match(lines[number]):
            lines[number] = found.sub(lambda match: match[1] + _text(value), lines[number])
            return "".join(lines)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += end
    if first is None:
        return "".join([*lines, *([end] if lines else []), f"[{table}]{end}", line])
    lines.insert(first, line)
    return "".join(lines)


def _section(lines: list[str], table: str | None) -> tuple[int | None, int]:
    """The lines of a table, from the one after its header up to the next header; None when it has no header."""
    headers = [number for number, line in enumerate(lines) if _HEADER.match(line)]
    if table is None:
        return 0, headers[0] if headers else len(lines)
    own = re.compile(rf"^\s*\[\s*{table}\s*\]")
    for at, number in enumerate(headers):
        if own.match(lines[number]):
            return number + 1, headers[at + 1] if at + 1 < len(headers) else len(lines)
    return None, headers[0] if headers else len(lines)


def _text(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
