"""The service as one FastAPI application, made from its parts; knows nothing of Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from cluster.errors import RushesError
from serve import faults
from serve.edge import Edge
from serve.errors import ApiError
from serve.routes import (
    audio,
    clusters,
    docs,
    dupes,
    embeddings,
    health,
    knn,
    media,
    models,
    rerank,
    runs,
    search,
    speakers,
)
from serve.service import Service

ROUTERS = (health, docs, models, embeddings, rerank, audio, search, knn, media, speakers, clusters, dupes, runs)
ABOUT = "Embeddings, transcription, search and labelling over the corpus of a video archive."


def build_api(service: Service) -> FastAPI:
    """The application of these parts. They end with its lifespan."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="rushes", description=ABOUT, version="1", lifespan=lifespan, docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    app.state.service = service
    for module in ROUTERS:
        app.include_router(module.router)
    # Exception itself is left to the edge: FastAPI would raise it again after its answer.
    for kind in (ApiError, RushesError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, faults.handle)
    app.add_middleware(Edge, service=service)
    return app
