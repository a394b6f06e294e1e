"""Who a voice is, from all that speaks for it: pure decisions over one asset.

Precedence: a person about a segment, a person about a local speaker, a cluster, recognition. A name is given by
the machine to at most one local speaker of an asset, because two voices of one recording are two people.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

KEPT_SHARE = 0.8
_RANK = {"cluster": 0, "knn": 1}


@dataclass(frozen=True, slots=True)
class Mark:
    """What a person said of a time of an asset; `speaker` is None for "nobody known".

    `root` is whom `speaker` is merged into, itself when not.
    """

    mark_id: int
    start_ms: int
    end_ms: int
    scope: Literal["segment", "speaker"]
    speaker: int | None
    root: int | None


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment: who it is, when, and whose voice inside the asset."""

    segment_id: int
    start_ms: int
    end_ms: int
    local_speaker: int | None


@dataclass(frozen=True, slots=True)
class Attached:
    """Where the marks of an asset point now: by segment id, and by local speaker."""

    segments: Mapping[int, Mark]
    local_speakers: Mapping[int, Mark]


@dataclass(frozen=True, slots=True)
class Assignment:
    """A name for a local speaker, and why; the numbers are NULL for a person's word. The root follows from merges."""

    speaker: int | None
    root: int | None = field(compare=False)
    method: Literal["human", "cluster", "knn"]
    score: float | None = None
    margin: float | None = None
    tau: float | None = None
    run_id: Any = None


def attach(marks: Iterable[Mark], pieces: Sequence[Piece]) -> Attached:
    """Let every mark point at what is at its time now; of several, the latest counts.

    A mark about a voice points at the local speaker that speaks most of its time. Where people were named
    differently and a later diarization takes them for one, nobody knows whose the voice is: then each mark
    names its own segments only, as it does where segments belong to no local speaker.
    """
    segments: dict[int, Mark] = {}
    voices: defaultdict[int, list[Mark]] = defaultdict(list)
    ordered = sorted(marks, key=lambda mark: mark.mark_id)
    for mark in ordered:
        who = speaks_most(mark.start_ms, mark.end_ms, pieces) if mark.scope == "speaker" else None
        if who is not None:
            voices[who].append(mark)
        else:
            segments |= {piece.segment_id: mark for piece in _under(mark, pieces)}
    named = {who: found[-1] for who, found in voices.items() if len({mark.root for mark in found}) == 1}
    for who in voices.keys() - named.keys():
        for mark in voices[who]:
            said = {piece.segment_id: mark for piece in _under(mark, pieces) if piece.local_speaker == who}
            segments |= {key: one for key, one in said.items() if _scope(segments.get(key)) != "segment"}
    return Attached(segments, named)


def speaks_most(start_ms: int, end_ms: int, pieces: Iterable[Piece]) -> int | None:
    """The local speaker with most speech inside the time; None when no numbered one speaks then.

    Of two who speak as much of it, the one whose segments lie less outside: who interjects is meant by the
    time of the interjection.
    """
    heard: Counter[int] = Counter()
    outside: Counter[int] = Counter()
    for piece in pieces:
        shared = _shared_ms(start_ms, end_ms, piece)
        if shared > 0 and piece.local_speaker is not None:
            heard[piece.local_speaker] += shared
            outside[piece.local_speaker] += piece.end_ms - piece.start_ms - shared
    return min(heard, key=lambda who: (-heard[who], outside[who], who)) if heard else None


def superseded(new: Mark, marks: Iterable[Mark], pieces: Sequence[Piece]) -> list[int]:
    """The ids of the marks that a new one takes the place of: what was said of the same voice, or segment."""
    said = {piece.segment_id for piece in _under(new, pieces)}
    who = speaks_most(new.start_ms, new.end_ms, pieces) if new.scope == "speaker" else None
    return [
        mark.mark_id
        for mark in marks
        if (
            _same_voice(mark, who, pieces)
            if who is not None and mark.scope == "speaker"
            else _points_at(mark, said, pieces)
        )
    ]


def _same_voice(mark: Mark, who: int, pieces: Sequence[Piece]) -> bool:
    return speaks_most(mark.start_ms, mark.end_ms, pieces) == who


def _points_at(mark: Mark, segments: Collection[int], pieces: Sequence[Piece]) -> bool:
    voiced = mark.scope == "speaker" and speaks_most(mark.start_ms, mark.end_ms, pieces) is not None
    return not voiced and any(piece.segment_id in segments for piece in _under(mark, pieces))


def decide(
    numbers: Collection[int],
    human: Mapping[int, Mark],
    offers: Mapping[int, Sequence[Assignment]],
    ghosts: Collection[int] = (),
) -> dict[int, Assignment]:
    """What becomes of the local speakers `numbers` of one asset; those without an entry are unknown.

    `offers` are the machine's: the best keeps a name, the others stay unknown, and so do all when a person gave
    that name here. Ghosts are offered nothing.
    """
    found = {who: Assignment(mark.speaker, mark.root, "human") for who, mark in sorted(human.items()) if who in numbers}
    taken = {one.root for one in found.values()}
    ranked = sorted(
        ((who, one) for who in numbers if who not in found and who not in ghosts for one in offers.get(who, ())),
        key=lambda item: (_RANK[item[1].method], -(item[1].score or 0.0), item[0]),
    )
    for who, one in ranked:
        if who not in found and one.root not in taken:
            found[who] = one
            taken.add(one.root)
    return found


def carried_over(before: Sequence[Piece], after: Sequence[Piece]) -> dict[int, int]:
    """Old number -> new number of the local speakers that a new pass found again: four fifths of both agree."""
    old, new = _speech_ms(before), _speech_ms(after)
    shared: Counter[tuple[int, int]] = Counter()
    later = sorted(after, key=lambda piece: piece.start_ms)
    first = 0
    for piece in sorted(before, key=lambda piece: piece.start_ms):
        while first < len(later) and later[first].end_ms <= piece.start_ms and later[first].start_ms <= piece.start_ms:
            first += 1
        for other in later[first:]:
            if other.start_ms >= piece.end_ms:
                break
            ms = _shared_ms(piece.start_ms, piece.end_ms, other)
            if ms > 0 and piece.local_speaker is not None and other.local_speaker is not None:
                shared[piece.local_speaker, other.local_speaker] += ms
    return {a: b for (a, b), ms in shared.items() if ms >= KEPT_SHARE * max(old[a], new[b])}


def _speech_ms(pieces: Iterable[Piece]) -> Counter[int]:
    speech: Counter[int] = Counter()
    for piece in pieces:
        if piece.local_speaker is not None:
            speech[piece.local_speaker] += piece.end_ms - piece.start_ms
    return speech


def _under(mark: Mark, pieces: Sequence[Piece]) -> list[Piece]:
    """The segments that lie at least half under the mark; where none does, the one most under it."""
    covered = [(_shared_ms(mark.start_ms, mark.end_ms, piece), piece) for piece in pieces]
    half = [piece for ms, piece in covered if 2 * ms >= piece.end_ms - piece.start_ms]
    touched = max(covered, key=lambda item: item[0], default=(0, None))
    return half or ([touched[1]] if touched[1] is not None and touched[0] > 0 else [])


def _shared_ms(start_ms: int, end_ms: int, piece: Piece) -> int:
    return min(end_ms, piece.end_ms) - max(start_ms, piece.start_ms)


def _scope(mark: Mark | None) -> str | None:
    return None if mark is None else mark.scope
