"""The reranker: questions and passages to scores."""

from __future__ import annotations

from collections.abc import Sequence

from actors.rerank import Reranker
from actors.tokens import Tokens
from cluster.profiles import ModelChoice
from serve.engines.base import Answers, PairIn
from serve.engines.items import Preparer, answer, check, text_problem
from serve.engines.text import token_batcher
from serve.models import ModelCard, Role, model_id


class RerankEngine:
    """An `ItemEngine` of `PairIn`; its scores are those of `Reranker`."""

    role: Role = "reranker"

    def __init__(self, choice: ModelChoice, threads: int = 1) -> None:
        """`threads` is torch's thread count on a CPU, set for the whole process by `load`."""
        self.choice = choice
        self._reranker = Reranker(choice, threads)
        self._card = ModelCard(
            model_id(choice), "reranker", choice.engine, choice.weights, max_tokens=choice.max_tokens
        )
        self._preparer = Preparer(self._prepare, lambda pair: len(pair.query) + len(pair.passage), self.role)
        self.batcher = token_batcher(choice, self._reranker.begin_tokens, self.role)

    def cards(self) -> Sequence[ModelCard]:
        """The one reranker; loads nothing."""
        return [self._card]

    def load(self) -> None:
        """Bring the model into memory. Raises `RushesError` for weights that are missing or wrong."""
        self._reranker.load()

    async def run(self, items: Sequence[PairIn]) -> Answers:
        """Scores of shape (items, 1), greater is better; the longer of a pair is cut at the model's limit."""
        return await answer(items, self._preparer, self.batcher, 1, lambda one: len(one.ids))

    async def check(self) -> None:
        """A forward of the smallest pair, unless one succeeded of late; raises what that raises."""
        (smallest,) = await self._preparer.run([PairIn("a", "a")])
        assert not isinstance(smallest, ValueError)
        await check(self.batcher, smallest)

    def close(self) -> None:
        """Let go of the model."""
        self.batcher.close()
        self._preparer.close()
        self._reranker.close()

    def _prepare(self, pairs: Sequence[PairIn]) -> list[Tokens | ValueError]:
        found = [_problem(pair) for pair in pairs]
        good = [(pair.query, pair.passage) for pair, problem in zip(pairs, found, strict=True) if problem is None]
        tokens = iter(self._reranker.tokens(good) if good else ())
        return [problem or next(tokens) for problem in found]


def _problem(pair: PairIn) -> ValueError | None:
    for name, text in (("query", pair.query), ("passage", pair.passage)):
        if problem := text_problem(text):
            return ValueError(str(problem).replace("it ", f"the {name} ", 1))
    return None
