"""The stage that cuts segments into chunks and gives each its text vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.budget import Budget
from actors.tokens import Tokens, Wrapping, padded, tokenized, wrapping
from cluster.chunking import CHUNK_PAUSE_MS, MAX_CHUNK_MS, Chunk, chunk
from cluster.conversation import Segment
from cluster.errors import RushesError, StageError
from cluster.profiles import HALF, ModelChoice, check_choice
from cluster.types import with_column
from cluster.weights import identity, locate

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Purpose = Literal["query", "document"]


class Texts:
    """Segments to chunks with unit float32 vectors; the same object embeds queries for search.

    The chunks of all rows of a table go through the model together. `calls` counts the calls of the model: one
    per table that has words, one per query.
    """

    name = "texts"
    version = 1
    lanes = frozenset({"texts"})
    needs = ("segments",)
    adds = ("chunks",)
    drops: tuple[str, ...] = ()

    def __init__(self, choice: ModelChoice, threads: int = 1) -> None:
        """`threads` is torch's thread count on a CPU, set for the whole process by `load`."""
        self.choice = choice
        self.calls = 0
        self._budget = Budget(self.name, choice.batch_size, "text")
        self._threads = threads
        self._model: SentenceTransformer | None = None
        self._wrapping: dict[str, Wrapping] = {}

    def identity(self) -> dict[str, Any]:
        """Model, prefixes and chunk limits; loads nothing."""
        return {
            "engine": self.choice.engine,
            "weights": identity(self.choice.weights),
            "dimension": self.choice.dimension,
            "precision": self.choice.precision,
            "query_prefix": self.choice.query_prefix,
            "document_prefix": self.choice.document_prefix,
            "max_tokens": self.choice.max_tokens,
            "max_chunk_ms": MAX_CHUNK_MS,
            "chunk_pause_ms": CHUNK_PAUSE_MS,
        }

    def load(self) -> None:
        """Bring the model into memory. Raises `RushesError` when profile and model disagree."""
        if self._model is not None:
            return
        check_choice(self.choice)
        folder = locate(self.choice.weights)
        import torch

        torch.set_num_threads(self._threads)
        model = _sentence_transformer(folder, self.choice)
        _check_model(model, self.choice)
        model.max_seq_length = self.choice.max_tokens
        self._wrapping = {purpose: wrapping(model.tokenizer, prefix) for purpose, prefix in self._prefixes().items()}
        self._model = model

    def process(self, table: pa.Table) -> pa.Table:
        """Fill `chunks`; a row whose segments are null (not empty) raises `StageError`."""
        chunks = [self._chunks(row.as_py()) for row in table.column("segments")]
        vectors = iter(self.embed_documents([item.text for row in chunks for item in row]))
        rows = [[_chunk_row(item, vector) for item, vector in zip(row, vectors)] for row in chunks]  # noqa: B905
        return with_column(table, "chunks", rows)

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of texts to be found, shape (texts, dimension); none make no call."""
        return self._embed([self.choice.document_prefix + text for text in texts])

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """The unit vector of a text to search with, shape (dimension,)."""
        return self._embed([self.choice.query_prefix + text])[0]

    def tokens(self, texts: Sequence[str], purpose: Purpose) -> list[Tokens]:
        """What the model reads of each text: prefix and special tokens included, cut at its limit.

        Not to be called by two threads at once.
        """
        prefix = self._prefixes()[purpose]
        return tokenized(self._loaded().tokenizer, [prefix + text for text in texts])

    def given_tokens(self, ids: Sequence[int], purpose: Purpose) -> Tokens:
        """Token ids of the model's own vocabulary as the model reads them: after those of the prefix, and between the
        special tokens that every text gets.

        Without a prefix the ids of a text give the text's vector; behind one a tokenizer may join letters across the
        seam. Raises `ValueError` for what is no such list, or longer than the model reads.
        """
        model = self._loaded()
        transformer: Any = model[0].model
        known = min(len(model.tokenizer), transformer.get_input_embeddings().num_embeddings)
        if not ids:
            raise ValueError("it is empty")
        if not all(type(number) is int and 0 <= number < known for number in ids):
            raise ValueError(f"a token id of this model is a whole number from 0 to {known - 1}")
        tokens = self._wrapping[purpose].around(ids)
        if len(tokens.ids) > self.choice.max_tokens:
            most = self.choice.max_tokens - (len(tokens.ids) - len(ids))
            raise ValueError(f"{len(ids)} token ids are more than the {most} that the model reads")
        return tokens

    def begin_tokens(self, tokens: Sequence[Tokens]) -> Callable[[], NDArray[np.float32]]:
        """Start one call of the model; what is returned waits for its unit vectors, shape (tokens, dimension).

        A GPU works on by itself meanwhile; on a CPU everything is done when this returns.
        """
        import torch

        model = self._loaded()
        self.calls += 1
        with torch.inference_mode():
            vectors = model(padded(tokens, model.tokenizer, model.device))["sentence_embedding"].float()
        return lambda: _unit(vectors.cpu().numpy())

    def count_tokens(self, text: str) -> int:
        """Tokens of a document as the model reads it: with its prefix and special tokens."""
        tokenizer = self._loaded().tokenizer
        document = self.choice.document_prefix + text
        return len(tokenizer(document, truncation=False, padding=False, verbose=False)["input_ids"])

    @property
    def halvings(self) -> int:
        """How often a batch did not fit the device."""
        return self._budget.halvings

    def close(self) -> None:
        """Let go of the model."""
        self._model = None

    def _loaded(self) -> SentenceTransformer:
        self.load()
        assert self._model is not None
        return self._model

    def _prefixes(self) -> dict[str, str]:
        return {"query": self.choice.query_prefix, "document": self.choice.document_prefix}

    def _chunks(self, rows: list[dict[str, Any]] | None) -> list[Chunk]:
        if rows is None:
            raise StageError("the row has no segments: its speech lane has not run")
        segments = [Segment.from_row(row) for row in rows]
        return chunk(segments, self.count_tokens, self.choice.max_tokens)

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        if not texts:
            return np.empty((0, self.choice.dimension or 0), np.float32)
        vectors = self._budget.run(partial(self._encode, texts), len(texts))
        return _unit(np.asarray(vectors, np.float32))

    def _encode(self, texts: list[str], batch_size: int) -> Any:
        self.calls += 1
        # an empty prompt, or the model's own default would be put before our prefix
        return self._loaded().encode(
            texts,
            prompt="",
            batch_size=batch_size,
            show_progress_bar=False,
            convert_to_numpy=True,
        )


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    # here and not in the model: half precision would leave the lengths off by 1e-3
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def torch_device(choice: ModelChoice) -> str:
    """The device that torch runs the model on."""
    import torch

    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    return automatic if choice.device == "auto" else choice.device


def torch_dtype(choice: ModelChoice, device: str) -> Any:
    """The precision that torch runs the model in; a CPU has no use for half: it only gets slower and less exact."""
    import torch

    half = choice.precision in HALF and device.startswith("cuda")
    return getattr(torch, choice.precision) if half else torch.float32


def _sentence_transformer(folder: Path, choice: ModelChoice) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    device = torch_device(choice)
    return SentenceTransformer(
        str(folder),
        device=device,
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"dtype": torch_dtype(choice, device)},
    )


def _check_model(model: SentenceTransformer, choice: ModelChoice) -> None:
    dimension = model.get_embedding_dimension()
    if dimension != choice.dimension:
        raise RushesError(
            f"{choice.weights} gives vectors of {dimension} dimensions, profile {choice.profile!r} says "
            f"{choice.dimension}: set RUSHES_TEXT_DIMENSION={dimension}, or name other weights"
        )
    positions = getattr(getattr(model[0], "model", None), "config", None)
    longest = getattr(positions, "max_position_embeddings", choice.max_tokens)
    if choice.max_tokens > longest:
        raise RushesError(
            f"{choice.weights} reads {longest} tokens, profile {choice.profile!r} says {choice.max_tokens}: "
            f"set RUSHES_TEXT_MAX_TOKENS={longest}, or name other weights"
        )


def _chunk_row(item: Chunk, vector: NDArray[np.float32]) -> dict[str, Any]:
    return {
        "idx": item.idx,
        "first_segment": item.first_segment,
        "last_segment": item.last_segment,
        "start_ms": item.start_ms,
        "end_ms": item.end_ms,
        "text": item.text,
        "vector": vector,
    }
