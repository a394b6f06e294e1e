"""`/v1/speakers`, to read: who is known, where they speak, who is not known, what was decided.

To forget a person for good is left to the command line (`rushes speakers forget NAME`): it cannot be undone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from cluster.db.speakers.history import Entry, read_history
from cluster.db.speakers.names import family_of
from cluster.db.speakers.people import (
    assets_of,
    count_ghosts,
    events_about,
    list_people,
    segments_of,
    speech_total,
    unknown_voices,
)
from cluster.words import short_uri
from serve.decided import Person
from serve.errors import documented
from serve.fields import Before, Id, Limit, Offset, clip_url, media_url, next_offset
from serve.lookups import person
from serve.routes import decisions
from serve.service import Serving

router = APIRouter(tags=["speakers"])


class Known(Person):
    """Somebody with a name; `segments_by_method` says how it came about: human, cluster, knn."""

    segments: int
    speech_ms: int
    assets: int
    segments_by_method: dict[str, int]
    last_decision: datetime | None


class Total(BaseModel):
    """Segments and speech of the corpus, and how much of it is of known people."""

    segments: int
    known: int
    unknown: int
    speech_ms: int
    known_ms: int


class KnownPage(BaseModel):
    """The people, most speech first."""

    speakers: list[Known]
    total: Total
    next_offset: int | None


class Spoken(BaseModel):
    """Something that is said, and where to hear it."""

    start_ms: int
    end_ms: int
    text: str
    clip_url: str


class HeardIn(BaseModel):
    """An asset in which the person speaks, with the longest of what is said."""

    sha256: str
    source: str
    media_url: str
    segments: int
    speech_ms: int
    segments_by_method: dict[str, int]
    longest: list[Spoken]


class EventAbout(BaseModel):
    """A decision about the person; `into` is whom a merge made of it."""

    event_id: int
    kind: str
    name: str | None
    into: str | None
    author: str
    at: datetime
    stands: bool


class PersonHeard(Person):
    """One person: where they are heard, and what was decided about them."""

    segments: int
    assets: list[HeardIn]
    events: list[EventAbout]
    next_offset: int | None


class Segment(Spoken):
    """A segment of the person; `score` is the voice's likeness where the machine gave the name."""

    sha256: str
    source: str
    media_url: str
    local_speaker: int | None
    method: str | None
    score: float | None


class SegmentPage(BaseModel):
    """What the person says, by asset and time."""

    segments: list[Segment]
    next_offset: int | None


class UnknownVoice(Spoken):
    """A voice of an asset that nobody has named, with its longest segment."""

    sha256: str
    source: str
    local_speaker: int
    segments: int
    speech_ms: int


class UnknownPage(BaseModel):
    """The voices without a name, most speech first; ghosts, which are no people most likely, are only counted."""

    voices: list[UnknownVoice]
    ghosts: int


class PlaceOf(BaseModel):
    """A time that a decision points at, and whom it named there; null: nobody known."""

    sha256: str
    source: str
    start_ms: int
    end_ms: int
    scope: str
    name: str | None


class Event(BaseModel):
    """One decision; `undone_by` is the event that took it back."""

    event_id: int
    at: datetime
    author: str
    kind: str
    what: str
    name: str | None
    into: str | None
    new_name: str | None
    undoes: int | None
    stands: bool
    undone_by: int | None
    places: list[PlaceOf]


class History(BaseModel):
    """The decisions, latest first; `next_before` begins the next page."""

    events: list[Event]
    next_before: int | None = Field(None, description="Give it as `before`; null after the last page.")


@router.get("/v1/speakers", responses=documented())
async def list_speakers(service: Serving, limit: Limit = 100, offset: Offset = 0) -> KnownPage:
    """The people: what they say, in how many assets, and how that is known."""
    rows, total = await service.corpus.run(lambda conn: (list_people(conn), speech_total(conn)))
    known = [Known(**row) for row in rows[offset : offset + limit]]
    return KnownPage(speakers=known, total=Total(**total), next_offset=next_offset(offset, limit, len(rows)))


@router.get("/v1/speakers/unknown", responses=documented())
async def list_unknown(service: Serving, limit: Limit = 20) -> UnknownPage:
    """The voices nobody has named, and where to listen."""
    rows, ghosts = await service.corpus.run(lambda conn: (unknown_voices(conn, limit), count_ghosts(conn)))
    return UnknownPage(voices=[UnknownVoice(**_heard_at(row, row["sha256"])) for row in rows], ghosts=ghosts)


@router.get("/v1/speakers/history", responses=documented())
async def history(service: Serving, speaker_id: Id | None = None, limit: Limit = 50, before: Before = None) -> History:
    """What was decided about people, or about one and those merged with them, latest first."""

    def work(conn: Any) -> Sequence[Entry]:
        people = None if speaker_id is None else family_of(conn, [speaker_id])
        return read_history(conn, people=people, before=before, limit=limit + 1)

    found = await service.corpus.run(work)
    events = [_event(entry) for entry in found[:limit]]
    return History(events=events, next_before=events[-1].event_id if len(found) > limit else None)


router.include_router(decisions.router)


@router.get("/v1/speakers/{speaker_id}", responses=documented(404))
async def read_speaker(service: Serving, speaker_id: Id, limit: Limit = 50, offset: Offset = 0) -> PersonHeard:
    """One person: the assets they are heard in, by name, and the decisions about them."""

    def work(conn: Any) -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]:
        who = person(conn, speaker_id)
        return who, assets_of(conn, who.speaker_id), events_about(conn, who.speaker_id)

    who, assets, events = await service.corpus.run(work)
    return PersonHeard(
        speaker_id=who.speaker_id,
        name=who.name,
        segments=sum(row["segments"] for row in assets),
        assets=[_heard_in(row) for row in assets[offset : offset + limit]],
        events=[EventAbout(**row) for row in events],
        next_offset=next_offset(offset, limit, len(assets)),
    )


@router.get("/v1/speakers/{speaker_id}/segments", responses=documented(404))
async def read_segments(service: Serving, speaker_id: Id, limit: Limit = 100, offset: Offset = 0) -> SegmentPage:
    """What the person says, with addresses to hear it."""
    rows = await service.corpus.run(
        lambda conn: segments_of(conn, person(conn, speaker_id).speaker_id, limit + 1, offset)
    )
    segments = [Segment(**_heard_at(row, row["sha256"])) for row in rows[:limit]]
    return SegmentPage(segments=segments, next_offset=offset + limit if len(rows) > limit else None)


def _heard_at(row: dict[str, Any], sha256: str) -> dict[str, Any]:
    """The row with addresses, its source by the last two parts."""
    where = {"source": short_uri(row["name"])} if "name" in row else {}
    return row | where | {"clip_url": clip_url(sha256, row["start_ms"], row["end_ms"]), "media_url": media_url(sha256)}


def _heard_in(row: dict[str, Any]) -> HeardIn:
    longest = [Spoken(**_heard_at(spoken, row["sha256"])) for spoken in row["longest"]]
    where = {"source": short_uri(row["name"]), "media_url": media_url(row["sha256"])}
    return HeardIn.model_validate(row | where | {"longest": longest})


def _event(entry: Entry) -> Event:
    places = [PlaceOf.model_validate(asdict(place) | {"source": short_uri(place.asset)}) for place in entry.places]
    return Event.model_validate(asdict(entry) | {"event_id": entry.event, "what": entry.in_words(), "places": places})
