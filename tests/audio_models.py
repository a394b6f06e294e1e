"""The real models of sound in this process, loaded once for all tests, beside fakes for the rest."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from actors import transcribe
from cluster.settings import load_settings
from serve.engines.audio import AudioEngine
from tests.archive import loaded
from tests.fake_models import FakeModels


@cache
def engine(**flags: Any) -> AudioEngine:
    """A loaded engine under these settings."""
    found = AudioEngine(load_settings(None, data_dir=Path("/nonexistent"), **flags))
    with patch.object(transcribe, "_whisper", loaded):
        found.load()
    return found


class HearingModels(FakeModels):
    """Real ears; everything else is made up."""

    def __init__(self) -> None:
        super().__init__()
        self._cards = [*self._cards[:3], *engine().cards()]

    async def hear(self, path: str, asked: Any) -> Any:
        self.calls.append(("hear", (path, asked)))
        return await engine().hear(path, asked)
