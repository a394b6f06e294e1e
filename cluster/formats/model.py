"""What every transcript format is written from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.conversation import Segment, speaker_name


@dataclass(frozen=True, slots=True)
class Transcript:
    """One asset's segments, in order, with the names of its local speakers where known.

    A local speaker without a name is called by letter, an unknown one `UNKNOWN`.
    """

    name: str
    duration_ms: int | None
    language: str | None
    segments: Sequence[Segment]
    names: Mapping[int | None, str] = field(default_factory=dict)
    sha256: str = ""
    title: str | None = None
    channel: str | None = None

    def speaker_name(self, local_speaker: int | None) -> str:
        """The display name of a local speaker, on one line and never empty."""
        return speaker_name(local_speaker, self.names)


def confidence(segment: Segment) -> float | None:
    """The mean probability of its words; None without words."""
    if not segment.words:
        return None
    return round(sum(word.probability for word in segment.words) / len(segment.words), 4)


def clock(ms: int, fraction: str = "") -> str:
    """`HH:MM:SS`, with `fraction` as separator also the milliseconds; hours may pass 99."""
    seconds, rest = divmod(ms, 1000)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{text}{fraction}{rest:03d}" if fraction else text
