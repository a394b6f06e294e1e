"""`POST /v1/embeddings`: vectors of texts and pictures, in OpenAI's shape."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from serve.encode import EncodingFormat, Options, answer, documented_body, encoded, read_body, read_options, spend, take
from serve.errors import InvalidError, documented
from serve.items import MOST_TOKEN_ID, Pictures, Tokens, Words, items_of
from serve.models import Embedded, ModelCard, Models, Purpose
from serve.offered import find_card
from serve.service import Serving

router = APIRouter(tags=["embeddings"])

Token = Annotated[int, Field(ge=0, le=MOST_TOKEN_ID)]
Text = Annotated[str, Field(min_length=1)]
EMBED = ("text", "image")


class EmbeddingsOptions(Options):
    """What a request says besides its input."""

    model: str = Field(description="A model of `GET /v1/models`, or its role: text or image.", examples=["text"])
    modality: Literal["text", "image"] | None = Field(
        None, description="Of the image model: whether the input is words or pictures; each item tells by itself."
    )
    encoding_format: EncodingFormat = Field("float", description="base64: little-endian float32.")
    dimensions: int | None = Field(None, ge=1, description="Only that of the model.")
    input_type: Purpose = Field("document", description="What text vectors are for; some models tell them apart.")
    user: str | None = Field(None, description="Taken and not used.")


class EmbeddingsBody(EmbeddingsOptions):
    """What to embed, and with which model."""

    input: (
        Text
        | Annotated[list[Text], Field(min_length=1)]
        | Annotated[list[Token], Field(min_length=1)]
        | Annotated[list[Annotated[list[Token], Field(min_length=1)]], Field(min_length=1)]
    ) = Field(
        description="A text, a list of texts, token ids of the model's own tokenizer, or a list of such; for the image "
        "model also pictures as `data:image/...;base64,...`. Texts over the model's "
        "limit are cut at their end, token ids over it are refused."
    )


class Embedding(BaseModel):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens that the model read; pictures have none."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """Unit vectors in the order of the input."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


@router.post(
    "/v1/embeddings",
    response_model=Embeddings,
    responses=documented(404),
    openapi_extra=documented_body(EmbeddingsBody),
)
async def embeddings(request: Request, service: Serving) -> Response:
    """Vectors of texts, token ids or pictures. Nothing is fetched: a picture comes as a data URI."""
    body = await read_body(request)
    given, options = take(body, "input"), read_options(EmbeddingsOptions, body)
    card = find_card(service.models, options.model, EMBED)
    if options.dimensions is not None and options.dimensions != card.dimension:
        raise InvalidError(
            f"dimensions: {card.model_id} gives {card.dimension} and was not trained to be cut, "
            f"{options.dimensions} were asked for",
            param="dimensions",
        )
    items = items_of(given, card.role, options.modality, service.settings.serve.max_items)
    found = await _embedded(service.models, items, options.input_type)
    spend(request, found.timing)
    return answer(_body(found, card, options.encoding_format))


async def _embedded(models: Models, items: Words | Tokens | Pictures, purpose: Purpose) -> Embedded:
    if isinstance(items, Pictures):
        return await models.embed_pictures(items.files)
    if isinstance(items, Words) and items.of_pictures:
        return await models.embed_words_of_pictures(items.texts)
    return await models.embed_texts(items.texts if isinstance(items, Words) else items.ids, purpose)


def _body(found: Embedded, card: ModelCard, encoding_format: EncodingFormat) -> dict[str, object]:
    rows = enumerate(encoded(found.vectors, encoding_format))
    tokens = sum(found.tokens)
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in rows],
        "model": card.model_id,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
