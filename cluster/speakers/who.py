"""Who speaks in a segment, after all decisions, and what that is called on paper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.conversation import UNKNOWN, speaker_letter


@dataclass(frozen=True, slots=True)
class Who:
    """The speaker of a segment.

    `local_speaker`: its voice inside the asset; None when it has none. `speaker_id`: the person; None when unknown.
    `method`: `human`, `cluster`, `knn`, or `given` for a name that came with imported turns, which is no person.
    `is_labelled`: somebody said it of this segment alone.
    """

    local_speaker: int | None = None
    speaker_id: int | None = None
    name: str | None = None
    method: str | None = None
    score: float | None = None
    is_labelled: bool = False
    is_ghost: bool = False

    @property
    def shown(self) -> str:
        """The name on one line, else the letter of the voice, else `UNKNOWN`."""
        name = " ".join((self.name or "").split())
        if name:
            return name
        # the letter stands for the other segments of the voice, of which somebody set this one apart
        alone = self.local_speaker is None or self.is_labelled
        return UNKNOWN if alone else speaker_letter(self.local_speaker or 0)

    @property
    def is_named(self) -> bool:
        """Whether somebody decided or gave a name."""
        return bool((self.name or "").split())


def tally(speakers: Iterable[Who]) -> dict[Who, int]:
    """Segments of each, in order."""
    return in_order(Counter(speakers))


def in_order(voices: Mapping[Who, int]) -> dict[Who, int]:
    """By number of the voice, those without a voice last."""
    return {who: voices[who] for who in sorted(voices, key=_rank)}


def _rank(who: Who) -> tuple[bool, int, bool, str]:
    return (who.local_speaker is None, who.local_speaker or 0, who.is_labelled, who.name or "")
