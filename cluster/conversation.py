"""Turns and words become segments: who spoke, when, and what was said.

Everything here is pure and deterministic. Times are integer milliseconds from the start of the
asset. A word goes to the turn it overlaps most, words well outside every turn form their own segments,
and a turn without words is still a segment (it will get a voice). Long turns are cut in the middle
of pauses, so that segments stay subtitle-sized and no speech is lost between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

MAX_SEGMENT_MS = 15_000
MAX_PAUSE_MS = 1_500
STRAY_GAP_MS = 1_000
# The clocks of recogniser and diarizer differ a little: a word this near to a turn is part of it.
EDGE_MS = 250
NO_WORDS = "no_words"
UNKNOWN = "UNKNOWN"
# Thai and Lao, Burmese, Chinese and Japanese with their punctuation and full-width forms
_UNSPACED = "[\u0e00-\u0eff\u1000-\u109f\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]"
_UNWRITTEN_SPACE = re.compile(f"(?<={_UNSPACED}) (?={_UNSPACED})")


@dataclass(frozen=True, slots=True)
class Word:
    """One recognised word; `text` may carry the recogniser's own leading space."""

    start_ms: int
    end_ms: int
    text: str
    probability: float

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The word of a `WORD` struct."""
        return cls(row["start_ms"], row["end_ms"], row["text"], row["probability"])

    def to_row(self) -> dict[str, Any]:
        """The word as a `WORD` struct."""
        return {
            "start_ms": self.start_ms,
            "end_ms": self.end_ms,
            "text": self.text,
            "probability": self.probability,
        }


@dataclass(frozen=True, slots=True)
class Turn:
    """A span in which one voice speaks; `local_speaker` is None when nobody knows whose."""

    start_ms: int
    end_ms: int
    local_speaker: int | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The turn of a `TURN` struct, or of a `SPAN` struct, which knows no speaker."""
        return cls(row["start_ms"], row["end_ms"], row.get("local_speaker"))


@dataclass(frozen=True, slots=True)
class Segment:
    """A span of speech with its words; `text_skip_reason` says why `text` is empty."""

    idx: int
    start_ms: int
    end_ms: int
    local_speaker: int | None
    text: str
    words: tuple[Word, ...]
    text_skip_reason: str | None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The segment of a `SEGMENT` struct."""
        words = tuple(Word.from_row(word) for word in row["words"] or ())
        return cls(
            row["idx"],
            row["start_ms"],
            row["end_ms"],
            row["local_speaker"],
            row["text"],
            words,
            row["text_skip_reason"],
        )

    def to_row(self) -> dict[str, Any]:
        """The segment as a `SEGMENT` struct."""
        return {
            "idx": self.idx,
            "start_ms": self.start_ms,
            "end_ms": self.end_ms,
            "local_speaker": self.local_speaker,
            "text": self.text,
            "words": [word.to_row() for word in self.words],
            "text_skip_reason": self.text_skip_reason,
        }


@dataclass(frozen=True, slots=True)
class _Piece:
    start_ms: int
    end_ms: int
    local_speaker: int | None
    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class _Gap:
    """The room between word `at - 1` (and all before it) and word `at`; `cut_ms` is its middle."""

    at: int
    cut_ms: int
    length_ms: int


def segments_from_turns(turns: Iterable[Turn], words: Iterable[Word]) -> list[Segment]:
    """Segments of a diarized asset, sorted by (start, end, speaker) and numbered from 0.

    Every word lands in exactly one segment, every turn in at least one. The order of `turns` does
    not matter; words that start together keep the order in which they were given.
    """
    ordered_turns = sorted(turns, key=lambda turn: (turn.start_ms, turn.end_ms, _rank(turn.local_speaker)))
    ordered_words = sorted(words, key=lambda word: word.start_ms)
    owners = _owners(ordered_turns, ordered_words)
    whole = _turn_pieces(ordered_turns, ordered_words, owners) + _stray_pieces(ordered_words, owners)
    pieces = [piece for long in whole for piece in _split(long)]
    pieces.sort(key=lambda piece: (piece.start_ms, piece.end_ms, _rank(piece.local_speaker)))
    return [_segment(idx, piece) for idx, piece in enumerate(pieces)]


def segments_from_utterances(utterances: Iterable[Turn], words: Iterable[Word]) -> list[Segment]:
    """Segments of an asset that was not diarized: the recogniser's spans, speakers unknown."""
    return segments_from_turns([Turn(span.start_ms, span.end_ms) for span in utterances], words)


def segments_from_given(turns: Iterable[Turn], words: Iterable[Word]) -> list[Segment]:
    """Segments of turns that a person gave: each turn is one segment with exactly its times.

    Sorted by (start, end), then as given. Words well outside every turn form segments of nobody after them.
    """
    ordered_turns = sorted(turns, key=lambda turn: (turn.start_ms, turn.end_ms))
    ordered_words = sorted(words, key=lambda word: word.start_ms)
    owners = _owners(ordered_turns, ordered_words)
    owned = _owned(ordered_turns, ordered_words, owners)
    pieces = [
        _Piece(turn.start_ms, turn.end_ms, turn.local_speaker, tuple(own))
        for turn, own in zip(ordered_turns, owned, strict=True)
    ]
    pieces += [piece for stray in _stray_pieces(ordered_words, owners) for piece in _split(stray)]
    pieces.sort(key=lambda piece: (piece.start_ms, piece.end_ms))
    return [_segment(idx, piece) for idx, piece in enumerate(pieces)]


def speaker_letter(number: int) -> str:
    """The display letter of local speaker `number`: A to Z, then AA, AB and on."""
    if number < 0:
        raise ValueError(f"local speakers are numbered from 0, got {number}")
    letters = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return letters


def join_words(words: Iterable[Word]) -> str:
    """The text of words: their own spacing where the recogniser gives it, else single spaces.

    Single spaces are left out between characters of scripts that write none between words.
    """
    texts = [word.text for word in words]
    if any(text != text.strip() for text in texts):
        return " ".join("".join(texts).split())
    return _UNWRITTEN_SPACE.sub("", " ".join(text for text in texts if text))


def _rank(speaker: int | None) -> tuple[bool, int]:
    return (speaker is None, speaker or 0)


def _end(span: Word | Turn) -> int:
    # recognisers give zero-length words: they still lie somewhere and need one millisecond to do so
    return max(span.end_ms, span.start_ms + 1)


def _owners(turns: Sequence[Turn], words: Sequence[Word]) -> list[int | None]:
    """For each word the index of the turn it overlaps most, or nearly touches; a sweep over sorted input."""
    owners: list[int | None] = []
    active: list[int] = []
    upcoming = 0
    for word in words:
        while upcoming < len(turns) and turns[upcoming].start_ms < _end(word) + EDGE_MS:
            active.append(upcoming)
            upcoming += 1
        active = [turn for turn in active if _end(turns[turn]) + EDGE_MS > word.start_ms]
        best = max(active, key=lambda turn: _overlap_ms(turns[turn], word), default=None)
        owners.append(best if best is not None and _overlap_ms(turns[best], word) > -EDGE_MS else None)
    return owners


def _overlap_ms(turn: Turn, word: Word) -> int:
    """Shared time; below 0 the distance between them."""
    return min(_end(turn), _end(word)) - max(turn.start_ms, word.start_ms)


def _owned(turns: Sequence[Turn], words: Sequence[Word], owners: Sequence[int | None]) -> list[list[Word]]:
    owned: list[list[Word]] = [[] for _ in turns]
    for word, owner in zip(words, owners, strict=True):
        if owner is not None:
            owned[owner].append(word)
    return owned


def _turn_pieces(turns: Sequence[Turn], words: Sequence[Word], owners: Sequence[int | None]) -> list[_Piece]:
    owned = _owned(turns, words, owners)
    return [
        _Piece(
            min([turn.start_ms, *(word.start_ms for word in own)]),
            max([_end(turn), *(_end(word) for word in own)]),
            turn.local_speaker,
            tuple(own),
        )
        for turn, own in zip(turns, owned, strict=True)
    ]


def _stray_pieces(words: Sequence[Word], owners: Sequence[int | None]) -> list[_Piece]:
    groups: list[list[Word]] = []
    end_ms: int | None = None
    for word, owner in zip(words, owners, strict=True):
        if owner is not None:
            end_ms = None
            continue
        if end_ms is None or word.start_ms - end_ms >= STRAY_GAP_MS:
            groups.append([])
            end_ms = word.start_ms
        groups[-1].append(word)
        end_ms = max(end_ms, _end(word))
    return [_Piece(group[0].start_ms, max(_end(word) for word in group), None, tuple(group)) for group in groups]


def _split(piece: _Piece) -> list[_Piece]:
    """The piece cut at its long pauses, then at its largest gaps until nothing is too long."""
    pauses = [gap for gap in _gaps(piece) if gap.length_ms > MAX_PAUSE_MS]
    todo = _cut(piece, pauses)[::-1]
    done = []
    while todo:
        part = todo.pop()
        gaps = _gaps(part) if part.end_ms - part.start_ms > MAX_SEGMENT_MS else []
        if gaps:
            todo.extend(_cut(part, [_best_gap(part, gaps)])[::-1])
        else:
            done.append(part)
    return done


def _gaps(piece: _Piece) -> list[_Gap]:
    """Where the piece may be cut: between words that do not overlap, strictly inside the span."""
    gaps = []
    end_ms = piece.start_ms
    for at, word in enumerate(piece.words):
        cut_ms = (end_ms + word.start_ms) // 2
        if at and end_ms <= word.start_ms and piece.start_ms < cut_ms < piece.end_ms:
            gaps.append(_Gap(at, cut_ms, word.start_ms - end_ms))
        end_ms = max(end_ms, word.end_ms)
    return gaps


def _best_gap(piece: _Piece, gaps: Sequence[_Gap]) -> _Gap:
    """The largest gap of the middle half, else of the whole; among equals the most central.

    The middle half first, because a sliver at the edge is too short for a voice.
    """
    middle = (piece.start_ms + piece.end_ms) / 2
    quarter = (piece.end_ms - piece.start_ms) / 4
    central = [gap for gap in gaps if abs(gap.cut_ms - middle) <= quarter]
    return max(central or gaps, key=lambda gap: (gap.length_ms, -abs(gap.cut_ms - middle)))


def _cut(piece: _Piece, gaps: Sequence[_Gap]) -> list[_Piece]:
    edges = [piece.start_ms, *(gap.cut_ms for gap in gaps), piece.end_ms]
    marks = [0, *(gap.at for gap in gaps), len(piece.words)]
    return [
        _Piece(edges[part], edges[part + 1], piece.local_speaker, piece.words[marks[part] : marks[part + 1]])
        for part in range(len(gaps) + 1)
    ]


def _segment(idx: int, piece: _Piece) -> Segment:
    text = join_words(piece.words)
    skip = None if text else NO_WORDS
    return Segment(idx, piece.start_ms, piece.end_ms, piece.local_speaker, text, piece.words, skip)
