"""`/v1/media/{sha256}/frames`: what is shown and when, thumbnails, and the picture at any time."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from cluster.db.connect import snapshot
from cluster.db.pictures import last_frame, thumbnail_of
from cluster.db.transcripts import readable_sources
from cluster.db.visual_cards import list_frames
from cluster.media.blobs import NoBlobError, StoreError, read_blob
from serve.errors import ConflictError, NotFoundError, UnavailableError, documented
from serve.fields import Millis, Sha, media_url
from serve.finding import read
from serve.lookups import asset_of
from serve.ranges import FOREVER, documented_content, is_known, ranged, unchanged
from serve.service import Serving

router = APIRouter()
Asset = Annotated[Sha, Path()]
JPEG = "image/jpeg"


class KeyFrame(BaseModel):
    """A picture that stands for what is shown around it; `shot` is null for an image."""

    idx: int
    t_ms: int
    shot: int | None
    is_informative: bool = Field(description="false for one that is flat or black.")
    phash: str = Field(description="Its perceptual hash, 16 hexadecimal digits.")
    thumbnail_url: str
    picture_url: str


class Shot(BaseModel):
    """What is filmed in one go."""

    idx: int
    start_ms: int
    end_ms: int


class Frames(BaseModel):
    """The keyframes of an asset and the shots they are in, in order of time."""

    data: list[KeyFrame]
    shots: list[Shot]


@router.get("/v1/media/{sha256}/frames", responses=documented(404))
async def frames_list(service: Serving, request: Request, sha256: Asset) -> Frames:
    """The keyframes of an asset; none where it is sound alone or its pictures wait to be read."""
    rows = await read(request, service, lambda conn: list_frames(conn, asset_of(conn, sha256)["asset_id"]))
    shots = {row["shot"]: Shot(idx=row["shot"], start_ms=row["shot_start_ms"], end_ms=row["shot_end_ms"])
             for row in rows if row["shot"] is not None}  # fmt: skip
    return Frames(data=[_frame(sha256, row) for row in rows], shots=list(shots.values()))


@router.head("/v1/media/{sha256}/frames/{t_ms}.jpg", include_in_schema=False)
@router.get(
    "/v1/media/{sha256}/frames/{t_ms}.jpg",
    response_class=Response,
    responses={**documented(404, 409), **documented_content(JPEG)},
)
async def picture(service: Serving, request: Request, sha256: Asset, t_ms: Annotated[Millis, Path()]) -> Response:
    """The picture that a player shows at a time, in full size; an image has one, at 0 as at any time."""

    def work(conn: Any) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any] | None]:
        with snapshot(conn):
            asset = asset_of(conn, sha256)
            asset_id = asset["asset_id"]
            return asset, readable_sources(conn, asset_id), last_frame(conn, asset_id, t_ms)

    asset, sources, anchor = await read(request, service, work)
    if asset["media_kind"] not in ("video", "image"):
        raise ConflictError("this asset is sound alone, or could not be read: it shows nothing")
    at_ms = 0 if asset["media_kind"] == "image" else t_ms
    etag = f'"{sha256[:32]}-{at_ms}"'
    if is_known(request, etag):
        return unchanged(etag)
    content = await service.media.picture(sources, asset["media_kind"], at_ms, anchor)
    return ranged(
        request,
        content,
        service.media.in_thread,
        etag=etag,
        media_type=JPEG,
        headers={"cache-control": FOREVER},
    )


@router.head("/v1/media/{sha256}/thumbnails/{idx}.jpg", include_in_schema=False)
@router.get(
    "/v1/media/{sha256}/thumbnails/{idx}.jpg",
    response_class=Response,
    responses={
        **documented(404, 409),
        200: {"description": "The picture.", "content": {JPEG: {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "The client has it already (`If-None-Match`)."},
    },
)
async def thumbnail(
    service: Serving, request: Request, sha256: Asset, idx: Annotated[int, Path(ge=0, le=2**31 - 1)]
) -> Response:
    """The small picture of a keyframe, by its number among those of the asset."""

    def work(conn: Any) -> str:
        found = thumbnail_of(conn, asset_of(conn, sha256)["asset_id"], idx)
        if found is None:
            raise NotFoundError(f"this asset has no keyframe {idx}", param="idx")
        return found

    named = await read(request, service, work)
    etag = f'"{named}"'
    # A frame of this number may become another when the asset is read anew.
    told = {"etag": etag, "cache-control": "private, max-age=3600"}
    if is_known(request, etag):
        return unchanged(etag, told["cache-control"])
    data = await service.media.in_thread(lambda: _stored(service.settings.store_root(), named))
    return Response(data, headers=told, media_type=JPEG)


def _stored(root: str, sha256: str) -> bytes:
    try:
        return read_blob(root, sha256)
    except NoBlobError as error:
        what = "the thumbnail is not in the store: `rushes ingest --lanes frames --force` makes it again"
        raise ConflictError(what) from error
    except StoreError as error:
        raise UnavailableError("the store of thumbnails cannot be read now") from error


def _frame(sha256: str, row: dict[str, Any]) -> KeyFrame:
    url = media_url(sha256)
    return KeyFrame(
        **{name: row[name] for name in ("idx", "t_ms", "shot", "is_informative", "phash")},
        thumbnail_url=f"{url}/thumbnails/{row['idx']}.jpg",
        picture_url=f"{url}/frames/{row['t_ms']}.jpg",
    )
