"""`/v1/media`: what is known of the assets, their transcripts, originals and cut clips."""

from __future__ import annotations

from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from cluster.db.assets import Page, list_assets
from cluster.db.connect import snapshot
from cluster.db.filter import AssetFilter, matching
from cluster.db.pictures import last_frame
from cluster.db.report import assets_table
from cluster.db.speakers.who import voices_of
from cluster.db.transcripts import name_asset, read_transcript, readable_sources
from cluster.formats import FORMATS
from cluster.media.clip import ClipSpec, Form
from cluster.speakers.who import Who
from cluster.words import short_uri
from serve.errors import ConflictError, InvalidError, TooLargeError, documented
from serve.fields import MOST_MS, Limit, Offset, Sha, media_url, next_offset
from serve.finding import read
from serve.lookups import asset_of
from serve.media_types import CLIPS, ORIGINALS, TRANSCRIPTS, disposition, original_type
from serve.ranges import FOREVER, documented_content, ranged
from serve.routes import frames
from serve.service import Serving

router = APIRouter(tags=["media"])
router.include_router(frames.router)

Asset = Annotated[Sha, Path()]
Names = Annotated[list[str], Query(max_length=100)]
MOST_CLIP_MS = 600_000
# What a probe calls the length, and what there is to hear, differ by a little.
SLACK_MS = 1_000


class Spoken(BaseModel):
    """One speaker of an asset: by name where there is one, else by the letter of the voice."""

    local_speaker: int | None
    speaker_id: int | None
    name: str
    method: str | None
    segments: int


class Media(BaseModel):
    """An asset. `sources` are the last two parts of each place that leads to it, `lanes` say how far its work is."""

    sha256: Sha
    kind: Literal["video", "audio", "image"] | None = Field(description="null: the content could not be read.")
    duration_ms: int | None
    recorded_at: datetime | None
    title: str | None
    channel: str | None
    tags: list[str]
    collections: list[str]
    sources: list[str]
    lanes: dict[str, str]
    speakers: list[Spoken]
    media_url: str


class MediaFacts(Media):
    """An asset with what the probe found, and the addresses of all there is of it; null: there is no such thing."""

    size_bytes: int
    container: str | None
    width: int | None
    height: int | None
    fps: float | None
    sample_rate_hz: int | None
    channels: int | None
    original_url: str
    clip_url: str | None = Field(description="Add `start_ms` and `end_ms`.")
    frames_url: str | None
    transcript_urls: dict[str, str]


class MediaList(BaseModel):
    """A page of assets, by name."""

    data: list[Media]
    next_offset: int | None


@router.get("/v1/media", responses=documented())
async def media_list(
    service: Serving,
    request: Request,
    channel: Names = [],  # noqa: B006 - FastAPI copies it
    tag: Names = [],  # noqa: B006
    collection: Names = [],  # noqa: B006
    kind: Annotated[list[Literal["video", "audio", "image"]], Query()] = [],  # noqa: B006
    limit: Limit = 50,
    offset: Offset = 0,
) -> MediaList:
    """The assets by name; names of one kind are alternatives, and every kind that is given must hold."""
    chosen = AssetFilter(tuple(channel), tuple(tag), tuple(collection), kinds=tuple(kind))

    def work(conn: Any) -> tuple[list[dict[str, Any]], dict[int, dict[Who, int]]]:
        with snapshot(conn):
            ids = matching(conn, chosen) if chosen else None
            rows = list_assets(conn, Page(ids, limit=limit + 1, offset=offset))
            return rows, voices_of(conn, [row["asset_id"] for row in rows])

    rows, voices = await read(request, service, work)
    shown = [Media(**_media(row, voices.get(row["asset_id"], {}))) for row in rows[:limit]]
    return MediaList(data=shown, next_offset=next_offset(offset, limit, offset + len(rows)))


@router.get("/v1/media/{sha256}", responses=documented(404))
async def media_facts(service: Serving, request: Request, sha256: Asset) -> MediaFacts:
    """What is known of an asset, and where the rest of it is."""

    def work(conn: Any) -> MediaFacts:
        with snapshot(conn):
            asset = asset_of(conn, sha256)
            (row,) = assets_table(conn, [asset["asset_id"]])
            voices = voices_of(conn, [asset["asset_id"]]).get(asset["asset_id"], {})
        return MediaFacts(**_media(row, voices), **_facts(asset))

    return await read(request, service, work)


@router.head("/v1/media/{sha256}/transcript.{form}", include_in_schema=False)
@router.get(
    "/v1/media/{sha256}/transcript.{form}",
    response_class=Response,
    responses={
        **documented(404, 409),
        200: {"content": {kind: {} for kind in dict.fromkeys(TRANSCRIPTS.values())}, "description": "The transcript."},
    },
)
async def transcript(
    service: Serving,
    request: Request,
    sha256: Asset,
    form: Literal["json", "srt", "vtt", "txt", "rttm", "csv"],
) -> Response:
    """What is said, with the names known now; 409 for an asset without a transcript."""

    def work(conn: Any) -> str:
        with snapshot(conn):
            asset_id = asset_of(conn, sha256)["asset_id"]
            found = read_transcript(conn, name_asset(conn, asset_id))
            if found is None:
                (row,) = assets_table(conn, [asset_id])
                why = _without_paths(row["reason"], row["uris"]) or "run `rushes ingest` on it first"
                raise ConflictError(f"this asset has no transcript: {why}", code="no_transcript")
        return FORMATS[form](found)

    text = await read(request, service, work)
    headers = {"cache-control": "no-cache"}
    return Response(text.encode("utf-8", "replace"), headers=headers, media_type=TRANSCRIPTS[form])


@router.head("/v1/media/{sha256}/original", include_in_schema=False)
@router.get(
    "/v1/media/{sha256}/original",
    response_class=Response,
    responses={**documented(404, 409), **documented_content(*ORIGINALS)},
)
async def original(service: Serving, request: Request, sha256: Asset) -> Response:
    """The registered content, whole or the part that `Range` names; 409 when no source has it any more."""
    asset, sources = await _with_sources(service, request, sha256)
    content = await service.media.original(sources)
    name = PurePosixPath(short_uri(sources[0]["uri"])).name
    return ranged(
        request,
        content,
        lambda piece: service.media.in_thread(piece, sources),
        etag=f'"{sha256}"',
        media_type=original_type(asset["media_kind"], asset["container"], name),
        headers={"content-disposition": disposition(name), "cache-control": FOREVER},
    )


@router.head("/v1/media/{sha256}/clip", include_in_schema=False)
@router.get(
    "/v1/media/{sha256}/clip",
    response_class=Response,
    responses={**documented(404, 409), **documented_content(*CLIPS.values())},
)
async def clip(
    service: Serving,
    request: Request,
    sha256: Asset,
    start_ms: Annotated[int, Query(ge=0, le=MOST_MS)],
    end_ms: Annotated[int, Query(ge=1, le=MOST_MS)],
    form: Annotated[Form | None, Query(description="Without it MP4 for a video, M4A for sound.")] = None,
) -> Response:
    """A part of the recording as a file of its own, at most ten minutes.

    MP4 begins with the picture shown at the start. WAV holds the samples that the models heard (16 kHz, mono), M4A
    the sound as it was recorded.
    """
    asset, sources = await _with_sources(service, request, sha256)
    spec = _spec(asset, start_ms, end_ms, form)
    anchor = None
    if spec.form == "mp4":
        anchor = await read(request, service, lambda conn: last_frame(conn, asset["asset_id"], start_ms))
    content = await service.media.clip(sources, spec, anchor)
    name = f"{PurePosixPath(short_uri(sources[0]['uri'])).stem}.{start_ms}-{end_ms}.{spec.form}"
    return ranged(
        request,
        content,
        service.media.in_thread,
        etag=f'"{sha256[:32]}-{start_ms}-{end_ms}-{content.size_bytes:x}-{content.stamp.mtime_ns:x}"',
        media_type=CLIPS[spec.form],
        headers={"content-disposition": disposition(name), "cache-control": "private, max-age=86400"},
    )


async def _with_sources(service: Serving, request: Request, sha256: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    def work(conn: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        asset = asset_of(conn, sha256)
        return asset, readable_sources(conn, asset["asset_id"])

    asset, sources = await read(request, service, work)
    if not sources:
        raise ConflictError("no source leads to this asset any more: ingest it from where it is now", code="no_source")
    return asset, sources


def _spec(asset: dict[str, Any], start_ms: int, end_ms: int, form: Form | None) -> ClipSpec:
    """What to cut; raises the error that names the field which makes no sense."""
    kind, duration_ms = asset["media_kind"], asset["duration_ms"]
    if kind not in ("video", "audio"):
        what = "is an image: its original is all there is" if kind == "image" else "could not be read"
        raise ConflictError(f"this asset {what}; nothing can be cut from it")
    form = form or ("mp4" if kind == "video" else "m4a")
    if form == "mp4" and kind == "audio":
        raise InvalidError("form: this asset is sound alone: ask for m4a or wav", param="form")
    if form != "mp4" and asset["audio_stream"] is None:
        raise InvalidError("form: this asset has no sound: ask for mp4", param="form")
    if end_ms <= start_ms:
        raise InvalidError(f"end_ms: {end_ms} is not after start_ms {start_ms}", param="end_ms")
    if end_ms - start_ms > MOST_CLIP_MS:
        raise TooLargeError(f"end_ms: a clip has at most {MOST_CLIP_MS} ms, not {end_ms - start_ms}", param="end_ms")
    if duration_ms is not None and start_ms >= duration_ms:
        raise InvalidError(f"start_ms: the asset ends at {duration_ms} ms", param="start_ms")
    if duration_ms is not None and end_ms > duration_ms + SLACK_MS:
        raise InvalidError(f"end_ms: the asset ends at {duration_ms} ms", param="end_ms")
    end_ms = end_ms if duration_ms is None else min(end_ms, duration_ms)
    return ClipSpec(form, start_ms, end_ms, asset["audio_stream"])


def _media(row: dict[str, Any], voices: dict[Who, int]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("sha256", "duration_ms", "recorded_at", "title", "channel")},
        "kind": row["media_kind"],
        "tags": row["tags"],
        "collections": row["collections"],
        "sources": [short_uri(source["uri"]) for source in row["sources"] if source["gone_at"] is None],
        "lanes": row["lanes"] or {},
        "speakers": [
            Spoken(
                local_speaker=who.local_speaker,
                speaker_id=who.speaker_id,
                name=who.shown,
                method=who.method,
                segments=count,
            )
            for who, count in voices.items()
        ],
        "media_url": media_url(row["sha256"]),
    }


def _facts(asset: dict[str, Any]) -> dict[str, Any]:
    url, kind = media_url(asset["sha256"]), asset["media_kind"]
    named = ("container", "width", "height", "fps", "sample_rate_hz", "channels")
    return {
        **{name: asset[name] for name in named},
        "size_bytes": asset["byte_size"],
        "original_url": f"{url}/original",
        "clip_url": f"{url}/clip" if kind in ("video", "audio") else None,
        "frames_url": f"{url}/frames" if kind in ("video", "image") else None,
        "transcript_urls": {form: f"{url}/transcript.{form}" for form in TRANSCRIPTS} if kind != "image" else {},
    }


def _without_paths(text: str | None, uris: list[str]) -> str | None:
    for uri in uris:
        text = text and text.replace(uri, short_uri(uri))
    return text
