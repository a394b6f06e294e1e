"""`/health` and `/metrics`: whether the process lives, whether it can serve, and what it did."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from cluster.db.pool import PoolBusyError
from cluster.errors import RushesError
from serve.errors import documented
from serve.service import Service, Serving

router = APIRouter(tags=["health"])


class Live(BaseModel):
    """The process answers."""

    status: str = "live"


class Ready(BaseModel):
    """Whether everything works; `checks` names each part, `ok` or what is wrong with it."""

    status: str = Field(description="ready, or not_ready")
    checks: dict[str, str]


@router.get("/health/live", responses=documented())
async def live() -> Live:
    """Whether the process answers; says nothing of models and database."""
    return Live()


@router.get("/health/ready", response_model=Ready, responses={**documented(), 503: {"model": Ready}})
async def ready(service: Serving) -> Response:
    """Whether database and models work: 200 when all do, 503 with what does not."""
    checks = {"database": await _database(service), **await service.models.troubles()}
    checks |= {card.role: "ok" for card in service.models.cards() if card.role not in checks}
    is_ready = all(said == "ok" for said in checks.values())
    body = Ready(status="ready" if is_ready else "not_ready", checks=checks)
    return JSONResponse(body.model_dump(), 200 if is_ready else 503)


@router.get("/metrics", response_class=Response, responses=documented())
async def metrics(service: Serving) -> Response:
    """The metrics of this process, for Prometheus."""
    await service.meter.corpus.refresh(service.corpus, service.models)
    body, content_type = service.meter.render()
    return Response(body, media_type=content_type)


async def _database(service: Service) -> str:
    try:
        await service.corpus.check()
    except RushesError as error:
        # Health answers everybody: where the database is stays out of it.
        return "every connection is in use" if isinstance(error, PoolBusyError) else "the database is away"
    return "ok"
