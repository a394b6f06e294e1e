"""The service with a few routes that only tests have, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from fastapi import APIRouter, FastAPI
from fastapi.responses import StreamingResponse

from cluster.db.pool import Corpus
from cluster.settings import load_settings
from serve.access import Writer
from serve.api import build_api
from serve.service import Serving, make_service
from tests.fake_models import FakeJobs, FakeModels


def trial_routes(events: list[str]) -> APIRouter:
    router = APIRouter()

    @router.post("/trial/slow")
    async def slow() -> dict[str, str]:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            events.append("cancelled")
            raise
        return {}

    @router.get("/trial/endless")
    async def endless() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"."
                    await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                events.append("cancelled")
                raise

        return StreamingResponse(pieces())

    @router.post("/trial/query")
    async def query(service: Serving) -> dict[str, str]:
        await service.corpus.run(lambda conn: conn.execute("SELECT pg_sleep(30)"))
        return {}

    @router.post("/trial/body")
    async def body(content: dict[str, Any]) -> dict[str, int]:
        return {"keys": len(content)}

    @router.post("/trial/write")
    async def write(key: Writer) -> dict[str, str]:
        return {"author": key.name}

    @router.post("/trial/fault")
    async def fault() -> None:
        raise ValueError("postgresql://user:secret@host/db")

    return router


def trial_app(url: str, events: list[str], **flags: Any) -> FastAPI:
    service = make_service(load_settings(**flags), Corpus(url, size=2), FakeModels(), FakeJobs())
    app = build_api(service)
    app.include_router(trial_routes(events))
    return app


@asynccontextmanager
async def trial_client(app: FastAPI, **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", **options) as client:
        yield client
    app.state.service.close()
