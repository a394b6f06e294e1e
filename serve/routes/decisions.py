"""`/v1/speakers`, to write: label, rename, merge, split, undo, and recognition as a job."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field, model_validator
from starlette.responses import JSONResponse

from cluster.db.assets import shas_and_names
from cluster.db.speakers.actions import merge, rename, split, undo
from cluster.db.speakers.events import Target, point_at, read_event, targets_of
from cluster.db.speakers.history import read_history
from cluster.db.speakers.pointing import point_at_voice
from cluster.words import short_uri
from serve.access import Writer
from serve.decided import Decided, decided, one_decision
from serve.errors import ApiError, BusyError, ConflictError, NotFoundError, documented
from serve.fields import Asked, Id, Millis, PersonName, Sha, Undo
from serve.labels import Label, Labelled, Voices, write_label
from serve.lookups import asset_ids, person, refused_as
from serve.service import Service, Serving
from serve.submission import Selection, Submitted, submit, submit_over

router = APIRouter()


class Rename(Asked):
    """What the person is called from now on."""

    name: PersonName
    dry_run: bool = False


class Merge(Asked):
    """Two that are one: `from_id` becomes `into_id`."""

    from_id: Id
    into_id: Id
    dry_run: bool = False

    @model_validator(mode="after")
    def _two(self) -> Merge:
        if self.from_id == self.into_id:
            raise ValueError("from_id and into_id are the same: nobody can be merged into themselves")
        return self


class VoiceAt(Asked):
    """A voice of an asset: the one it has, or the one that speaks at a time."""

    asset: Sha
    at_ms: Millis | None = None


class Split(Asked):
    """Voices of a person that are somebody else's."""

    into: PersonName
    voices: Annotated[list[VoiceAt], Field(min_length=1, max_length=500)]
    dry_run: bool = False


class UndoPeople(Undo):
    """Which decision to take back; an undo taken back brings the decision back."""

    dry_run: bool = False


class Undone(Decided):
    """What followed; `undoes` is the event that was taken or brought back, `what` says what it was."""

    undoes: int
    what: str


class Identify(Selection):
    """In which assets to recognise unknown voices, and whether to look at those again that were recognised before."""

    again: bool = False


@router.post("/v1/speakers/label", responses=documented(404, 409))
async def label_voice(service: Serving, key: Writer, asked: Label) -> Labelled:
    """Say whose voice it is. Its cluster takes the name as far as it is alike; no model is asked.

    An asset that was transcribed without voices is labelled all the same; the job that extracts them is begun.
    """
    return await label_and_extract(service, asked, key.name)


async def label_and_extract(service: Service, asked: Label, author: str) -> Labelled:
    """Write the label, then begin the job that extracts voices where there are none."""
    found = await service.corpus.write(lambda conn: write_label(conn, service.settings, asked, author))
    if found.voices.missing and not asked.dry_run:
        found.voices = await _extract(service, found.place.sha256)
    return found


async def _extract(service: Service, sha256: str) -> Voices:
    # The label stands already: where no job can be begun now, the answer says how to begin it later.
    try:
        job = await submit(service, ["speakers", "voices", "--", sha256])
    except BusyError as error:
        return Voices(missing=True, note=f"no job was begun ({error}): `rushes speakers voices {sha256[:12]}`")
    note = "the name follows to others when the voices are there"
    return Voices(missing=True, job_id=job.job_id, job_url=job.job_url, note=note)


@router.post("/v1/speakers/merge", responses=documented(404, 409))
async def merge_speakers(service: Serving, key: Writer, asked: Merge) -> Decided:
    """Say that two people are one: the first takes the name of the second, with all that is named so."""

    def work(conn: Any) -> Decided:
        one, other = person(conn, asked.from_id, "from_id"), person(conn, asked.into_id, "into_id")
        return decided(conn, lambda: merge(conn, one.name, other.name, key.name), key.name, dry_run=asked.dry_run)

    return await service.corpus.write(lambda conn: one_decision(conn, lambda: work(conn)))


@router.post("/v1/speakers/undo", responses=documented(404, 409))
async def undo_decision(service: Serving, key: Writer, asked: UndoPeople | None = None) -> Undone:
    """Take a decision back, with all that followed from it; what was before is there again, exactly."""
    wanted = asked or UndoPeople()
    return await service.corpus.write(lambda conn: one_decision(conn, lambda: _undo(conn, wanted, key.name)))


def _undo(conn: Any, wanted: UndoPeople, author: str) -> Undone:
    absent: type[ApiError] = ConflictError if wanted.event_id is None else NotFoundError
    with refused_as(absent, "event_id"):
        number = read_event(conn, wanted.event_id).event_id
    with refused_as(ConflictError, "event_id"):
        about = read_event(conn, number).undoes or number
        found = decided(
            conn, lambda: undo(conn, number, author), author, targets_of(conn, about), dry_run=wanted.dry_run
        )
    [entry] = read_history(conn, event_ids=[about])
    return Undone(**dict(found), undoes=about, what=entry.in_words())


@router.post("/v1/speakers/identify", status_code=202, response_model=Submitted, responses=documented(404))
async def identify(service: Serving, key: Writer, asked: Identify | None = None) -> JSONResponse:
    """Begin the job that gives unknown voices the names of the people they are alike enough."""
    chosen = asked or Identify()
    return await submit_over(service, ["speakers", "identify", *(["--again"] if chosen.again else [])], chosen)


@router.post("/v1/speakers/{speaker_id}/rename", responses=documented(404, 409))
async def rename_speaker(service: Serving, key: Writer, speaker_id: Id, asked: Rename) -> Decided:
    """Give the person another name, everywhere at once; 409 when somebody else has it."""

    def work(conn: Any) -> Decided:
        who = person(conn, speaker_id)
        with refused_as(ConflictError, "name"):
            return decided(conn, lambda: rename(conn, who.name, asked.name, key.name), key.name, dry_run=asked.dry_run)

    return await service.corpus.write(lambda conn: one_decision(conn, lambda: work(conn)))


@router.post("/v1/speakers/{speaker_id}/split", responses=documented(404, 409))
async def split_speaker(service: Serving, key: Writer, speaker_id: Id, asked: Split) -> Decided:
    """Take voices from the person and give them to another; each must be the person's."""

    def work(conn: Any) -> Decided:
        who, targets = person(conn, speaker_id), _targets(conn, asked.voices)
        return decided(
            conn,
            lambda: split(conn, who.name, asked.into, targets, key.name),
            key.name,
            targets,
            dry_run=asked.dry_run,
        )

    return await service.corpus.write(lambda conn: one_decision(conn, lambda: work(conn)))


def _targets(conn: Any, voices: list[VoiceAt]) -> list[Target]:
    ids = asset_ids(conn, [voice.asset for voice in voices], "voices")
    names = {asset_id: short_uri(name) for asset_id, (_, name) in shas_and_names(conn, ids).items()}
    return [
        point_at_voice(conn, asset_id, names[asset_id])
        if voice.at_ms is None
        else point_at(conn, asset_id, names[asset_id], voice.at_ms)
        for asset_id, voice in zip(ids, voices, strict=True)
    ]
