"""What a replica takes and gives: lists of items of any number of requests, answers with errors as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serve.models import NO_TIME, Heard, HearRequest, ModelCard, Purpose, Role, TextItem, Timing


@dataclass(frozen=True, slots=True)
class TextIn:
    """A text, or its token ids, and what its vector is for."""

    content: TextItem
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class PictureIn:
    """An encoded picture (JPEG, PNG, ...), or words for the image space."""

    content: bytes | str


@dataclass(frozen=True, slots=True)
class PairIn:
    """A question and a passage that may answer it."""

    query: str
    passage: str


Item = TextIn | PictureIn | PairIn


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """One row per item: float32 of shape (items, dimension), dimension 1 for scores.

    `errors` maps an item's number to what is wrong with it; its row holds NaN, and the others are sound. `statuses`
    maps the same numbers to HTTP statuses: 422 for an item the model cannot take, 500 for a failure on it alone.
    """

    values: NDArray[np.float32]
    tokens: list[int]
    errors: dict[int, str] = field(default_factory=dict)
    statuses: dict[int, int] = field(default_factory=dict)
    timing: Timing = NO_TIME


class Engine(Protocol):
    """One resident model with its batcher; `load` blocks, everything else is asynchronous."""

    @property
    def role(self) -> Role:
        """What it is asked for."""
        ...

    def cards(self) -> Sequence[ModelCard]:
        """What it offers; loads nothing."""
        ...

    def load(self) -> None:
        """Bring the model into memory. Raises `RushesError` for weights that are missing or wrong."""

    async def check(self) -> None:
        """A real forward of the smallest input; raises what that raises. A forward of late counts."""

    def close(self) -> None:
        """Let go of the model."""


class ItemEngine(Engine, Protocol):
    """An engine of items: text, image and reranker."""

    async def run(self, items: Sequence[Any]) -> Answers:
        """The answers, in the order of the items; never raises for one of them.

        Raises `UnavailableError` once the device is dead: no further call can succeed in this process.
        """
        ...


class HearingEngine(Engine, Protocol):
    """The engine of recordings."""

    async def hear(self, path: str, asked: HearRequest) -> Heard:
        """What is heard in the media file at `path`, of this node."""
        ...
