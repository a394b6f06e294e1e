"""Token ids of texts and of pairs of texts: made once, padded where they meet the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# A tokenizer reads to the end of a text of which it keeps the beginning, at a microsecond and 250 bytes a character.
# So a text is cut where twice the tokens that are kept lie before the cut, and at the latest where no language goes.
CHARACTERS_PER_TOKEN, MOST_CHARACTERS_PER_TOKEN = 32, 1024


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a model reads of one text; `types` tell the two of a pair apart, for models that ask for it."""

    ids: list[int]
    types: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Wrapping:
    """The ids that a tokenizer puts before and after those of a text."""

    before: list[int]
    after: list[int]

    def around(self, ids: Sequence[int]) -> Tokens:
        """The tokens of a text with these ids."""
        return Tokens([*self.before, *ids, *self.after])


def tokenized(tokenizer: Any, texts: Sequence[str], seconds: Sequence[str] | None = None) -> list[Tokens]:
    """The tokens of each text, or of each pair with `seconds`, cut at the tokenizer's limit."""
    found = tokenizer(
        [_shortened(tokenizer, text) for text in texts],
        None if seconds is None else [_shortened(tokenizer, text) for text in seconds],
        truncation=True,
        padding=False,
        return_attention_mask=False,
        verbose=False,
    )
    types = found.get("token_type_ids") if seconds is not None else None
    return [Tokens(ids, types[at] if types is not None else None) for at, ids in enumerate(found["input_ids"])]


def _shortened(tokenizer: Any, text: str) -> str:
    kept = tokenizer.model_max_length
    size = kept * CHARACTERS_PER_TOKEN
    while len(text) > size:
        head = text[:size]
        if size >= kept * MOST_CHARACTERS_PER_TOKEN:
            return head
        if len(tokenizer(head, add_special_tokens=False, verbose=False)["input_ids"]) >= 2 * kept:
            return head
        size *= 4
    return text


def wrapping(tokenizer: Any, prefix: str) -> Wrapping:
    """What surrounds a text behind `prefix`."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    at = next(at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
    own = tokenizer(prefix, add_special_tokens=False)["input_ids"] if prefix else []
    return Wrapping([*whole[:at], *own], whole[at + len(bare) :])


def padded(tokens: Sequence[Tokens], tokenizer: Any, device: Any) -> dict[str, Any]:
    """The tensors of one call, shape (tokens, longest), int64, on the device."""
    import torch

    shape = len(tokens), max(len(one.ids) for one in tokens)
    columns = {"input_ids": np.full(shape, tokenizer.pad_token_id or 0), "attention_mask": np.zeros(shape, np.int64)}
    if tokens[0].types is not None:
        columns["token_type_ids"] = np.zeros(shape, np.int64)
    left = tokenizer.padding_side == "left"
    for row, one in enumerate(tokens):
        place = slice(shape[1] - len(one.ids), None) if left else slice(len(one.ids))
        columns["input_ids"][row, place] = one.ids
        columns["attention_mask"][row, place] = 1
        if one.types is not None:
            columns["token_type_ids"][row, place] = one.types
    return {name: torch.from_numpy(column).to(device) for name, column in columns.items()}
