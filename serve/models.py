"""What the routes ask of models, wherever these run: in this process, or as replicas behind Ray Serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from cluster.profiles import ModelChoice

Role = Literal["text", "image", "reranker", "audio"]
Purpose = Literal["query", "document"]
# Texts, or token ids of the model's own tokenizer.
TextItem = str | list[int]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model on offer: `GET /v1/models` lists these.

    `role` is that of the profiles: text, image, reranker, transcriber, diarizer or voice. `space_name` is the name
    of the embedding space its vectors belong to (`cluster.db.spaces.space_name`).
    """

    model_id: str
    role: str
    engine: str
    weights: str
    dimension: int | None = None
    max_tokens: int | None = None
    space_name: str | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of a request went, in seconds: waiting for the device, and computing."""

    queue_s: float = 0.0
    model_s: float = 0.0


NO_TIME = Timing()


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """Unit vectors, float32 of shape (items, dimension), and the tokens each item took (0 for pictures)."""

    vectors: NDArray[np.float32]
    tokens: list[int]
    timing: Timing = NO_TIME


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """One score per passage, float32 of shape (passages,), greater is better, and the tokens each pair took."""

    scores: NDArray[np.float32]
    tokens: list[int]
    timing: Timing = NO_TIME


@dataclass(frozen=True, slots=True)
class HearRequest:
    """What to make of a recording. `steps` name what is wanted; each implies what it needs.

    `words`: transcribe; `turns`: who speaks when; `voices`: a vector per local speaker and one of the whole.
    """

    steps: frozenset[Literal["words", "turns", "voices"]]
    language: str | None = None
    num_speakers: int | None = None
    min_speakers: int | None = None
    max_speakers: int | None = None
    name: str = "recording"


@dataclass(frozen=True, slots=True, eq=False)
class HeardVoice:
    """A local speaker: its unit vector (dimension,) float32, None when too little of it is clean, and its times."""

    local_speaker: int
    vector: NDArray[np.float32] | None
    speech_ms: int
    clean_ms: int


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What was heard. Rows are those of `cluster.types` (SEGMENT, TURN), times in ms of the recording.

    `whole` is the unit vector of everything that is spoken, for recordings of one person; None when nothing is.
    """

    duration_ms: int
    language: str | None = None
    language_probability: float | None = None
    segments: list[dict[str, Any]] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)
    voices: list[HeardVoice] = field(default_factory=list)
    whole: NDArray[np.float32] | None = None
    timing: Timing = NO_TIME


class Models(Protocol):
    """The models on offer. Every call is cancelled with its caller.

    Calls raise `InvalidError` for an item that the model cannot take (its number is in `param`, as
    `input[3]`), `BusyError` when as much is in flight as may be, `UnavailableError` for a model that is away or not
    on offer, and `ApiError` for a failure of the model itself on this item.
    """

    def cards(self) -> Sequence[ModelCard]:
        """What is on offer."""
        ...

    async def embed_texts(self, items: Sequence[TextItem], purpose: Purpose) -> Embedded:
        """Text vectors; what is over the model's limit is cut at its end."""
        ...

    async def embed_pictures(self, files: Sequence[bytes]) -> Embedded:
        """Image vectors of encoded pictures (JPEG, PNG, ...)."""
        ...

    async def embed_words_of_pictures(self, texts: Sequence[str]) -> Embedded:
        """Vectors of the image space for words."""
        ...

    async def rerank(self, query: str, passages: Sequence[str]) -> Scored:
        """How well each passage answers."""
        ...

    async def hear(self, path: str, asked: HearRequest) -> Heard:
        """What is said and who says it, in the media file at `path` of this process's own node."""
        ...

    async def troubles(self) -> dict[str, str]:
        """Role -> why its model does not work now; empty when all do."""
        ...


def model_id(choice: ModelChoice) -> str:
    """What a client calls a model: the hub's name, the package's, or the folder's."""
    kind, _, rest = choice.weights.partition(":")
    place = rest.partition("#")[0].partition("@")[0].rstrip("/")
    if kind == "hub":
        return place
    return place.partition("/")[0] if kind == "package" else place.rpartition("/")[2]
