"""Engines without weights for replicas of the service: their answers depend on the content alone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.settings import Settings
from serve.engines.base import Answers, PairIn, PictureIn, TextIn
from serve.models import Heard, HearRequest, ModelCard, Role
from tests.fake_models import DIMENSION, vector_of

SLOW, DEADLY = "SLOW", "DIE"


class FakeEngine:
    """A word SLOW in a text takes half a minute, DIE ends the process; both leave a trace in `data_dir`."""

    def __init__(self, role: Role, settings: Settings) -> None:
        self.role: Role = role
        self._traces = Path(settings.data_dir)

    def cards(self) -> Sequence[ModelCard]:
        return [ModelCard(f"fake-{self.role}", self.role, "fake", "path:/fake", DIMENSION, 256)]

    def load(self) -> None:
        (self._traces / f"{self.role}-{os.getpid()}").touch()

    async def check(self) -> None:
        return None

    def close(self) -> None:
        return None

    async def run(self, items: Sequence[Any]) -> Answers:
        words = [_content(item) for item in items]
        if DEADLY in words:
            os._exit(1)
        if SLOW in words:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                (self._traces / "cancelled").touch()
                raise
        await asyncio.sleep(0.002 * len(items))
        values = np.stack([vector_of(word) for word in words])
        return Answers(values if self.role != "reranker" else values[:, :1], [1] * len(items))

    async def hear(self, path: str, asked: HearRequest) -> Heard:
        return Heard(duration_ms=Path(path).stat().st_size)


def _content(item: TextIn | PictureIn | PairIn) -> str | bytes:
    if isinstance(item, PairIn):
        return item.query + item.passage
    return item.content if isinstance(item.content, str | bytes) else str(item.content)


def make_fake(role: Role, settings: Settings) -> FakeEngine:
    return FakeEngine(role, settings)
