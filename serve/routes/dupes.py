"""`/v1/dupes`: assets that show the same, found by the machine and decided by people."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, model_validator

from cluster.db.duplicates import decisions
from cluster.db.duplicates.decisions import Entry, resolve_copies, resolve_different
from cluster.db.duplicates.find import waiting
from cluster.db.duplicates.groups import Group, Member, read_groups, with_members
from cluster.words import short_uri
from serve.access import Writer
from serve.errors import ConflictError, NotFoundError, documented
from serve.fields import Asked, Before, Limit, Offset, Sha, Undo, media_url, next_offset
from serve.lookups import asset_ids, refused_as
from serve.service import Serving

router = APIRouter(tags=["dupes"])


class Likely(BaseModel):
    """An asset of a group, the largest picture or longest video first."""

    sha256: str
    source: str = Field(description="The last two parts of where it was found.")
    media_kind: str
    duration_ms: int | None
    width: int | None
    height: int | None
    byte_size: int
    sources: int
    media_url: str
    thumbnail_url: str = Field(description="Its first picture.")


class Likeness(BaseModel):
    """Two assets that are alike: a moment t of b is t + `offset_ms` of a; `decided` is copy, different or null."""

    asset_a: str
    asset_b: str
    method: str
    distance: float
    coverage_a: float
    coverage_b: float
    offset_ms: int
    similarity: float | None
    decided: str | None


class DupesGroup(BaseModel):
    """Assets that pairs connect, and those pairs."""

    assets: list[Likely]
    pairs: list[Likeness]


class DupesPage(BaseModel):
    """Groups of near duplicates, the largest first; `not_compared` assets wait for `rushes dupes find`."""

    groups: list[DupesGroup]
    total: int
    not_compared: int
    next_offset: int | None


class Resolve(Asked):
    """Which asset stands for its copies, or which assets are different from each other."""

    keep: Sha | None = None
    copies: Annotated[list[Sha], Field(max_length=500)] = Field(default_factory=list)
    different: Annotated[list[Sha], Field(max_length=50)] = Field(default_factory=list)
    dry_run: bool = False

    @model_validator(mode="after")
    def _either(self) -> Resolve:
        if bool(self.different) == (self.keep is not None):
            raise ValueError("give keep and copies, or different")
        if (self.keep is None) != (not self.copies):
            raise ValueError("keep and copies belong together")
        if self.keep in self.copies:
            raise ValueError("an asset cannot be a copy of itself: keep is among copies")
        if self.different and len(set(self.different)) < max(2, len(self.different)):
            raise ValueError("different takes two or more assets, each once")
        return self


class Resolved(BaseModel):
    """The decisions made: none for what is decided already. `events` is empty after a dry run."""

    events: list[int] = Field(description="`POST /v1/dupes/undo` with one takes it back.")
    decisions: int
    author: str
    dry_run: bool


class DupesEvent(BaseModel):
    """One decision about two assets; `kept` stands for the other one, null for different ones."""

    event_id: int
    at: datetime
    author: str
    verdict: str
    what: str
    asset_a: str
    asset_b: str
    kept: str | None
    undoes: int | None
    undone_by: int | None


class DupesHistory(BaseModel):
    """The decisions, latest first; `next_before` begins the next page."""

    events: list[DupesEvent]
    next_before: int | None


class TakenBack(BaseModel):
    """The decision that was taken back: its pair waits for one again."""

    undoes: int
    what: str
    author: str


@router.get("/v1/dupes", responses=documented(404))
async def list_dupes(
    service: Serving,
    limit: Limit = 50,
    offset: Offset = 0,
    decided: Annotated[bool, Query(description="Those that people decided about too.")] = False,
    asset: Annotated[Sha | None, Query()] = None,
) -> DupesPage:
    """The pairs that nobody decided about, in groups of assets that belong together."""

    def work(conn: Any) -> DupesPage:
        asset_id = None if asset is None else asset_ids(conn, [asset])[0]
        groups = read_groups(conn, decided=decided, asset_id=asset_id)
        shown = [_group(with_members(conn, pairs)) for pairs in groups[offset : offset + limit]]
        return DupesPage(
            groups=shown,
            total=len(groups),
            not_compared=len(waiting(conn)),
            next_offset=next_offset(offset, limit, len(groups)),
        )

    return await service.corpus.run(work)


@router.post("/v1/dupes/resolve", responses=documented(404, 409))
async def resolve(service: Serving, key: Writer, asked: Resolve) -> Resolved:
    """Say which assets are copies of one, or that assets are different; it holds until it is taken back."""

    def work(conn: Any) -> Resolved:
        with conn.transaction(force_rollback=asked.dry_run):
            if asked.keep is not None:
                [keep] = asset_ids(conn, [asked.keep], "keep")
                made = resolve_copies(conn, keep, asset_ids(conn, asked.copies, "copies"), key.name)
            else:
                made = resolve_different(conn, asset_ids(conn, asked.different, "different"), key.name)
        events = [] if asked.dry_run else made
        return Resolved(events=events, decisions=len(made), author=key.name, dry_run=asked.dry_run)

    return await service.corpus.write(work)


@router.post("/v1/dupes/undo", responses=documented(404, 409))
async def undo(service: Serving, key: Writer, asked: Undo | None = None) -> TakenBack:
    """Take a decision back, the latest that stands when no number is given."""
    event_id = None if asked is None else asked.event_id

    def work(conn: Any) -> Entry:
        if event_id is not None and not list(decisions.read_history(conn, event_id=event_id)):
            raise NotFoundError(f"there is no event {event_id}", param="event_id")
        with refused_as(ConflictError, "event_id"):
            return decisions.undo(conn, event_id, key.name)

    taken = await service.corpus.write(work)
    return TakenBack(undoes=taken.event, what=taken.in_words(), author=key.name)


@router.get("/v1/dupes/history", responses=documented(404))
async def history(
    service: Serving, asset: Annotated[Sha | None, Query()] = None, limit: Limit = 50, before: Before = None
) -> DupesHistory:
    """What people decided about copies, latest first; of one asset where one is given."""

    def work(conn: Any) -> list[Entry]:
        asset_id = None if asset is None else asset_ids(conn, [asset])[0]
        return list(decisions.read_history(conn, asset_id=asset_id, before=before, limit=limit + 1))

    found = await service.corpus.run(work)
    events = [_event(entry) for entry in found[:limit]]
    return DupesHistory(events=events, next_before=events[-1].event_id if len(found) > limit else None)


def _group(group: Group) -> DupesGroup:
    shas = {one.asset_id: one.sha256 for one in group.members}
    pairs = [asdict(pair) | {"asset_a": shas[pair.asset_a], "asset_b": shas[pair.asset_b]} for pair in group.pairs]
    return DupesGroup.model_validate({"assets": [_member(one) for one in group.members], "pairs": pairs})


def _member(one: Member) -> dict[str, Any]:
    where = media_url(one.sha256)
    links = {"media_url": where, "thumbnail_url": f"{where}/thumbnails/0.jpg"}
    return asdict(one) | {"source": short_uri(one.name), "sources": len(one.sources)} | links


def _event(entry: Entry) -> DupesEvent:
    shas = {entry.asset_a: entry.sha256_a, entry.asset_b: entry.sha256_b}
    kept = None if entry.kept is None else shas[entry.kept]
    values = {"event_id": entry.event, "asset_a": entry.sha256_a, "asset_b": entry.sha256_b, "kept": kept}
    return DupesEvent.model_validate(asdict(entry) | values | {"what": entry.in_words()})
