"""`/v1/audio`: what is said in a recording, who says it, and the vectors of the voices."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request
from pydantic import Field
from starlette.responses import Response

from cluster.formats import to_rttm, to_srt, to_vtt
from cluster.speakers.local_voices import LEAST_CLEAN_MS
from serve.encode import EncodingFormat, answer, encoded
from serve.errors import InvalidError, documented
from serve.models import Heard
from serve.names import Names, names_in
from serve.offered import find_card
from serve.service import Service, Serving
from serve.transcripts import (
    DiarizedTranscription,
    Transcription,
    VerboseTranscription,
    diarized_body,
    plain_body,
    text_of,
    transcript_of,
    usage_of,
    verbose_body,
)
from serve.uploads import Recording, Step, hear
from serve.voices import Diarization, VoiceVectors, diarization_body, turns_of, vectors_of

# Starlette takes a thousand files, each of them up to a MiB of memory or an open file; a second one is told by name.
router = APIRouter(tags=["audio"], form_limits={"max_files": 2, "max_fields": 100})

ALL: frozenset[Step] = frozenset({"words", "turns", "voices"})
WORDS: frozenset[Step] = frozenset({"words"})
TURNS: frozenset[Step] = frozenset({"turns"})
# What clients of OpenAI call a transcriber, whichever it is.
ANY_TRANSCRIBER = "whisper-1"
NAMED = ("srt", "vtt", "diarized_json")


class TranscriptionForm(Recording):
    """OpenAI's fields; what this service cannot do is refused, not ignored."""

    model: str = Field(
        min_length=1,
        max_length=1_000,
        description="`whisper-1` means the transcriber, whichever is served.",
        examples=["whisper-1"],
    )
    response_format: Literal["json", "text", "srt", "vtt", "verbose_json", "diarized_json"] = Field(
        "json",
        description="srt, vtt and diarized_json tell who speaks, with the names that the corpus knows; the others do "
        "not look for speakers and are faster.",
    )
    timestamp_granularities: list[Literal["word", "segment"]] = Field(
        [], alias="timestamp_granularities[]", description="For verbose_json; segment when none is given."
    )
    language: str | None = Field(None, pattern="^([A-Za-z]{2,3})?$", description="A code as `en`; else it is heard.")
    temperature: float = Field(0.0, ge=0, le=0, description="Only 0: decoding is repeatable.")
    chunking_strategy: Literal["auto"] = Field("auto", description="Windows are cut at pauses, always.")
    stream: bool = Field(False, description="Only false.")
    prompt: str = Field("", description="Only empty.")
    include: list[str] = Field([], alias="include[]", description="Only empty.")
    known_speaker_names: list[str] = Field([], alias="known_speaker_names[]", description="Only empty.")
    known_speaker_references: list[str] = Field([], alias="known_speaker_references[]", description="Only empty.")


class DiarizationForm(Recording):
    """Whom to tell apart, and how to say it."""

    response_format: Literal["json", "rttm"] = "json"
    names: bool = Field(True, description="Look for the names that the corpus knows; false is faster.")


class VoicesForm(Recording):
    """Whose vectors."""

    per: Literal["recording", "speaker"] = Field(
        "recording", description="One vector of all speech, for recordings of one person; or one per speaker."
    )
    encoding_format: EncodingFormat = Field("float", description="base64: little-endian float32.")


def _as(*kinds: str) -> dict[str, Any]:
    return {kind: {"schema": {"type": "string"}} for kind in kinds}


Multipart = Form(media_type="multipart/form-data")
_TRANSCRIBED: dict[str, Any] = {
    "model": DiarizedTranscription | VerboseTranscription | Transcription,
    "description": "In the format asked for.",
    "content": _as("text/plain", "application/x-subrip", "text/vtt"),
}
_DIARIZED: dict[str, Any] = {
    "model": Diarization, "description": "In the format asked for.", "content": _as("text/plain")
}  # fmt: skip


@router.post(
    "/v1/audio/transcriptions", response_model=None, responses={**documented(404), 200: _TRANSCRIBED}
)  # fmt: skip
async def transcriptions(request: Request, service: Serving, form: Annotated[TranscriptionForm, Multipart]) -> Response:
    """What is said, in the shapes of OpenAI; every answer is what ingest would store for the same recording."""
    find_card(service.models, "transcriber" if form.model == ANY_TRANSCRIBER else form.model, ("transcriber",))
    _refuse_unsupported(form)
    kind, language = form.response_format, (form.language or "").lower() or None
    if kind not in NAMED:
        heard = await hear(request, service, form, WORDS, language)
        if kind == "text":
            return _text(text_of(heard) + "\n")
        granularities = form.timestamp_granularities or ["segment"]
        return answer(plain_body(heard) if kind == "json" else verbose_body(heard, granularities))
    heard, names = await _hear_named(request, service, form, language)
    if kind == "diarized_json":
        return answer(diarized_body(heard, names))
    transcript = transcript_of(form.name, heard, names)
    return _text(to_srt(transcript), "application/x-subrip") if kind == "srt" else _text(to_vtt(transcript), "text/vtt")


@router.post("/v1/audio/diarization", response_model=None, responses={**documented(404), 200: _DIARIZED})
async def diarization(request: Request, service: Serving, form: Annotated[DiarizationForm, Multipart]) -> Response:
    """Who speaks when, with the names that the corpus knows."""
    find_card(service.models, form.model, ("diarizer",))
    if form.names:
        heard, names = await _hear_named(request, service, form)
    else:
        heard, names = await hear(request, service, form, TURNS), Names({}, note="no names: none were asked for")
    if form.response_format == "rttm":
        return _text(to_rttm(turns_of(form.name, heard, names)))
    return answer(diarization_body(heard, names))


@router.post("/v1/audio/embeddings", response_model=VoiceVectors, responses=documented(404))
async def voice_embeddings(request: Request, service: Serving, form: Annotated[VoicesForm, Multipart]) -> Response:
    """Vectors of voices, comparable to those of the corpus (`/v1/knn/voices`)."""
    card = find_card(service.models, form.model, ("voice",))
    heard = await hear(request, service, form, ALL)
    rows, skipped = vectors_of(heard, form.per)
    if not rows:
        raise InvalidError(
            f"file: no voice in it has {LEAST_CLEAN_MS / 1000:g} s of speech that nobody talks over", param="file"
        )
    vectors = [row.pop("vector") for row in rows]
    data = [
        {"object": "embedding", "index": index, "embedding": encoded(vector[None], form.encoding_format)[0], **row}
        for index, (vector, row) in enumerate(zip(vectors, rows, strict=True))
    ]
    body = {"object": "list", "data": data, "skipped": skipped, "model": card.model_id, "usage": usage_of(heard)}
    return answer(body)


def _refuse_unsupported(form: TranscriptionForm) -> None:
    reasons = {
        "stream": (form.stream, "the answer comes when the recording is heard"),
        "prompt": (form.prompt, "the recogniser takes none"),
        "include[]": (form.include, "there are no log probabilities of tokens; verbose_json has those of segments"),
        "known_speaker_names[]": (form.known_speaker_names, "names come from the corpus: `rushes speakers enroll`"),
        "known_speaker_references[]": (
            form.known_speaker_references, "voices come from the corpus: `rushes speakers enroll`",
        ),
        "timestamp_granularities[]": (
            form.timestamp_granularities and form.response_format != "verbose_json", "it goes with verbose_json",
        ),
    }  # fmt: skip
    for field, (given, reason) in reasons.items():
        if given:
            raise InvalidError(f"{field}: not supported: {reason}", param=field)


async def _hear_named(
    request: Request, service: Service, form: Recording, language: str | None = None
) -> tuple[Heard, Names]:
    voice = find_card(service.models, "voice", ("voice",))
    # A corpus that is away is told before the work, not after it.
    await service.corpus.check()
    heard = await hear(request, service, form, ALL, language)
    return heard, await service.corpus.run(lambda conn: names_in(conn, voice, heard))


def _text(content: str, media_type: str = "text/plain") -> Response:
    return Response(content, media_type=media_type)
