"""Models without weights: vectors that depend on the content alone, so that tests can tell them apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from serve.errors import InvalidError
from serve.models import Embedded, Heard, HeardVoice, HearRequest, ModelCard, Scored

DIMENSION = 8


def vector_of(content: str | bytes, dimension: int = DIMENSION) -> np.ndarray:
    """The unit vector that the fakes give this content."""
    data = content.encode() if isinstance(content, str) else content
    seed = int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
    vector = np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
    return vector / np.linalg.norm(vector)


class FakeModels:
    """Counts its calls; `trouble` is what `/health/ready` hears. The word BAD in an item is one it cannot take."""

    def __init__(self, cards: Sequence[ModelCard] | None = None, dimension: int = DIMENSION) -> None:
        self.dimension = dimension
        self.trouble: dict[str, str] = {}
        self.calls: list[tuple[str, Any]] = []
        self.heard = Heard(duration_ms=0)
        self._cards = list(cards) if cards is not None else [
            ModelCard("fake-text", "text", "fake", "path:/fake-text", dimension, 256),
            ModelCard("fake-image", "image", "fake", "path:/fake-image", dimension),
            ModelCard("fake-reranker", "reranker", "fake", "path:/fake-reranker", None, 512),
            ModelCard("fake-transcriber", "transcriber", "fake", "path:/fake-transcriber"),
            ModelCard("fake-diarizer", "diarizer", "fake", "path:/fake-diarizer"),
            ModelCard("fake-voice", "voice", "fake", "path:/fake-voice", dimension),
        ]  # fmt: skip

    def cards(self) -> Sequence[ModelCard]:
        return self._cards

    async def embed_texts(self, items: Sequence[Any], purpose: str) -> Embedded:
        self.calls.append(("embed_texts", (list(items), purpose)))
        for number, item in enumerate(items):
            if item == "BAD":
                raise InvalidError("the model cannot take it", param=f"input[{number}]")
        vectors = np.stack([vector_of(str(item), self.dimension) for item in items])
        return Embedded(vectors, [len(item.split()) if isinstance(item, str) else len(item) for item in items])

    async def embed_pictures(self, files: Sequence[bytes]) -> Embedded:
        self.calls.append(("embed_pictures", len(files)))
        return Embedded(np.stack([vector_of(file, self.dimension) for file in files]), [0] * len(files))

    async def embed_words_of_pictures(self, texts: Sequence[str]) -> Embedded:
        self.calls.append(("embed_words_of_pictures", list(texts)))
        return Embedded(np.stack([vector_of(text, self.dimension) for text in texts]), [1] * len(texts))

    async def rerank(self, query: str, passages: Sequence[str]) -> Scored:
        self.calls.append(("rerank", (query, list(passages))))
        scores = [len(set(query.lower().split()) & set(one.lower().split())) for one in passages]
        return Scored(np.asarray(scores, np.float32), [len(one.split()) for one in passages])

    async def hear(self, path: str, asked: HearRequest) -> Heard:
        self.calls.append(("hear", (path, asked)))
        return self.heard

    async def troubles(self) -> dict[str, str]:
        return self.trouble


class FakeJobs:
    """Remembers what was submitted."""

    def __init__(self) -> None:
        self.submitted: list[list[str]] = []

    async def submit(self, entrypoint: Sequence[str]) -> str:
        self.submitted.append(list(entrypoint))
        return f"job-{len(self.submitted)}"

    async def state(self, job_id: str) -> dict[str, str | None] | None:
        known = {f"job-{number}" for number in range(1, len(self.submitted) + 1)}
        return {"state": "running", "message": None} if job_id in known else None


def heard_voice(number: int, seed: str) -> HeardVoice:
    """A local speaker whose vector is that of `seed`."""
    return HeardVoice(number, vector_of(seed), 5_000, 4_000)
