"""The documents say what is: every command of the README runs as written, every named command exists."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from jobs.cli.main import app
from jobs.cli.reference import reference
from tests.archive import read_call
from tests.media_factory import write_video

ROOT = Path(__file__).parents[1]
DOCS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
# It would run this test again, or for half an hour: what make would do is all that is looked at.
LONG = {"make test", "make bench", "make chaos N=20"}


def blocks(path):
    """The lines of the fenced blocks that hold commands, comments cut off."""
    text = path.read_text("utf-8")
    for block in re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.M | re.S):
        lines = [line.split("  #")[0].strip() for line in block.splitlines()]
        if lines and re.match(r"(make|rushes|source|export) ", lines[0]):
            yield [line for line in lines if line]


def test_every_command_of_the_readme_runs_as_written(tmp_path):
    if not Path(sys.prefix, "bin/activate").exists():
        pytest.skip("not in a virtual environment: the README activates one")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    call = read_call()
    write_video(recordings / "interview.mp4", 12, call[: 12 * 16_000])
    found = list(blocks(ROOT / "README.md"))
    make = [line for lines in found for line in lines if line.startswith("make ")]
    shell = [line for lines in found for line in lines if not line.startswith("make ")]
    assert len(make) >= 2
    assert sum(line.startswith("rushes ") for line in shell) >= 6
    for line in make:
        run(f"{line} -n" if line in LONG else line, ROOT, {})
    # pytest's folders are too deep for a socket of the embedded server.
    home = Path("/tmp") / f"readme-{os.getpid()}"
    home.mkdir()
    try:
        (home / "recordings").symlink_to(recordings)
        # what the README starts in the background holds the output open
        run(
            "\n".join(["set -e", "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT", *shell]),
            tmp_path,
            {"HOME": str(home), "RUSHES_DATA_DIR": str(home / "data")},
        )
    finally:
        shutil.rmtree(home)


def run(script, where, env):
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=where, env={**os.environ, **env}, check=False
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


def named_commands():
    """Every `rushes ...` that a document names, in blocks and in running text."""
    for path in DOCS:
        text = path.read_text("utf-8")
        for found in re.findall(r"`(rushes [^`\n]+)`", text):
            yield path.name, found
        for lines in blocks(path):
            for line in lines:
                if line.startswith("rushes "):
                    yield path.name, line


@pytest.mark.parametrize(("page", "line"), sorted(set(named_commands())))
def test_every_command_that_a_document_names_exists_with_its_options(page, line):
    command = typer.main.get_command(app)
    words = shlex.split(re.split(r" [|&>] ?| && ", re.sub(r"[][]", "", line).replace("|", " "))[0])[1:]
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in command.commands, f"{page}: {line}: no command {name}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    asked = {word.split("=")[0] for word in words if word.startswith("-") and word != "-"}
    assert asked <= known, f"{page}: {line}: no option {asked - known}"


def test_the_page_of_commands_is_what_the_program_prints():
    assert (ROOT / "docs/cli.md").read_text("utf-8") == reference(), "run `make docs`"
