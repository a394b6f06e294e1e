"""What stands around work that may end its process or never return."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import pyarrow as pa


class SuspectError(Exception):
    """A batch holds a row whose process died before: its rows have to run one by one."""


class Guard(Protocol):
    """Knows which rows ended their process before, and ends what hangs."""

    def watch(self, stage: str, part: pa.Table) -> AbstractContextManager[None]:
        """Around one call of one stage. Raises `SuspectError`, or `StageError` for a row that did it too often."""
        ...


class NoGuard:
    """Lets everything happen."""

    def watch(self, stage: str, part: pa.Table) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()


NO_GUARD = NoGuard()
