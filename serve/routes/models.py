"""`GET /v1/models`: what is on offer, in OpenAI's shape."""

from __future__ import annotations

import time
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from serve.errors import documented
from serve.models import ModelCard
from serve.offered import find_card
from serve.service import Serving

router = APIRouter(tags=["models"])

_BEGAN = int(time.time())


class Model(BaseModel):
    """One model."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(_BEGAN, description="When this service began to offer it, in seconds of the epoch.")
    owned_by: str = "rushes"
    role: str = Field(description="text, image, reranker, transcriber, diarizer or voice; stands for the id.")
    engine: str
    dimension: int | None = Field(None, description="Of its vectors.")
    max_tokens: int | None = Field(None, description="What is longer is cut at its end.")
    space_name: str | None = Field(None, description="The embedding space its vectors belong to.")


class ModelList(BaseModel):
    """Every model on offer."""

    object: Literal["list"] = "list"
    data: list[Model]


@router.get("/v1/models", responses=documented())
async def list_models(service: Serving) -> ModelList:
    """Every model on offer."""
    return ModelList(data=[_model(card) for card in service.models.cards()])


@router.get("/v1/models/{model_id:path}", responses=documented(404))
async def one_model(model_id: str, service: Serving) -> Model:
    """One model, by its id or its role."""
    return _model(find_card(service.models, model_id))


def _model(card: ModelCard) -> Model:
    """What a client may know of it; where its weights lie is not among that."""
    return Model(
        id=card.model_id, role=card.role, engine=card.engine, dimension=card.dimension,
        max_tokens=card.max_tokens, space_name=card.space_name,
    )  # fmt: skip
