"""Recordings that clients send: multipart forms, each into a file of ours that does not outlive its request."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from fastapi import Request, UploadFile
from pydantic import BaseModel, ConfigDict, Field

from serve.encode import spend
from serve.errors import InvalidError
from serve.models import Heard, HearRequest
from serve.service import Service

Step = Literal["words", "turns", "voices"]

MOST_SPEAKERS = 1_000
MOST_NAME_CHARS = 100


class Recording(BaseModel):
    """A recording and how to hear it; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")

    file: UploadFile = Field(description="Any media file with sound; its content tells what it is, not its name.")
    model: str = Field(min_length=1, max_length=1_000, description="A model of `GET /v1/models`, or its role.")
    num_speakers: int | None = Field(None, ge=1, le=MOST_SPEAKERS, description="How many people speak, if known.")
    min_speakers: int | None = Field(None, ge=1, le=MOST_SPEAKERS)
    max_speakers: int | None = Field(None, ge=1, le=MOST_SPEAKERS)

    @property
    def name(self) -> str:
        """The client's name for the file, without folders and ending; never a path of ours."""
        stem = PurePosixPath((self.file.filename or "").replace("\\", "/")).stem
        printable = "".join(char if char.isprintable() else " " for char in stem)
        return " ".join(printable[:MOST_NAME_CHARS].split()).strip(".") or "recording"


async def hear(
    request: Request, service: Service, recording: Recording, steps: frozenset[Step], language: str | None = None
) -> Heard:
    """What the models hear in an upload; raises `InvalidError` for a form that contradicts itself."""
    await _check(request, recording)
    asked = HearRequest(
        steps, language, recording.num_speakers, recording.min_speakers, recording.max_speakers, recording.name
    )
    async with _kept(recording.file) as path:
        heard = await service.models.hear(path, asked)
    spend(request, heard.timing)
    return heard


async def _check(request: Request, recording: Recording) -> None:
    form = await request.form()
    for field in form:
        count = len(form.getlist(field))
        if count > 1 and not field.endswith("[]"):
            raise InvalidError(f"{field}: it is given {count} times, once is taken", param=field)
    if not recording.file.size:
        raise InvalidError("file: it is empty", param="file")
    low, high = recording.min_speakers, recording.max_speakers
    if recording.num_speakers is not None and (low or high):
        raise InvalidError("num_speakers: it excludes min_speakers and max_speakers", param="num_speakers")
    if low is not None and high is not None and low > high:
        raise InvalidError(f"min_speakers: {low} is more than max_speakers, {high}", param="min_speakers")


@asynccontextmanager
async def _kept(upload: UploadFile) -> AsyncGenerator[str]:
    """The path of a copy that has a name, which models on this node can open."""
    with tempfile.NamedTemporaryFile(prefix="rushes-upload-") as file:
        await asyncio.to_thread(_copy, upload.file, Path(file.name))
        yield file.name


def _copy(source: BinaryIO, path: Path) -> None:
    source.seek(0)
    with path.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
