"""Looking again and again, in a thread beside the work that is looked at."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import ClassVar, Self


class Watcher(ABC):
    """Looks before the block, every `every_s` seconds while it runs, and once more when it has ended."""

    every_s: ClassVar[float]

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @abstractmethod
    def look(self) -> bool:
        """Take a look; False ends the looking, because there is nothing to see."""

    def __enter__(self) -> Self:
        if self.look():
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        self.look()

    def _watch(self) -> None:
        while not self._over.wait(self.every_s) and self.look():
            pass
