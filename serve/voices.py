"""Who speaks in a recording, as JSON and RTTM, and the vectors of those voices. Times in seconds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from cluster.conversation import Segment
from cluster.formats import Transcript
from serve.models import Heard
from serve.names import Names
from serve.transcripts import Usage, usage_of


class HeardSpeaker(BaseModel):
    """Somebody who speaks, and how long, in seconds."""

    speaker: str = Field(description="The name that the corpus knows, else a letter of this recording, or UNKNOWN.")
    speaker_id: int | None
    score: float | None
    speech: float


class SpeakerTurn(BaseModel):
    """A span in which one voice speaks."""

    speaker: str
    start: float
    end: float


class Diarization(BaseModel):
    """Who speaks when, in seconds."""

    duration: float
    speakers: list[HeardSpeaker]
    turns: list[SpeakerTurn]
    note: str | None = Field(description="Why no voice has a name; null when voices were compared.")
    usage: Usage


class VoiceVector(BaseModel):
    """A unit vector; `speaker` is null where it is of the whole recording, `speech` and `clean` are seconds."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str
    speaker: str | None
    speech: float | None
    clean: float | None


class VoiceVectors(BaseModel):
    """Vectors of voices; `skipped` are the speakers with too little clean speech for one."""

    object: Literal["list"] = "list"
    data: list[VoiceVector]
    skipped: list[str]
    model: str
    usage: Usage


def turns_of(name: str, heard: Heard, names: Names) -> Transcript:
    """The turns, for RTTM."""
    turns = [
        Segment(number, turn["start_ms"], turn["end_ms"], turn["local_speaker"], "", (), None)
        for number, turn in enumerate(heard.turns)
    ]
    speakers = {turn.idx: names.who(turn.local_speaker) for turn in turns}
    return Transcript(name, heard.duration_ms, None, turns, speakers)


def diarization_body(heard: Heard, names: Names) -> dict[str, Any]:
    """A `Diarization`."""
    speech_ms: dict[int | None, int] = {}
    for turn in heard.turns:
        who = turn["local_speaker"]
        speech_ms[who] = speech_ms.get(who, 0) + turn["end_ms"] - turn["start_ms"]
    speakers = [(names.who(number), ms) for number, ms in speech_ms.items()]
    return {
        "duration": heard.duration_ms / 1000,
        "speakers": [
            {
                "speaker": who.shown,
                "speaker_id": who.speaker_id,
                "score": None if who.score is None else round(who.score, 4),
                "speech": ms / 1000,
            }
            for who, ms in speakers
        ],
        "turns": [
            {
                "speaker": names.who(turn["local_speaker"]).shown,
                "start": turn["start_ms"] / 1000,
                "end": turn["end_ms"] / 1000,
            }
            for turn in heard.turns
        ],
        "note": names.note,
        "usage": usage_of(heard),
    }


def vectors_of(heard: Heard, per: str) -> tuple[list[dict[str, Any]], list[str]]:
    """What there is a vector of, and the letters of the speakers without one."""
    if per == "recording":
        whole = {"vector": heard.whole, "speaker": None, "speech": None, "clean": None}
        return ([whole] if heard.whole is not None else []), []
    nobody = Names({})
    named = [(nobody.who(one.local_speaker).shown, one) for one in heard.voices]
    rows = [
        {"vector": one.vector, "speaker": letter, "speech": one.speech_ms / 1000, "clean": one.clean_ms / 1000}
        for letter, one in named
        if one.vector is not None
    ]
    return rows, [letter for letter, one in named if one.vector is None]
