"""Segments become chunks: what one text vector stands for.

A chunk is a run of consecutive worded segments of one asset, up to the text model's token limit and
one minute, broken where nobody speaks for long. Pure and deterministic; times in milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from cluster.conversation import Segment, Word, join_words

MAX_CHUNK_MS = 60_000
CHUNK_PAUSE_MS = 1_500
# A text has no more tokens than its parts together; what a tokenizer may do at the seams is below this.
SEAM_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Chunk:
    """Text with the segments it comes from, `first_segment` to `last_segment` by idx, both included."""

    idx: int
    first_segment: int
    last_segment: int
    start_ms: int
    end_ms: int
    text: str


@dataclass(frozen=True, slots=True)
class _Limits:
    count_tokens: Callable[[str], int]
    max_tokens: int
    max_ms: int
    pause_ms: int

    def hold(self, start_ms: int, end_ms: int, text: str, most_tokens: int | None = None) -> bool:
        """Whether the text fits; `most_tokens`, an upper bound of its tokens, may save counting them."""
        if end_ms - start_ms > self.max_ms:
            return False
        return (most_tokens is not None and most_tokens <= self.max_tokens) or self.count_tokens(
            text
        ) <= self.max_tokens


def chunk(
    segments: Iterable[Segment],
    count_tokens: Callable[[str], int],
    max_tokens: int,
    max_ms: int = MAX_CHUNK_MS,
    pause_ms: int = CHUNK_PAUSE_MS,
) -> list[Chunk]:
    """Chunks of one asset's segments, in their order, numbered from 0.

    `count_tokens` counts a text as the model will read it, prefix and special tokens included.
    Segments without words are passed over and break no run. A segment that is over a limit by
    itself becomes several chunks, cut at words and timed by them; only a chunk of one single word
    can be over a limit.
    """
    limits = _Limits(count_tokens, max_tokens, max_ms, pause_ms)
    chunks: list[Chunk] = []
    for run in _runs([segment for segment in segments if segment.text], limits):
        # Of several segments it is known that they fit together.
        for start_ms, end_ms, text in [_whole(run)] if len(run) > 1 else _texts(run, limits):
            chunks.append(Chunk(len(chunks), run[0].idx, run[-1].idx, start_ms, end_ms, text))
    return chunks


def _runs(segments: Sequence[Segment], limits: _Limits) -> Iterator[list[Segment]]:
    """Segments grouped as tightly as the limits allow; an oversized one stands alone."""
    run: list[Segment] = []
    tokens = 0
    for segment in segments:
        more = limits.count_tokens(segment.text) + SEAM_TOKENS
        if run and not _fits(run, segment, limits, tokens + more):
            yield run
            run, tokens = [], 0
        run.append(segment)
        tokens += more
    if run:
        yield run


def _fits(run: Sequence[Segment], segment: Segment, limits: _Limits, most_tokens: int) -> bool:
    if segment.start_ms - _end_ms(run) > limits.pause_ms:
        return False
    longer = [*run, segment]
    return limits.hold(*_whole(longer), most_tokens)


def _texts(run: Sequence[Segment], limits: _Limits) -> Iterator[tuple[int, int, str]]:
    """(start, end, text) of a run: one as a rule, several when it is over a limit."""
    whole = _whole(run)
    if limits.hold(*whole):
        yield whole
        return
    words: list[Word] = []
    for word in (word for segment in run for word in segment.words if word.text.strip()):
        if words and not limits.hold(*_spoken([*words, word])):
            yield _spoken(words)
            words = []
        words.append(word)
    yield _spoken(words)


def _whole(run: Sequence[Segment]) -> tuple[int, int, str]:
    return run[0].start_ms, _end_ms(run), " ".join(segment.text for segment in run)


def _spoken(words: Sequence[Word]) -> tuple[int, int, str]:
    end_ms = max(max(word.end_ms, word.start_ms + 1) for word in words)
    return words[0].start_ms, end_ms, join_words(words)


def _end_ms(run: Sequence[Segment]) -> int:
    return max(segment.end_ms for segment in run)
