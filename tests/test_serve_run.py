"""`rushes serve run` on a machine that has other things to do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
AGENT_PORT = 52365
BEGIN_A_JOB = """
import asyncio, os, tempfile, threading
from pathlib import Path
from cluster.settings import load_settings
from serve import main
from serve.ray_jobs import RayJobs
from serve.surroundings import prepare_environment
settings = load_settings()
settings.data_dir.mkdir(parents=True)
with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    prepare_environment(settings, "", Path(folder), haproxy=False, local=True)
    with main._ray(settings, None, folder, threading.Event()):
        print(asyncio.run(RayJobs(os.environ["RAY_API_SERVER_ADDRESS"]).submit(["--help"])))
"""


@pytest.mark.ray_process
def test_jobs_begin_beside_another_ray_of_the_machine(tmp_path: Path) -> None:
    with closing(socket.socket()) as door:
        # Where it is taken already, all the better.
        with suppress(OSError):
            door.bind(("", AGENT_PORT))
            door.listen()
        told = subprocess.run(
            [sys.executable, "-c", BEGIN_A_JOB], cwd=ROOT,
            env={**os.environ, "RUSHES_DATA_DIR": str(tmp_path / "data")}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert told.stdout.startswith("rushes-"), told.stderr
