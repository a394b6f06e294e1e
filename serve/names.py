"""Whom the corpus knows among the voices of a recording that it does not hold; reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.conversation import Segment
from cluster.db.pool import Connection
from cluster.db.spaces import Space, find_space
from cluster.db.speakers.calibrate import taus_in_force
from cluster.db.speakers.gallery import count_known, known_voices
from cluster.db.speakers.names import names_of as names_by_id
from cluster.speakers.decide import Assignment, decide
from cluster.speakers.identify import call_voices
from cluster.speakers.local_voices import Span, ghosts
from cluster.speakers.who import Who
from serve.models import Heard, HeardVoice, ModelCard


@dataclass(frozen=True, slots=True)
class NamedVoice:
    """The person a voice is taken for, and how alike it is to that person's known voices (cosine)."""

    name: str
    speaker_id: int
    score: float


@dataclass(frozen=True, slots=True)
class Names:
    """Local speaker -> who it is; `note` says why nobody could be recognised, None when somebody could.

    `ghosts` are local speakers that are no people, most likely; they get no names.
    """

    voices: Mapping[int, NamedVoice]
    ghosts: frozenset[int] = frozenset()
    note: str | None = None

    def who(self, local_speaker: int | None) -> Who:
        """The speaker of a segment or turn."""
        named = None if local_speaker is None else self.voices.get(local_speaker)
        is_ghost = local_speaker in self.ghosts
        if named is None:
            return Who(local_speaker, is_ghost=is_ghost)
        return Who(local_speaker, named.speaker_id, named.name, "knn", named.score)


def names_in(conn: Connection, card: ModelCard, heard: Heard) -> Names:
    """The names of the local speakers of `heard`, whose vectors are of the voice model `card`."""
    segments = [Segment.from_row(row) for row in heard.segments]
    no_people = frozenset(ghosts([Span(one.start_ms, one.end_ms, one.local_speaker) for one in segments]))
    space = find_space(conn, "voice", card.space_name or "")
    if space is None:
        return Names({}, no_people, f"no names: the corpus has no voices of the model {card.model_id}")
    if not count_known(conn, space)[0]:
        return Names({}, no_people, "no names: nobody in the corpus has one and a voice of this model")
    people = [one for one in heard.voices if one.local_speaker not in no_people]
    return Names(names_of(conn, space, people), no_people)


def names_of(conn: Connection, space: Space, voices: Sequence[HeardVoice]) -> dict[int, NamedVoice]:
    """The voices that are recognised, by the rule and the thresholds of `rushes speakers identify`.

    A name goes to at most one of them, as in an asset: they are voices of one recording.
    """
    asked = [(one.local_speaker, one.vector) for one in voices if one.vector is not None]
    if not asked or not count_known(conn, space)[0]:
        return {}
    queries = np.stack([vector for _, vector in asked])
    calls = call_voices(queries, known_voices(conn, space), [()] * len(asked), taus_in_force(conn, space).taus)
    offers = {
        who: [Assignment(call.speaker, call.speaker, "knn", call.score)]
        for (who, _), call in zip(asked, calls, strict=True)
        if call is not None and call.refused_by is None
    }
    found = decide(offers.keys(), {}, offers)
    names = names_by_id(conn, [one.speaker for one in found.values() if one.speaker is not None])
    return {
        who: NamedVoice(names[one.speaker], one.speaker, one.score or 0.0)
        for who, one in sorted(found.items())
        if one.speaker in names
    }
