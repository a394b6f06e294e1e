"""`rushes WORDS` for tests: each call is a process of its own, forked from one that has imported the libraries.

To import them takes longer than most commands do; a fork server does it once for all.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIGHT = ("pytest", "tests.commands", "jobs.cli.main", "jobs.ingest", "pgvector.psycopg")
# Seconds of imports: they pay off where many commands are called.
HEAVY = ("sentence_transformers", "faster_whisper")
FORKS = multiprocessing.get_context("forkserver")


def call(words: Sequence[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """What the command printed and its exit code; `env` is its whole environment."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("stdout", "stderr")]
        for path in paths:
            path.touch()
        process = FORKS.Process(target=_command, args=(list(words), dict(env), paths))
        process.start()
        process.join()
        printed = [path.read_text("utf-8") for path in paths]
        return subprocess.CompletedProcess(list(words), process.exitcode or 0, *printed)


def call_anew(words: Sequence[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The same in an interpreter that has imported nothing yet."""
    line = [sys.executable, "-m", "jobs.cli.main", *words]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=dict(env), check=False)


def _command(words: list[str], env: dict[str, str], paths: list[Path]) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    for number, path in enumerate([Path(os.devnull), *paths]):
        opened = os.open(path, os.O_RDWR)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["rushes", *words]
    from jobs.cli.main import main

    try:
        main()
    finally:
        # multiprocessing ends its processes without these.
        atexit._run_exitfuncs()
