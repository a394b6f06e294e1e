"""What stages may ask of the outside, as protocols, so that they need no SQL."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class VoiceCache(Protocol):
    """Voices that are already known for one decoded audio, in one voice space."""

    def lookup(self, audio_sha256: str) -> dict[tuple[int, int], NDArray[np.float32]]:
        """(start_sample, end_sample) -> unit vector of shape (dimension,), float32."""
        ...

    def close(self) -> None:
        """Let go of what the lookups needed; may be called twice."""


class EmptyVoiceCache:
    """Knows nothing: every voice is computed."""

    def lookup(self, audio_sha256: str) -> dict[tuple[int, int], NDArray[np.float32]]:
        """No voices."""
        return {}

    def close(self) -> None:
        """Nothing to let go of."""
