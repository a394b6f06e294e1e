"""What search and KNN share: filters, answers, vectors that come from a client, and which model a space asks for."""

from __future__ import annotations

import re
import time
import unicodedata
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, AwareDatetime, BaseModel, Field
from starlette.requests import Request

from cluster.db.filter import AssetFilter, scope_of
from cluster.db.knn import MOST_EF_SEARCH, MOST_HITS, Scope
from cluster.db.spaces import Space, space_names
from cluster.errors import UsageError
from serve.errors import ConflictError, InvalidError, NotFoundError
from serve.fields import Asked, Id, Sha, clip_url, media_url
from serve.lookups import asset_ids
from serve.models import ModelCard, Models
from serve.service import Service

T = TypeVar("T")
_WORD = re.compile(r"[^\W_]+")
# Of a shot that lasts longer, the clip is what surrounds the moment.
CLIP_BEFORE_MS, CLIP_AFTER_MS = 15_000, 45_000


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("it holds a NUL character")
    return text


Name = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_storable)]
Names = Annotated[list[Name], Field(max_length=1000)]
Text = Annotated[str, Field(min_length=1, max_length=10_000), AfterValidator(_storable)]
Count = Annotated[int, Field(ge=1, le=MOST_HITS, description="At most this many hits.")]
EfSearch = Annotated[
    int | None,
    Field(
        ge=1,
        le=MOST_EF_SEARCH,
        description="Candidates an index walk keeps: more find more and take longer. Default: what `rushes db recall` "
        "measured for the space, and k at the least.",
    ),
]
# A date comes as text, which strict fields refuse.
Moment = Annotated[AwareDatetime, Field(strict=False)]


class Filters(Asked):
    """What is searched. Names of one kind are alternatives, kinds must all hold; what is unknown is refused."""

    assets: Annotated[list[Sha], Field(max_length=10_000)] = Field([], description="Only in these assets.")
    speakers: Annotated[list[Id | Name], Field(max_length=1000)] = Field(
        [], description="Only while one of these people speaks: ids (numbers) or names."
    )
    kinds: list[Literal["video", "audio", "image"]] = Field([], max_length=3)
    channels: Names = Field([], description="Case does not count, in tags and collections neither.")
    tags: Names = Field([])
    collections: Names = Field([])
    recorded_since: Moment | None = Field(None, description="With its time zone.")
    recorded_until: Moment | None = Field(None, description="With its time zone; the moment itself not included.")


class Asking(Asked):
    """What every search takes."""

    k: Count = 10
    ef_search: EfSearch = None
    filters: Filters = Filters()


class Hit(BaseModel):
    """One place of the corpus that answers, and why. Fields that do not apply are null."""

    sha256: str = Field(description="Of the content.")
    source: str = Field(description="The last two parts of where it was found.")
    media_kind: str | None
    start_ms: int | None = Field(None, description="Of the passage, the segment, or the shot.")
    end_ms: int | None = None
    t_ms: int | None = Field(None, description="Of a picture: the moment.")
    text: str | None = None
    matches: list[tuple[int, int]] = Field([], description="Where words of the query stand in the text, in characters.")
    speaker: str | None = Field(None, description="Who speaks, of a passage who begins it; null: nobody known.")
    speaker_id: int | None = None
    score: float = Field(description="What the hits are ordered by; greater is better.")
    similarity: float | None = Field(None, description="Cosine of the vectors.")
    hash_distance: int | None = Field(None, description="Bits of 64 in which the pictures' hashes differ.")
    vector_rank: int | None = None
    text_rank: int | None = None
    rerank_score: float | None = None
    copies: list[str] = Field([], description="Sources of copies that show the same moment.")
    media_url: str
    clip_url: str | None = None
    thumbnail_url: str | None = None
    transcript_url: str | None = None


class RankedSpeaker(BaseModel):
    """A person, by the average cosine distance of their voices to the one asked about."""

    speaker_id: int
    name: str
    distance: float
    voices: int


class Found(BaseModel):
    """Hits, best first, and how far they are to be trusted."""

    hits: list[Hit]
    is_exact: bool = Field(description="Every vector that may answer was compared.")
    ef_search: int | None = Field(description="Candidates the index walk kept; null: there was no walk.")
    why_fewer: str | None = Field(description="Why there are fewer hits than k; null when there are k.")
    space_id: int | None = Field(None, description="The embedding space that was searched; null: none was.")
    speakers: list[RankedSpeaker] | None = Field(
        None, description="Of a voice: the nearest people, whatever the filters."
    )


def scope(conn: Any, filters: Filters) -> Scope:
    """Where the filters let a search look; an error that names the field for what is not in the corpus."""
    ids = asset_ids(conn, list(dict.fromkeys(filters.assets)), "filters.assets") if filters.assets else None
    chosen = AssetFilter(
        channels=tuple(filters.channels),
        tags=tuple(filters.tags),
        collections=tuple(filters.collections),
        kinds=tuple(filters.kinds),
        since=filters.recorded_since,
        until=filters.recorded_until,
    )
    try:
        return scope_of(conn, chosen, filters.speakers, ids)
    except UsageError as error:
        raise InvalidError(str(error), param="filters") from error


async def read(request: Request, service: Service, work: Callable[[Any], T]) -> T:
    """`work(conn)` in the corpus; how long it took goes into the headers of the answer."""
    began_s = time.perf_counter()
    try:
        return await service.corpus.run(work)
    finally:
        spent_s: dict[str, float] = request.scope["state"]["exchange"].spent_s
        spent_s["corpus"] = spent_s.get("corpus", 0.0) + time.perf_counter() - began_s


def card_of(models: Models, role: str) -> ModelCard | None:
    """The model of this role on offer."""
    return next((card for card in models.cards() if card.role == role), None)


def require_served(conn: Any, space: Space, card: ModelCard | None) -> None:
    """Raise `ConflictError` unless the vectors of this model belong to the space."""
    if card is not None and card.space_name == space_names(conn).get(space.space_id):
        return
    served = f"{card.model_id} ({card.weights})" if card is not None else f"no {space.kind} model"
    raise ConflictError(
        f"the {space.kind} space in use, {space.space_id}, was made by {space.model} (profile {space.profile}), and "
        f"this service offers {served}: serve that profile (RUSHES_{space.choice.role.upper()}_PROFILE), or fill a "
        "space of the model on offer (`rushes ingest`, of stored transcripts `rushes reembed`)",
        code="model_of_another_space",
    )


def unit_vector(given: Sequence[float] | str, dimension: int) -> NDArray[np.float32]:
    """The vector of a client with length 1, shape (dimension,), float32; `InvalidError` for what is none."""
    values = _decoded(given) if isinstance(given, str) else np.asarray(given, np.float64)
    if len(values) != dimension:
        raise InvalidError(
            f"vector: it has {len(values)} numbers, and the space has {dimension} dimensions", param="vector"
        )
    if not np.isfinite(values).all():
        raise InvalidError("vector: it holds NaN or infinity", param="vector")
    longest = np.abs(values).max()
    if longest == 0:
        raise InvalidError("vector: all of it is 0, which points nowhere", param="vector")
    values = values / longest
    return (values / np.linalg.norm(values)).astype(np.float32)


def _decoded(text: str) -> NDArray[np.float64]:
    try:
        data = a2b_base64(text, strict_mode=True)
    except (Base64Error, ValueError) as error:
        raise InvalidError("vector: it is no base64 of float32", param="vector") from error
    if len(data) % 4:
        raise InvalidError(f"vector: {len(data)} bytes are no row of float32", param="vector")
    return np.frombuffer(data, "<f4").astype(np.float64)


def matches_of(text: str, query: str) -> list[tuple[int, int]]:
    """Where words of the query stand in the text, [from, to) in characters; case does not count."""
    wanted = {query[start:end].casefold() for start, end in _words(query)}
    return [(start, end) for start, end in _words(text) if text[start:end].casefold() in wanted]


def _words(text: str) -> Iterator[tuple[int, int]]:
    """Where words stand, as full-text search cuts them: accents and vowel signs belong to the letter before them."""
    letters = "".join("a" if unicodedata.category(char).startswith("M") else char for char in text)
    return (word.span() for word in _WORD.finditer(letters))


def frame_url(sha256: str, t_ms: int) -> str:
    """What a video shows at this time."""
    return f"{media_url(sha256)}/frames/{t_ms}.jpg"


def transcript_url(sha256: str) -> str:
    """What is said in an asset, as subtitles."""
    return f"{media_url(sha256)}/transcript.srt"


def clip_around(sha256: str, t_ms: int, start_ms: int, end_ms: int) -> str:
    """A clip of the shot, or of a long one what surrounds the moment."""
    return clip_url(sha256, max(start_ms, t_ms - CLIP_BEFORE_MS), min(end_ms, t_ms + CLIP_AFTER_MS))


def space_by_id(spaces: Sequence[Space], kind: str, space_id: int) -> Space:
    """The space of this kind and id; `NotFoundError` without one."""
    for space in spaces:
        if (space.kind, space.space_id) == (kind, space_id):
            return space
    known = ", ".join(str(space.space_id) for space in spaces if space.kind == kind)
    raise NotFoundError(f"there is no {kind} space {space_id}; there are: {known or 'none'}", param="space_id")
