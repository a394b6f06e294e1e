"""The image model: pictures and words to unit vectors of one space."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from actors.budget import free_cache
from actors.images import Images
from actors.texts import torch_device
from cluster.errors import BadMediaError, MediaResourceError, MediaTimeoutError, StageError
from cluster.image_model import pixel_spec
from cluster.media.child import MediaChild
from cluster.media.query import query_pixels
from cluster.profiles import ModelChoice
from serve.batcher import Batcher
from serve.engines.base import Answers, PictureIn
from serve.engines.items import INLINE_BYTES, Preparer, answer, check, text_problem
from serve.models import ModelCard, Role, model_id

# Words, or RGB of shape (size, size, 3).
Seen = str | NDArray[np.uint8]
# The reader is everybody's: a picture that takes longer is refused, and a caller who left has no more than this read.
READ_DEADLINE_S = 10.0
READ_AT_ONCE = 8
# On a CPU larger calls gain nothing, and keep a single picture waiting.
CPU_PICTURES = 8


class ImageEngine:
    """An `ItemEngine` of `PictureIn`; its vectors are those that `Images` stores.

    Pictures are read in a media child, as those of the corpus are: bounded in time and in `memory_bytes`.
    """

    role: Role = "image"

    def __init__(self, choice: ModelChoice, space_name: str, threads: int = 1, memory_bytes: int = 2**32) -> None:
        """`threads` is torch's thread count on a CPU, set for the whole process by `load`."""
        self.choice = choice
        self._images, self._child = Images(choice, threads), MediaChild(memory_bytes)
        self._card = ModelCard(
            model_id(choice), "image", choice.engine, choice.weights, choice.dimension, space_name=space_name
        )
        self._pixels = choice.image_size**2
        self._preparer = Preparer(self._prepare, _size_bytes, self.role)
        budget = choice.batch_pixels
        if torch_device(choice) == "cpu":
            budget = min(budget, CPU_PICTURES * self._pixels)
        self.batcher: Batcher[Seen, NDArray[np.float32]] = Batcher(
            self._see, lambda _: self._pixels, budget, relieve=free_cache, name=self.role
        )

    def cards(self) -> Sequence[ModelCard]:
        """The one image model; loads nothing."""
        return [self._card]

    def load(self) -> None:
        """Bring the model into memory. Raises `RushesError` for weights that are missing or wrong."""
        self._images.load()

    async def run(self, items: Sequence[PictureIn]) -> Answers:
        """Unit vectors of shape (items, dimension), of pictures and of words alike."""
        return await answer(
            items, self._preparer, self.batcher, self.choice.dimension or 0, lambda _: 0, at_once=READ_AT_ONCE
        )

    async def check(self) -> None:
        """A forward of a grey picture, unless one succeeded of late; raises what that raises."""
        await check(self.batcher, np.full((self.choice.image_size, self.choice.image_size, 3), 127, np.uint8))

    def close(self) -> None:
        """Let go of the model and of the child."""
        self.batcher.close()
        self._preparer.close()
        self._child.close()
        self._images.close()

    def _prepare(self, items: Sequence[PictureIn]) -> list[Seen | ValueError]:
        return [
            self._read(one.content) if isinstance(one.content, bytes) else text_problem(one.content) or one.content
            for one in items
        ]

    def _read(self, content: bytes) -> Seen | ValueError:
        with tempfile.NamedTemporaryFile(prefix="rushes-picture-") as file:
            file.write(content)
            file.flush()
            try:
                return query_pixels(self._child, file.name, pixel_spec(self.choice), READ_DEADLINE_S)
            except (BadMediaError, MediaTimeoutError, MediaResourceError) as error:
                return ValueError(f"it cannot be read as a picture: {str(error).replace(file.name, 'it')}")
            except (StageError, OSError) as error:
                return ValueError(f"it cannot be read as a picture: {type(error).__name__}")

    def _see(self, seen: list[Seen]) -> list[NDArray[np.float32]]:
        words = {at: one for at, one in enumerate(seen) if isinstance(one, str)}
        pictures = {at: one for at, one in enumerate(seen) if not isinstance(one, str)}
        vectors: dict[int, NDArray[np.float32]] = {}
        if words:
            vectors |= zip(words, self._images.embed_words(list(words.values())), strict=True)
        if pictures:
            vectors |= zip(pictures, self._images.embed_pictures(list(pictures.values())), strict=True)
        return [vectors[at] for at in range(len(seen))]


def _size_bytes(item: PictureIn) -> int:
    # No picture is small enough to be read while everybody else waits.
    return len(item.content) if isinstance(item.content, str) else INLINE_BYTES + 1
