"""Word error rate, with the normaliser stated: figures with another one cannot be compared.

Normaliser: lower case; apostrophes (straight and curly) removed, so "didn't" is one word; every
other character that is no letter and no digit becomes a space; words are what whitespace leaves.
Numbers, titles and spellings stay as written ("mr" and "mister" differ, so do "7" and "seven").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

_APOSTROPHES = str.maketrans("", "", "'\u2019\u2018")


@dataclass(frozen=True, slots=True, order=True)
class WordErrors:
    """Substitutions, deletions and insertions against a reference of `words` words."""

    errors: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    words: int = 0

    @property
    def rate(self) -> float:
        """Errors per reference word; may exceed 1."""
        return self.errors / max(self.words, 1)

    def __add__(self, other: Self) -> WordErrors:
        return WordErrors(
            self.errors + other.errors,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.words + other.words,
        )


def normalise(text: str) -> list[str]:
    """The words of `text` under the normaliser of this module."""
    plain = text.lower().translate(_APOSTROPHES)
    return "".join(char if char.isalnum() else " " for char in plain).split()


def word_errors(reference: str, hypothesis: str) -> WordErrors:
    """The fewest edits (Levenshtein over normalised words); ties prefer fewer substitutions."""
    wanted, said = normalise(reference), normalise(hypothesis)
    row = [(count, 0, 0, count) for count in range(len(said) + 1)]
    for word in wanted:
        row = _next_row(row, word, said)
    return WordErrors(*row[-1], words=len(wanted))


def _next_row(
    above: list[tuple[int, int, int, int]], word: str, said: Sequence[str]
) -> list[tuple[int, int, int, int]]:
    row = [_plus(above[0], deletions=1)]
    for index, other in enumerate(said):
        kept = _plus(above[index], substitutions=int(word != other))
        row.append(min(kept, _plus(above[index + 1], deletions=1), _plus(row[index], insertions=1)))
    return row


def _plus(
    cell: tuple[int, int, int, int], substitutions: int = 0, deletions: int = 0, insertions: int = 0
) -> tuple[int, int, int, int]:
    errors, subs, dels, ins = cell
    added = substitutions + deletions + insertions
    return errors + added, subs + substitutions, dels + deletions, ins + insertions
