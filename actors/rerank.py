"""The cross-encoder that reads question and passage together, to put the best of a list first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from actors.budget import Budget
from actors.texts import torch_device, torch_dtype
from actors.tokens import Tokens, padded, tokenized
from cluster.errors import RushesError, first_line
from cluster.profiles import ModelChoice, check_choice
from cluster.weights import locate

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class Reranker:
    """Scores of passages for a question. It decides the order of answers and is part of no fingerprint."""

    name = "rerank"

    def __init__(self, choice: ModelChoice, threads: int = 1) -> None:
        """`threads` is torch's thread count on a CPU, set for the whole process by `load`."""
        self.choice = choice
        self._budget = Budget(self.name, choice.batch_size, "passage")
        self._threads = threads
        self._model: CrossEncoder | None = None

    def load(self) -> None:
        """Bring the model into memory. Raises `RushesError` for what the role cannot do or weights that are missing."""
        if self._model is not None:
            return
        check_choice(self.choice)
        folder = locate(self.choice.weights)
        import torch

        torch.set_num_threads(self._threads)
        try:
            self._model = _cross_encoder(str(folder), self.choice)
        except (OSError, ValueError, RuntimeError) as error:
            raise RushesError(f"{self.choice.weights} does not load as a cross-encoder: {first_line(error)}") from error

    def score(self, question: str, passages: Sequence[str]) -> NDArray[np.float32]:
        """One score per passage, float32 of shape (passages,), greater is better; none make no call.

        What is over the model's limit is cut at its end. Scores of different models do not compare.
        """
        if not passages:
            return np.empty(0, np.float32)
        pairs = [(question, passage) for passage in passages]
        return self._budget.run(partial(self._predict, pairs), len(pairs))

    def tokens(self, pairs: Sequence[tuple[str, str]]) -> list[Tokens]:
        """What the model reads of each question and passage, cut at its limit. Not to be called by two threads."""
        return tokenized(self._loaded().tokenizer, [pair[0] for pair in pairs], [pair[1] for pair in pairs])

    def begin_tokens(self, tokens: Sequence[Tokens]) -> Callable[[], NDArray[np.float32]]:
        """Start one call of the model; what is returned waits for the scores, float32 of shape (tokens,).

        A GPU works on by itself meanwhile; on a CPU everything is done when this returns.
        """
        import torch

        model = self._loaded()
        activation: Any = model.activation_fn
        with torch.inference_mode():
            scores = activation(model(padded(tokens, model.tokenizer, model.device))["scores"].float())
        return lambda: scores.cpu().numpy().reshape(len(tokens))

    @property
    def halvings(self) -> int:
        """How often a batch did not fit the device."""
        return self._budget.halvings

    def close(self) -> None:
        """Let go of the model."""
        self._model = None

    def _loaded(self) -> CrossEncoder:
        self.load()
        assert self._model is not None
        return self._model

    def _predict(self, pairs: list[tuple[str, str]], batch_size: int) -> NDArray[np.float32]:
        scores: Any = self._loaded().predict(
            pairs, batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True
        )
        return np.asarray(scores, np.float32).reshape(len(pairs))


def _cross_encoder(folder: str, choice: ModelChoice) -> CrossEncoder:
    from sentence_transformers import CrossEncoder
    from transformers import AutoConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    # Other models load too, with a head of random weights: any order would come out.
    heads = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).architectures or []
    if not any(name.endswith("ForSequenceClassification") for name in heads):
        raise ValueError(f"it is a {' or '.join(heads) or 'model without a head'}, which gives a pair no score")
    device = torch_device(choice)
    return CrossEncoder(
        folder,
        num_labels=1,
        device=device,
        max_length=choice.max_tokens,
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"dtype": torch_dtype(choice, device)},
    )
