"""The text model: texts and token ids to unit vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from actors.budget import free_cache
from actors.texts import Texts, torch_device
from actors.tokens import Tokens
from cluster.profiles import ModelChoice
from serve.batcher import Batcher
from serve.engines.base import Answers, TextIn
from serve.engines.items import Preparer, answer, check, text_problem
from serve.models import ModelCard, Purpose, Role, model_id

# Measured with MiniLM on 2 cores: a call costs as much as so many tokens do, and beyond the budget tokens get dearer.
CPU_CALL_TOKENS = 64
CPU_BUDGET_TOKENS = 1024


class TextEngine:
    """An `ItemEngine` of `TextIn`; its vectors are those that `Texts` stores."""

    role: Role = "text"

    def __init__(self, choice: ModelChoice, space_name: str, threads: int = 1) -> None:
        """`threads` is torch's thread count on a CPU, set for the whole process by `load`."""
        self.choice = choice
        self._texts = Texts(choice, threads)
        self._card = ModelCard(
            model_id(choice), "text", choice.engine, choice.weights, choice.dimension, choice.max_tokens, space_name
        )
        self._preparer = Preparer(self._prepare, _size_bytes, self.role)
        self.batcher = token_batcher(choice, self._texts.begin_tokens, self.role)

    def cards(self) -> Sequence[ModelCard]:
        """The one text model; loads nothing."""
        return [self._card]

    def load(self) -> None:
        """Bring the model into memory. Raises `RushesError` for weights that are missing or wrong."""
        self._texts.load()

    async def run(self, items: Sequence[TextIn]) -> Answers:
        """Unit vectors of shape (items, dimension); a text is cut at the model's limit, token ids are not."""
        return await answer(items, self._preparer, self.batcher, self.choice.dimension or 0, lambda one: len(one.ids))

    async def check(self) -> None:
        """A forward of the smallest text, unless one succeeded of late; raises what that raises."""
        (smallest,) = await self._preparer.run([TextIn("a", "document")])
        assert not isinstance(smallest, ValueError)
        await check(self.batcher, smallest)

    def close(self) -> None:
        """Let go of the model."""
        self.batcher.close()
        self._preparer.close()
        self._texts.close()

    def _prepare(self, items: Sequence[TextIn]) -> list[Tokens | ValueError]:
        found: dict[int, Tokens | ValueError] = {}
        texts: dict[Purpose, dict[int, str]] = {"query": {}, "document": {}}
        for at, item in enumerate(items):
            if not isinstance(item.content, str):
                found[at] = self._given(item.content, item.purpose)
            elif problem := text_problem(item.content):
                found[at] = problem
            else:
                texts[item.purpose][at] = item.content
        for purpose, held in texts.items():
            if held:
                found |= zip(held, self._texts.tokens(list(held.values()), purpose), strict=True)
        return [found[at] for at in range(len(items))]

    def _given(self, ids: list[int], purpose: Purpose) -> Tokens | ValueError:
        try:
            return self._texts.given_tokens(ids, purpose)
        except ValueError as error:
            return error


def token_batcher(
    choice: ModelChoice, begin: Callable[[Sequence[Tokens]], Callable[[], NDArray[np.float32]]], role: Role
) -> Batcher[Tokens, NDArray[np.float32]]:
    """The batcher of a model of tokens: begun and waited for where a GPU works on its own, in one go on a CPU."""

    def run(tokens: list[Tokens]) -> Callable[[], NDArray[np.float32]] | NDArray[np.float32]:
        wait = begin(tokens)
        return wait() if on_cpu else wait

    on_cpu = torch_device(choice) == "cpu"
    budget = choice.batch_size * choice.max_tokens
    if on_cpu:
        budget = min(budget, CPU_BUDGET_TOKENS)
    return Batcher(
        run,
        lambda tokens: len(tokens.ids),
        budget,
        call_cost=CPU_CALL_TOKENS if on_cpu else None,
        relieve=free_cache,
        name=role,
    )


def _size_bytes(item: TextIn) -> int:
    return len(item.content)
