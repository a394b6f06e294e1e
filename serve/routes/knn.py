"""`POST /v1/knn/{voices|frames|texts}`: what of the corpus is nearest to a vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from pydantic import Field
from starlette.responses import Response

from cluster.db.knn import Scope
from cluster.db.picture_search import frames_near
from cluster.db.search import SpaceGoneError, search_active, search_chunks, while_there
from cluster.db.spaces import Space, list_spaces
from cluster.db.speakers.means import rank_speakers
from cluster.db.voice_search import voices_near
from serve import hits
from serve.errors import ConflictError, NotFoundError, documented
from serve.fields import Id
from serve.finding import Asking, Found, read, scope, space_by_id, unit_vector
from serve.service import Serving

router = APIRouter(tags=["search"])

MOST_NUMBERS = 4_000
MOST_SPEAKERS = 10
T = TypeVar("T")
Vector = NDArray[np.float32]
Number = Annotated[float, Field(allow_inf_nan=False)]
_LANE = {"voice": "voices", "text": "texts", "image": "images"}


class KnnBody(Asking):
    """A vector, and where to look."""

    vector: (
        Annotated[list[Number], Field(min_length=1, max_length=MOST_NUMBERS)]
        | Annotated[str, Field(min_length=1, max_length=MOST_NUMBERS * 6)]
    ) = Field(description="Numbers, or base64 of little-endian float32. Its length does not count.")
    space_id: Id | None = Field(None, description="The embedding space of the vector; without it the one in use.")


@router.post("/v1/knn/voices", response_model=Found, responses=documented(404, 409))
async def voices(body: KnnBody, request: Request, service: Serving) -> Response:
    """The segments whose voices are nearest, and the people by the average distance of their voices."""

    def look(conn: Any, space: Space, vector: Vector, where: Scope) -> Found:
        return near_voices(conn, space, vector, where, body)

    return await _answer(body, request, service, "voice", look)


@router.post("/v1/knn/frames", response_model=Found, responses=documented(404, 409))
async def frames(body: KnnBody, request: Request, service: Serving) -> Response:
    """The nearest keyframes, each by itself; flat and black ones are left out."""

    def look(conn: Any, space: Space, vector: Vector, where: Scope) -> Found:
        answer = frames_near(conn, space, vector, scope=where, limit=body.k, ef_search=body.ef_search)
        return hits.found(answer, [hits.picture(hit) for hit in answer.hits], space.space_id)

    return await _answer(body, request, service, "image", look)


@router.post("/v1/knn/texts", response_model=Found, responses=documented(404, 409))
async def texts(body: KnnBody, request: Request, service: Serving) -> Response:
    """The nearest passages of speech."""

    def look(conn: Any, space: Space, vector: Vector, where: Scope) -> Found:
        answer = search_chunks(conn, space, vector, "", scope=where, limit=body.k, ef_search=body.ef_search)
        return hits.found(answer, [hits.passage(hit) for hit in answer.hits], space.space_id)

    return await _answer(body, request, service, "text", look)


def near_voices(conn: Any, space: Space, vector: Vector, where: Scope, asked: Asking) -> Found:
    """Segments and people near to a voice."""
    # People first: means that are missing are made, and the search itself only reads.
    with while_there(space):
        people = rank_speakers(conn, space, vector, MOST_SPEAKERS)
    answer = voices_near(conn, space, vector, scope=where, limit=asked.k, ef_search=asked.ef_search)
    return hits.found(answer, [hits.voice(hit) for hit in answer.hits], space.space_id, people)


async def _answer(
    body: KnnBody,
    request: Request,
    service: Serving,
    kind: str,
    look: Callable[[Any, Space, Vector, Scope], Found],
) -> Response:
    def work(conn: Any) -> Found:
        where = scope(conn, body.filters)

        def inside(space: Space) -> Found:
            return look(conn, space, unit_vector(body.vector, space.dimension), where)

        if body.space_id is None:
            return in_use(search_active(conn, kind, inside), kind)
        try:
            return inside(space_by_id(list_spaces(conn), kind, body.space_id))
        except SpaceGoneError as error:
            raise NotFoundError(f"the {kind} space {body.space_id} was dropped", param="space_id") from error

    answer = await read(request, service, work)
    return Response(answer.model_dump_json(), media_type="application/json")


def in_use(found: T | None, kind: str) -> T:
    """What was found, where there is a space of this kind; `ConflictError` otherwise."""
    if found is None:
        raise ConflictError(
            f"nothing of the corpus has a {kind} vector yet: `rushes ingest --lanes {_LANE[kind]} PATH`"
        )
    return found
