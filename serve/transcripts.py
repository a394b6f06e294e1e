"""What was heard, in the shapes of OpenAI's transcriptions and in those of subtitles. Times in seconds."""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, Field

from cluster.conversation import Segment, Word, join_words
from cluster.formats import Transcript
from serve.models import Heard
from serve.names import Names

# ISO 639-2 for a language that nobody could tell: nothing was said.
UNDETERMINED = "und"


class Usage(BaseModel):
    """How long the recording is."""

    type: Literal["duration"] = "duration"
    seconds: float


class Transcription(BaseModel):
    """`json`: the text."""

    text: str
    usage: Usage


class TimedWord(BaseModel):
    """One word."""

    word: str
    start: float
    end: float


class TimedSegment(BaseModel):
    """A span of speech. `seek`, `tokens`, `temperature` and `no_speech_prob` are there for clients that expect them."""

    id: int
    seek: int = 0
    start: float
    end: float
    text: str
    tokens: list[int] = []
    temperature: float = 0.0
    avg_logprob: float = Field(description="The mean logarithm of the probabilities of its words.")
    compression_ratio: float = Field(description="Bytes of the text to those it takes when compressed.")
    no_speech_prob: float = 0.0


class VerboseTranscription(BaseModel):
    """`verbose_json`: segments, words or both, as `timestamp_granularities[]` asks."""

    task: Literal["transcribe"] = "transcribe"
    language: str = Field(description="Its code (`en`); `und` where nothing is said.")
    duration: float
    text: str
    segments: list[TimedSegment] | None = None
    words: list[TimedWord] | None = None
    usage: Usage


class SpokenSegment(BaseModel):
    """What one speaker says in one go."""

    type: Literal["transcript.text.segment"] = "transcript.text.segment"
    id: str
    start: float
    end: float
    text: str
    speaker: str = Field(description="The name that the corpus knows, else a letter of this recording, or UNKNOWN.")
    speaker_id: int | None = Field(description="The person of the corpus.")
    score: float | None = Field(description="How alike the voice is to that person's known ones (cosine).")


class DiarizedTranscription(BaseModel):
    """`diarized_json`: who says what."""

    task: Literal["transcribe"] = "transcribe"
    language: str
    duration: float
    text: str
    segments: list[SpokenSegment]
    note: str | None = Field(description="Why no voice has a name; null when voices were compared.")
    usage: Usage


def text_of(heard: Heard) -> str:
    """All words, in order."""
    return join_words(word for segment in _worded(heard) for word in segment.words)


def plain_body(heard: Heard) -> dict[str, Any]:
    """A `Transcription`."""
    return {"text": text_of(heard), "usage": usage_of(heard)}


def verbose_body(heard: Heard, granularities: Collection[str]) -> dict[str, Any]:
    """A `VerboseTranscription`."""
    segments = _worded(heard)
    body: dict[str, Any] = {
        "task": "transcribe",
        "language": heard.language or UNDETERMINED,
        "duration": heard.duration_ms / 1000,
        "text": text_of(heard),
    }
    if "segment" in granularities:
        body["segments"] = [_segment(number, segment) for number, segment in enumerate(segments)]
    if "word" in granularities:
        body["words"] = [_word(word) for segment in segments for word in segment.words]
    return {**body, "usage": usage_of(heard)}


def diarized_body(heard: Heard, names: Names) -> dict[str, Any]:
    """A `DiarizedTranscription`."""
    return {
        "task": "transcribe",
        "language": heard.language or UNDETERMINED,
        "duration": heard.duration_ms / 1000,
        "text": text_of(heard),
        "segments": [_spoken(number, segment, names) for number, segment in enumerate(_worded(heard))],
        "note": names.note,
        "usage": usage_of(heard),
    }


def transcript_of(name: str, heard: Heard, names: Names) -> Transcript:
    """What `cluster.formats` writes: the transcript that ingest stores, with the names known now."""
    segments = [Segment.from_row(row) for row in heard.segments]
    speakers = {segment.idx: names.who(segment.local_speaker) for segment in segments}
    return Transcript(name, heard.duration_ms, heard.language, segments, speakers)


def usage_of(heard: Heard) -> dict[str, Any]:
    """A `Usage`."""
    return {"type": "duration", "seconds": heard.duration_ms / 1000}


def _worded(heard: Heard) -> list[Segment]:
    return [segment for segment in map(Segment.from_row, heard.segments) if segment.text]


def _word(word: Word) -> dict[str, Any]:
    return {"word": word.text.strip(), "start": word.start_ms / 1000, "end": word.end_ms / 1000}


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    data = segment.text.encode()
    logs = [math.log(max(word.probability, 1e-9)) for word in segment.words]
    return {
        "id": number,
        "seek": 0,
        "start": segment.start_ms / 1000,
        "end": segment.end_ms / 1000,
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(sum(logs) / max(len(logs), 1), 4),
        "compression_ratio": round(len(data) / len(zlib.compress(data)), 4),
        "no_speech_prob": 0.0,
    }


def _spoken(number: int, segment: Segment, names: Names) -> dict[str, Any]:
    who = names.who(segment.local_speaker)
    return {
        "type": "transcript.text.segment",
        "id": f"seg_{number}",
        "start": segment.start_ms / 1000,
        "end": segment.end_ms / 1000,
        "text": segment.text,
        "speaker": who.shown,
        "speaker_id": who.speaker_id,
        "score": None if who.score is None else round(who.score, 4),
    }
