"""How many items one model call may hold: found out by running out of device memory, and remembered."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TypeVar

from cluster.errors import out_of_memory

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Budget:
    """The batch size of one resident model; `size` is halved when a batch does not fit, for good.

    `halvings` counts how often that happened.
    """

    def __init__(self, stage: str, size: int) -> None:
        self.stage, self.size, self.halvings = stage, size, 0

    def run(self, call: Callable[[int], T]) -> T:
        """`call(size)`, begun again with half the size for as long as the device runs out of memory.

        Raises `MemoryError` when a single item does not fit, and whatever else the call raises.
        """
        while True:
            try:
                return call(self.size)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self._halve(error)

    def _halve(self, error: Exception) -> None:
        if self.size <= 1:
            raise MemoryError(
                f"{self.stage}: one item does not fit the device ({error}): give the model a larger share, "
                "a smaller precision or a smaller model"
            ) from error
        logger.warning("%s: %s; %d items a call are now %d", self.stage, error, self.size, self.size // 2)
        self.size, self.halvings = self.size // 2, self.halvings + 1
        _free_device()


def _free_device() -> None:
    """Blocks that torch keeps for itself may be what the smaller batch needs."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
