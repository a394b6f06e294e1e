"""What every transcript format is written from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.conversation import Segment
from cluster.speakers.who import Who, tally


@dataclass(frozen=True, slots=True)
class Transcript:
    """One asset's segments, in order, and by idx who speaks in them; one that is missing there has no name."""

    name: str
    duration_ms: int | None
    language: str | None
    segments: Sequence[Segment]
    speakers: Mapping[int, Who] = field(default_factory=dict)
    sha256: str = ""
    title: str | None = None
    channel: str | None = None

    def who(self, segment: Segment) -> Who:
        """Who speaks in the segment."""
        return self.speakers.get(segment.idx) or Who(segment.local_speaker)

    def speaker_name(self, segment: Segment) -> str:
        """What its speaker is called, on one line and never empty: by name, else by letter, else `UNKNOWN`."""
        return self.who(segment).shown

    def by_speaker(self) -> dict[str, list[Segment]]:
        """The segments of each name, in order."""
        found: dict[str, list[Segment]] = {who.shown: [] for who in tally(map(self.who, self.segments))}
        for segment in self.segments:
            found[self.speaker_name(segment)].append(segment)
        return found


def confidence(segment: Segment) -> float | None:
    """The mean probability of its words; None without words."""
    if not segment.words:
        return None
    return round(sum(word.probability for word in segment.words) / len(segment.words), 4)


def rounded(score: float | None) -> float | None:
    """A score as people read it; single precision has no more digits to give."""
    return None if score is None else round(score, 4)


def clock(ms: int, fraction: str = "") -> str:
    """`HH:MM:SS`, with `fraction` as separator also the milliseconds; hours may pass 99."""
    seconds, rest = divmod(ms, 1000)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{text}{fraction}{rest:03d}" if fraction else text
