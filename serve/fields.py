"""Fields that many routes have: ids, names, pages, times, and the addresses that answers point to."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cluster.db.speakers.names import clean_name
from cluster.errors import UsageError

MOST_ID = 2**63 - 1
MOST_MS = 2**31 - 1
LONGEST_PAGE = 500


def _person(name: str) -> str:
    try:
        return clean_name(name)
    except UsageError as error:
        raise ValueError(str(error)) from error


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it has characters that cannot be printed")
    return text


Sha = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="An asset: the SHA-256 of its content, 64 digits.")]
Id = Annotated[int, Field(ge=1, le=MOST_ID)]
Millis = Annotated[int, Field(ge=0, le=MOST_MS)]
PersonName = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_person)]
LabelName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Limit = Annotated[int, Query(ge=1, le=LONGEST_PAGE, description="At most this many.")]
Offset = Annotated[int, Query(ge=0, le=MOST_MS, description="Leave out the first so many.")]
Before = Annotated[int | None, Query(ge=1, le=MOST_ID, description="Only events before this one.")]


class Asked(BaseModel):
    """The body of a request: unknown fields and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Undo(Asked):
    """Which decision to take back."""

    event_id: Id | None = Field(None, description="Its number; none: the latest that stands.")


def next_offset(offset: int, limit: int, total: int) -> int | None:
    """Where the next page begins; None after the last one."""
    return offset + limit if offset + limit < total else None


def media_url(sha256: str) -> str:
    """What is known of an asset."""
    return f"/v1/media/{sha256}"


def clip_url(sha256: str, start_ms: int, end_ms: int) -> str:
    """These milliseconds of an asset, to listen to or look at."""
    return f"{media_url(sha256)}/clip?start_ms={start_ms}&end_ms={end_ms}"
