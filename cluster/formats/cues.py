"""Subtitle cues: segments cut into pieces that can be read in the time they stand.

The limits follow common subtitling guides (Netflix Timed Text Style Guide: two lines of 42
characters, at most seven seconds).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.conversation import Segment, Word, join_words

LINE_CHARS = 42
MAX_LINES = 2
MAX_CUE_MS = 7_000
MIN_CUE_MS = 1_000
PAUSE_MS = 1_500
BREATH_MS = 400


@dataclass(frozen=True, slots=True)
class Cue:
    """Lines on the screen from `start_ms` to `end_ms`, and the segment they are of."""

    start_ms: int
    end_ms: int
    segment: Segment
    lines: tuple[str, ...]


def cues(segments: Iterable[Segment]) -> list[Cue]:
    """The cues of all worded segments, sorted by time; those of one segment never overlap.

    Every cue fits `MAX_LINES` lines of `LINE_CHARS` characters unless it is one longer word, lasts
    at most `MAX_CUE_MS`, and at least `MIN_CUE_MS` where its segment and the next cue leave room.
    """
    found = [cue for segment in segments for cue in _segment_cues(segment)]
    return sorted(found, key=lambda cue: (cue.start_ms, cue.end_ms))


def _segment_cues(segment: Segment) -> list[Cue]:
    groups = _groups([word for word in segment.words if word.text.strip()])
    starts = [group[0].start_ms for group in groups]
    made: list[Cue] = []
    shown_until = min(starts, default=0)
    for place, group in enumerate(groups):
        start_ms = max(starts[place], shown_until)
        room_ms = starts[place + 1] if place + 1 < len(groups) else segment.end_ms
        spoken_until = min(max(word.end_ms for word in group), room_ms)
        wanted = max(spoken_until, min(start_ms + MIN_CUE_MS, room_ms))
        shown_until = max(start_ms + 1, min(wanted, start_ms + MAX_CUE_MS))
        made.append(Cue(start_ms, shown_until, segment, tuple(_lines(group))))
    return made


def _groups(words: Sequence[Word]) -> list[Sequence[Word]]:
    groups = []
    while words:
        fitting = _fitting(words)
        size = fitting if fitting == len(words) else _best_break(words, fitting)
        groups.append(words[:size])
        words = words[size:]
    return groups


def _fitting(words: Sequence[Word]) -> int:
    """How many leading words one cue can hold, at least one."""
    for size in range(2, len(words) + 1):
        group = words[:size]
        too_long = group[-1].end_ms - group[0].start_ms > MAX_CUE_MS
        if too_long or _gap_ms(words, size - 1) > PAUSE_MS or len(_wrap(join_words(group))) > MAX_LINES:
            return size - 1
    return len(words)


def _best_break(words: Sequence[Word], fitting: int) -> int:
    """Where to end the cue: a sentence, a breath, a clause, else as late as possible.

    Only the later half is considered, so that cues do not flicker.
    """
    return max(range((fitting + 1) // 2, fitting + 1), key=lambda size: (_break_rank(words, size), size))


def _break_rank(words: Sequence[Word], size: int) -> int:
    text = words[size - 1].text.strip()
    if text.endswith((".", "?", "!", "…")):
        return 3
    if _gap_ms(words, size) >= BREATH_MS:
        return 2
    return int(text.endswith((",", ";", ":")))


def _gap_ms(words: Sequence[Word], at: int) -> int:
    return words[at].start_ms - words[at - 1].end_ms


def _lines(words: Sequence[Word]) -> list[str]:
    text = join_words(words)
    full = _wrap(text)
    if len(full) != MAX_LINES:
        return full
    # lines of like length read more easily than a full one and a leftover
    narrower = (_wrap(text, width, break_long_words=False) for width in range(len(text) // 2, LINE_CHARS))
    even = (lines for lines in narrower if len(lines) == MAX_LINES and max(map(len, lines)) <= LINE_CHARS)
    return next(even, full)


def _wrap(text: str, width: int = LINE_CHARS, *, break_long_words: bool = True) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=break_long_words)
