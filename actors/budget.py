"""How much one model call may hold: found out by running out of device memory, and remembered."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TypeVar

from cluster.errors import out_of_memory

T = TypeVar("T")
logger = logging.getLogger(__name__)
_ROLES = {
    "transcribe": "TRANSCRIBER",
    "diarize": "DIARIZER",
    "voices": "VOICE",
    "texts": "TEXT",
    "rerank": "RERANKER",
    "images": "IMAGE",
}


class Budget:
    """The ceiling of one resident model: a call holds up to `size` units of `item`, less once that was too much.

    An item may weigh several units. `size` never grows again; `halvings` counts how often it shrank.
    """

    def __init__(self, stage: str, size: int, item: str) -> None:
        self.stage, self.size, self.item, self.halvings = stage, size, item, 0

    def run(self, call: Callable[[int], T], most: int | None = None, weight: int = 1) -> T:
        """`call(items)` with as many items as fit, `most` at the most; begun anew with half when memory ends.

        Raises `MemoryError` when one item does not fit, and at once whatever else the call raises.
        """
        while True:
            fitting = max(1, self.size // weight)
            items = fitting if most is None else min(most, fitting)
            try:
                return call(items)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self._halve(items, weight, error)
            # only here: until the handler ends, its traceback keeps the tensors of the failed call
            free_cache()

    def _halve(self, items: int, weight: int, error: Exception) -> None:
        if items <= 1:
            raise MemoryError(
                f"{self.stage}: a call with one {self.item} does not fit the memory of the device ({error}): leave it "
                f"more memory, name a smaller model (RUSHES_{_ROLES[self.stage]}_WEIGHTS), or set "
                f"RUSHES_{_ROLES[self.stage]}_DEVICE=cpu"
            ) from error
        old, self.size = items * weight, items // 2 * weight
        self.halvings += 1
        logger.warning("stage=%s out of memory: a call holds %d instead of %d from now on", self.stage, self.size, old)


def free_cache() -> None:
    """What torch keeps for itself is lost to the other libraries on the device."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
