"""Counts of segments by speaker: in words, and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.conversation import UNKNOWN
from cluster.speakers.who import Who


@dataclass(frozen=True, slots=True)
class Counts:
    """Segments in all, those of known people, and the others; counted apart."""

    segments: int = 0
    known: int = 0
    unknown: int = 0

    @property
    def add_up(self) -> bool:
        """Whether known and unknown are all."""
        return self.known + self.unknown == self.segments

    def describe(self) -> str:
        """`77 segments: 60 of known speakers, 17 unknown`; says so when they do not add up."""
        odd = "" if self.add_up else ", which are not all: see `rushes db check`"
        return f"{_segments(self.segments)}: {self.known} of known speakers, {self.unknown} unknown{odd}"


def describe(voices: Mapping[Who, int]) -> str:
    """`77 segments: Anna 60, B 15, unknown 2`; a voice that is no person, most likely, is called a ghost."""
    named: dict[tuple[str, bool], int] = {}
    for who, count in voices.items():
        key = (who.shown, who.is_ghost and not who.is_named and not who.is_labelled)
        named[key] = named.get(key, 0) + count
    unknown = sum(named.pop((UNKNOWN, ghost), 0) for ghost in (False, True))
    parts = [f"{shown} {count}{' (ghost)' if ghost else ''}" for (shown, ghost), count in named.items()]
    parts += [f"unknown {unknown}"] if unknown else []
    title = _segments(sum(voices.values()))
    return f"{title}: {', '.join(parts)}" if parts else title


def _segments(count: int) -> str:
    return f"{count} segment{'' if count == 1 else 's'}"
