"""Progress: a live line on a terminal, one line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, Self

import typer

from jobs.summary import Summary, duration

EVERY_S = 60.0


class LineReporter:
    """One line a minute, and one per asset with `verbose`."""

    def __init__(self, *, quiet: bool, verbose: bool) -> None:
        self._quiet, self._verbose = quiet, verbose
        # Held, because a runner may send what others print elsewhere.
        self._out = sys.stdout
        self._last = self._begun = time.monotonic()
        self._work_s = self._done_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def registering(self, done: int, total: int) -> None:
        """Called after each file that was hashed and probed."""
        if self._due() or (done == total and not self._quiet):
            self._say(f"registered {done}/{total} new or changed files")

    def planned(self, plan: Any, work: Any) -> None:
        """Called before each pass."""
        from cluster.plan import explain

        self._begun, self._work_s, self._done_s = time.monotonic(), work.media_s, 0.0
        lines = (
            explain(plan, work)
            if self._verbose
            else [f"{work.assets} assets, {duration(work.media_s)} of media; loading models"]
        )
        for line in lines:
            self._say(line)

    def finished(self, row: dict[str, Any], summary: Summary) -> None:
        """Called for each asset that came back."""
        self._done_s += (row["duration_ms"] or 0) / 1000
        if self._verbose:
            self._say(f"{row['outcome']} {row['uri']}")
        if self._due():
            self._say(self.line(summary))

    def waiting(self, assets: int, delay_s: float) -> None:
        """Called before a pause."""
        self._say(f"{assets} asset(s) failed and are tried again in {delay_s:.0f} s")

    def told(self, line: str) -> None:
        """Called for what else a person waits for."""
        self._say(line)

    def line(self, summary: Summary) -> str:
        """Stage, done of total, failed, rate, time left."""
        done = summary.ok + summary.failed + summary.skipped
        elapsed = max(time.monotonic() - self._begun, 1e-3)
        left_s = elapsed * (self._work_s - self._done_s) / self._done_s if self._done_s else 0.0
        return (
            f"running {done}/{summary.planned} · {summary.failed} failed · "
            f"{self._done_s / elapsed:.1f} h/h · {duration(left_s)} left"
        )

    def _due(self) -> bool:
        if time.monotonic() - self._last < EVERY_S:
            return False
        self._last = time.monotonic()
        return True

    def _say(self, text: str) -> None:
        if not self._quiet:
            typer.echo(text, file=self._out)


class LiveReporter(LineReporter):
    """The same words in one line that renews itself."""

    def __init__(self, *, verbose: bool) -> None:
        super().__init__(quiet=False, verbose=verbose)
        from rich.console import Console

        self._console = Console(stderr=True)
        self._status = self._console.status("listing")

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._status.stop()

    def registering(self, done: int, total: int) -> None:
        """Renew the line."""
        self._status.update(f"registering {done}/{total}")

    def finished(self, row: dict[str, Any], summary: Summary) -> None:
        """Renew the line."""
        super().finished(row, summary)
        self._status.update(self.line(summary))

    def _due(self) -> bool:
        return False


def make_reporter(*, quiet: bool, verbose: bool) -> LineReporter:
    """The reporter that suits where the output goes."""
    if not quiet and sys.stderr.isatty():
        return LiveReporter(verbose=verbose)
    return LineReporter(quiet=quiet, verbose=verbose)
