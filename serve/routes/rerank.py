"""`POST /v1/rerank`: the best of a list first, in Cohere's shape."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from serve.encode import Options, answer, documented_body, read_body, read_options, spend, take
from serve.errors import InvalidError, TooLargeError, documented
from serve.items import nonblank
from serve.models import ModelCard, Scored
from serve.offered import find_card
from serve.service import Serving

router = APIRouter(tags=["rerank"])


class Document(BaseModel):
    """A passage."""

    text: str = Field(min_length=1)


class RerankOptions(Options):
    """What a request says besides its passages."""

    model: str = Field("reranker", description="A model of `GET /v1/models`.")
    query: str = Field(min_length=1)
    top_n: int | None = Field(None, ge=1, description="Only so many; all without it.")
    return_documents: bool = False


class RerankBody(RerankOptions):
    """A question and the passages that may answer it."""

    documents: Annotated[list[Annotated[str, Field(min_length=1)] | Document], Field(min_length=1)]


class Result(BaseModel):
    """One passage; `index` is its place in the request."""

    index: int
    relevance_score: float = Field(description="Greater is better; scores of different models do not compare.")
    document: Document | None = None


class RerankUsage(BaseModel):
    """Tokens that the model read, question and passage of each pair."""

    prompt_tokens: int
    total_tokens: int


class Ranked(BaseModel):
    """The passages, best first."""

    model: str
    results: list[Result]
    usage: RerankUsage


@router.post("/v1/rerank", response_model=Ranked, responses=documented(404), openapi_extra=documented_body(RerankBody))
@router.post("/rerank", include_in_schema=False)
async def rerank(request: Request, service: Serving) -> Response:
    """How well each passage answers the question, best first."""
    body = await read_body(request)
    passages = _passages(take(body, "documents"), service.settings.serve.max_items)
    options = read_options(RerankOptions, body)
    query = nonblank(options.query, "query")
    card = find_card(service.models, options.model, ("reranker",))
    found = await service.models.rerank(query, passages)
    spend(request, found.timing)
    return answer(_body(found, card, passages, options))


def _passages(given: Any, max_items: int) -> list[str]:
    if not isinstance(given, list) or not given:
        raise InvalidError("documents: give a list of at least one passage", param="documents")
    if len(given) > max_items:
        raise TooLargeError(f"documents: {len(given)}, {max_items} are taken in one request", param="documents")
    return [nonblank(_text(item), f"documents[{number}]") for number, item in enumerate(given)]


def _text(item: Any) -> Any:
    return item["text"] if isinstance(item, dict) and item.keys() == {"text"} else item


def _body(found: Scored, card: ModelCard, passages: list[str], options: RerankOptions) -> dict[str, Any]:
    best = np.argsort(-found.scores, kind="stable")[: options.top_n]
    results: list[dict[str, Any]] = [{"index": int(at), "relevance_score": float(found.scores[at])} for at in best]
    if options.return_documents:
        for result in results:
            result["document"] = {"text": passages[result["index"]]}
    tokens = sum(found.tokens)
    return {
        "model": card.model_id,
        "results": results,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
