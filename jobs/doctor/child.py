"""A child process that loads models for doctor: one that ends or hangs is a finding, not the end of doctor."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import Any

from cluster.environment import child_environment
from cluster.errors import RushesError

MODEL_DEADLINE_S = 300.0
END_S = 10.0


class LoaderError(RushesError):
    """The child died, hung, or met an exception that is none of ours: nobody has said the way out."""


class LoaderChild:
    """Started by the first question; after a death or a hang the next question starts another."""

    def __init__(self, settings: dict[str, Any], deadline_s: float = MODEL_DEADLINE_S) -> None:
        """`settings` are those of the job specification: plain values, no secret."""
        self._settings, self._deadline_s = settings, deadline_s
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Any = None
        self._words: Any = None

    def ask(self, request: str) -> dict[str, Any]:
        """The child's answer. Raises `RushesError` when it refuses, `LoaderError` when it dies, hangs or breaks."""
        if self._process is None:
            self._start()
        try:
            self._link.send(request)
            if not self._link.poll(self._deadline_s):
                self.close()
                raise LoaderError(f"not done after {self._deadline_s:.0f} s; its process was ended")
            kind, value = self._link.recv()
        except (EOFError, OSError) as error:
            raise LoaderError(f"its process ended ({self._epitaph()})") from error
        if kind == "failed":
            raise LoaderError(value)
        if kind == "refused":
            raise RushesError(value)
        return value

    def close(self) -> None:
        """End the child at once; may be called twice."""
        if self._process is not None:
            self._link.close()
            self._process.kill()
            self._process.wait()
            self._words.close()
            self._process = None

    def _start(self) -> None:
        self._link, theirs = multiprocessing.Pipe()
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        with theirs:
            fd = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "jobs.doctor.child_main", str(fd)],
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
                pass_fds=[fd],
                env=child_environment(PYANNOTE_METRICS_ENABLED="0", HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error"),
            )
        self._link.send(self._settings)

    def _epitaph(self) -> str:
        """How the child ended, and its last words."""
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        code = self._process.poll()
        self._words.seek(0)
        lines = self._words.read().decode("utf-8", "replace").strip().splitlines()
        self.close()
        how = "it hung up" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"{how}: {lines[-1].strip()}" if lines else how
