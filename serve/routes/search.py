"""`POST /v1/search`: what was said, by meaning and by word; what was shown; who spoke."""

from __future__ import annotations

import asyncio
import tempfile
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Request
from pydantic import Field, model_validator
from starlette.responses import Response

from cluster.db.knn import Answer
from cluster.db.picture_search import PictureHit, has_frames, search_by_hash, search_by_vector
from cluster.db.search import CANDIDATES, search_active, search_chunks
from cluster.db.search import Hit as Passage
from cluster.db.spaces import Space, active_space
from serve import hits
from serve.encode import spend
from serve.errors import ApiError, ConflictError, InvalidError, documented
from serve.finding import Asking, Found, Text, card_of, read, require_served, scope
from serve.items import Pictures, items_of
from serve.models import HearRequest, ModelCard
from serve.routes.knn import Vector, in_use, near_voices
from serve.service import Service, Serving

router = APIRouter(tags=["search"])

Mode = Literal["hybrid", "vector", "words"]
Encoded = Annotated[str, Field(min_length=1)]


class SearchBody(Asking):
    """What to look for: a `text`, an `image` or a `voice`, one of them."""

    text: Text | None = Field(None, description="Words or a question.")
    image: Encoded | None = Field(
        None,
        description="A picture, `data:image/...;base64,...`; found by its vector, without image vectors by its hash.",
    )
    voice: Encoded | None = Field(
        None, description="A recording of one person, base64 or `data:audio/...;base64,...`: who sounds like this?"
    )
    target: Literal["speech", "pictures"] | None = Field(
        None, description="Of a text: what was said (default), or what was shown."
    )
    mode: Mode | None = Field(
        None,
        description="Of a text in speech. hybrid (default): by vectors and by words, fused by reciprocal rank; or by "
        "either alone.",
    )
    rerank: bool = Field(False, description=f"Of a text in speech: the reranker orders the best {CANDIDATES}.")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if sum(one is not None for one in (self.text, self.image, self.voice)) != 1:
            raise ValueError("give exactly one of text, image and voice")
        if self.text is not None and not self.text.strip():
            raise ValueError("text: it is blank")
        if self.text is None and self.target is not None:
            raise ValueError("target: only a text has one")
        is_speech = self.text is not None and self.target != "pictures"
        if not is_speech and (self.mode is not None or self.rerank):
            raise ValueError(f"{'rerank' if self.rerank else 'mode'}: only a text that is looked for in speech has one")
        if self.rerank and self.k > CANDIDATES:
            raise ValueError(f"k: with rerank it is {CANDIDATES} at most")
        return self


@router.post("/v1/search", response_model=Found, responses=documented(404, 409))
async def search(body: SearchBody, request: Request, service: Serving) -> Response:
    """The best places of the corpus, with their times and where to see and hear them.

    Filters never lose hits in silence: `is_exact` says whether everything was compared, `why_fewer` why there are
    fewer than `k`.
    """
    one = _Search(body, request, service)
    if body.text is not None:
        found = await (one.shown(body.text) if body.target == "pictures" else one.said(body.text))
    elif body.image is not None:
        found = await one.alike(body.image)
    else:
        found = await one.heard(body.voice or "")
    return Response(found.model_dump_json(), media_type="application/json")


class _Search:
    """One search: a model first, then the corpus, in one visit."""

    def __init__(self, body: SearchBody, request: Request, service: Service) -> None:
        self.body, self.request, self.service = body, request, service

    async def said(self, text: str) -> Found:
        """Passages of speech."""
        body, mode = self.body, self.body.mode or "hybrid"
        vector = None if mode == "words" else await self._text_vector(text)
        words, count = "" if mode == "vector" else text, CANDIDATES if body.rerank else body.k

        def look(conn: Any, space: Space) -> tuple[Answer[Passage], int]:
            where = scope(conn, body.filters)
            answer = search_chunks(conn, space, vector, words, scope=where, limit=count, ef_search=body.ef_search)
            return answer, space.space_id

        card = None if vector is None else card_of(self.service.models, "text")
        answer, space_id = await self._in_active("text", look, card, has_model=vector is not None)
        if body.rerank:
            answer = await self._reranked(text, answer)
        return hits.found(answer, [hits.passage(hit, text) for hit in answer.hits], space_id)

    async def shown(self, text: str) -> Found:
        """Moments that show what the words say."""
        made = await self.service.models.embed_words_of_pictures([text])
        spend(self.request, made.timing)
        return await self._pictures(made.vectors[0])

    async def alike(self, image: str) -> Found:
        """Moments like a picture."""
        file = _picture(image)
        space = await read(self.request, self.service, _picture_space)
        if space is None:
            return await self._by_hash(file)
        if card_of(self.service.models, "image") is None:
            await read(self.request, self.service, lambda conn: require_served(conn, space, None))
        made = await _about("image", self.service.models.embed_pictures([file]))
        spend(self.request, made.timing)
        return await self._pictures(made.vectors[0])

    async def heard(self, voice: str) -> Found:
        """Segments that sound like a recording, and people."""
        with tempfile.NamedTemporaryFile(prefix="rushes-voice-") as sample:
            await asyncio.to_thread(_write, sample, _recording(voice))
            asked = HearRequest(steps=frozenset(["voices"]), num_speakers=1, name="voice")
            heard = await _about("voice", self.service.models.hear(sample.name, asked))
        spend(self.request, heard.timing)
        whole = heard.whole
        if whole is None:
            raise InvalidError("voice: nobody speaks in it for long enough", param="voice")

        def look(conn: Any, space: Space) -> Found:
            return near_voices(conn, space, whole, scope(conn, self.body.filters), self.body)

        return await self._in_active("voice", look, card_of(self.service.models, "voice"))

    async def _text_vector(self, text: str) -> Vector:
        made = await _about("text", self.service.models.embed_texts([text], "query"))
        spend(self.request, made.timing)
        return made.vectors[0]

    async def _reranked(self, text: str, answer: Answer[Passage]) -> Answer[Passage]:
        if not answer.hits:
            return answer
        made = await self.service.models.rerank(text, [hit.text for hit in answer.hits])
        spend(self.request, made.timing)
        scored = [replace(hit, rerank_score=float(s)) for hit, s in zip(answer.hits, made.scores, strict=True)]
        best = sorted(scored, key=lambda hit: -(hit.rerank_score or 0.0))[: self.body.k]
        return replace(answer, hits=best, why_fewer=answer.why_fewer if len(best) < self.body.k else None)

    async def _pictures(self, vector: Vector) -> Found:
        body = self.body

        def look(conn: Any, space: Space) -> tuple[Answer[PictureHit], int]:
            where = scope(conn, body.filters)
            answer = search_by_vector(conn, space, vector, scope=where, limit=body.k, ef_search=body.ef_search)
            return answer, space.space_id

        answer, space_id = await self._in_active("image", look, card_of(self.service.models, "image"))
        return hits.found(answer, [hits.picture(hit) for hit in answer.hits], space_id)

    async def _by_hash(self, file: bytes) -> Found:
        frame = await self.service.media.read_picture(file)
        if not frame["is_informative"]:
            raise InvalidError(
                "image: it is flat or black, so its hash is that of any such picture: send another", param="image"
            )

        def look(conn: Any) -> Answer[PictureHit]:
            return search_by_hash(conn, frame["phash"], scope=scope(conn, self.body.filters), limit=self.body.k)

        answer = await read(self.request, self.service, look)
        return hits.found(answer, [hits.picture(hit) for hit in answer.hits], None)

    async def _in_active(
        self, kind: str, look: Callable[[Any, Space], Any], card: ModelCard | None, *, has_model: bool = True
    ) -> Any:
        """What is found in the space in use, once the model that asks is the one that filled it."""

        def work(conn: Any) -> Any:
            def inside(space: Space) -> Any:
                if has_model:
                    require_served(conn, space, card)
                return look(conn, space)

            return in_use(search_active(conn, kind, inside), kind)

        return await read(self.request, self.service, work)


def _picture_space(conn: Any) -> Space | None:
    if not has_frames(conn):
        raise ConflictError("no picture is searchable yet: run `rushes ingest PATH` first")
    return active_space(conn, "image")


async def _about(field: str, call: Any) -> Any:
    """What the model gives; what it does not take is told as this field of the request."""
    try:
        return await call
    except InvalidError as error:
        said = error.message.removeprefix(f"{error.param}: ")
        raise InvalidError(f"{field}: {said}", param=field) from error


def _picture(text: str) -> bytes:
    try:
        given = items_of(text, "image", "image", 1)
    except ApiError as error:
        raise InvalidError(error.message.replace("input", "image", 1), param="image") from error
    assert isinstance(given, Pictures)
    return given.files[0]


def _recording(text: str) -> bytes:
    head, comma, payload = text.partition(",") if text.startswith("data:") else ("", "", text)
    try:
        if head and not (comma and head.endswith(";base64")):
            raise ValueError
        data = a2b_base64(payload, strict_mode=True)
    except (Base64Error, ValueError) as error:
        raise InvalidError(
            "voice: it is no base64 of a recording, and nothing is fetched: send data:audio/...;base64,...",
            param="voice",
        ) from error
    if not data:
        raise InvalidError("voice: the recording is empty", param="voice")
    return data


def _write(file: Any, data: bytes) -> None:
    file.write(data)
    file.flush()
