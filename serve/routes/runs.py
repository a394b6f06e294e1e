"""`/v1/runs` and `/v1/jobs`: what was done, how far it is, and the jobs that requests began."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field
from starlette.responses import Response

from cluster.db.progress import run_view
from cluster.db.report import find_run, runs_table
from cluster.words import short_uri
from serve.errors import NotFoundError, documented
from serve.events import EventStream, Look
from serve.fields import Limit, Offset
from serve.lookups import refused_as
from serve.service import Serving

router = APIRouter(tags=["runs"])
JobId = Annotated[str, Path(pattern="^[A-Za-z0-9_-]{1,100}$")]


class Run(BaseModel):
    """One execution of a job; `summary` is what came of it."""

    run_id: UUID
    kind: str
    state: str
    started_at: datetime
    finished_at: datetime | None
    planned: int | None
    summary: dict[str, Any] | None


class RunPage(BaseModel):
    """The runs, latest first."""

    runs: list[Run]
    next_offset: int | None


class LaneProgress(BaseModel):
    """A lane of the run, in assets; `total` null: not known yet."""

    lane: str
    total: int | None
    done: int
    running: int
    failed: int
    skipped: int
    retrying: int


class NodeProgress(BaseModel):
    """A node that claimed for the run; `media_s` counts the sound and the pictures of a film each.

    `is_silent`: it has work and was quiet far longer than the others; `quiet_s` null: for longer than is looked at.
    """

    node: str
    running: int
    oldest_s: float | None
    done: int
    failed: int
    media_s: float
    hours_per_hour: float | None
    quiet_s: float | None
    is_silent: bool


class Running(BaseModel):
    """An asset at work, where, and for how long."""

    name: str
    node: str | None
    lanes: list[str]
    for_s: float


class Slow(BaseModel):
    """An asset that took long for its length, and the stage that took most of it."""

    name: str
    media_s: float
    seconds: float
    x_realtime: float
    stage: str
    stage_s: float


class Failure(BaseModel):
    """A unit that failed."""

    at: datetime
    name: str
    lane: str
    failure: str
    stage: str | None
    message: str


class RunProgress(Run):
    """How far a run is; `driver` false: nobody is at work on it any more."""

    driver: bool
    lanes: list[LaneProgress]
    nodes: list[NodeProgress]
    settled: int
    media_s: float
    elapsed_s: float
    hours_per_hour_now: float | None
    hours_per_hour: float | None
    left_media_s: float | None
    eta_s: float | None
    running: list[Running]
    slowest: list[Slow]
    failures: list[Failure]


class Job(BaseModel):
    """A job that a request began; `message` says why it failed."""

    job_id: str
    state: Literal["pending", "running", "succeeded", "failed", "stopped"]
    message: str | None = Field(None, description="What the job said last, where it failed.")


@router.get("/v1/runs", responses=documented())
async def list_runs(service: Serving, limit: Limit = 20, offset: Offset = 0) -> RunPage:
    """The runs, latest first."""
    rows = await service.corpus.run(lambda conn: runs_table(conn, limit + 1, offset))
    shown = [Run.model_validate(row | {"summary": _shortened(row["summary"])}) for row in rows[:limit]]
    return RunPage(runs=shown, next_offset=offset + limit if len(rows) > limit else None)


@router.get("/v1/runs/{run_id}", responses=documented(404))
async def read_run(service: Serving, run_id: UUID) -> RunProgress:
    """How far the run is: by lane, with rates, time left, what is slow and what failed."""
    return await service.corpus.run(lambda conn: _progress(conn, run_id))


@router.get(
    "/v1/runs/{run_id}/events",
    response_class=Response,
    responses={**documented(404), 200: {"content": {"text/event-stream": {"schema": {}}}}},
)
async def watch_run(service: Serving, run_id: UUID) -> EventStream:
    """The same as server-sent events: `progress` on every change, `away` while the database is, then `done`.

    `lost` ends the stream of a run whose driver has been gone for a minute. A comment every 15 s shows that the
    stream lives. Whoever reconnects gets the present state first.
    """

    async def look() -> Look:
        found = await service.corpus.run(lambda conn: _progress(conn, run_id))
        return Look(found.model_dump_json(), found.state != "running", found.driver)

    await look()
    return EventStream(service.streams, str(run_id), look)


@router.get("/v1/jobs/{job_id}", responses=documented(404))
async def read_job(service: Serving, job_id: JobId) -> Job:
    """How a job is that a request began: pending, running, succeeded, failed or stopped."""
    found = await service.jobs.state(job_id)
    if found is None:
        raise NotFoundError(f"there is no job {job_id}", param="job_id")
    return Job.model_validate({"job_id": job_id, **found})


def _progress(conn: Any, run_id: UUID) -> RunProgress:
    with refused_as(NotFoundError, "run_id"):
        run = find_run(conn, str(run_id))
    view = run_view(conn, run)
    for rows in (view["running"], view["slowest"]):
        for row in rows:
            row["name"] = short_uri(row["name"])
    failures = [row | {"name": short_uri(row["uri"])} for row in view["failures"]]
    return RunProgress.model_validate(view | {"failures": failures, "summary": _shortened(view["summary"])})


def _shortened(summary: dict[str, Any] | None) -> dict[str, Any] | None:
    """The summary without whole paths of sources."""
    if summary is None or not isinstance(summary.get("failures"), list):
        return summary
    failures = [row | {"uri": short_uri(row["uri"])} for row in summary["failures"] if "uri" in row]
    return summary | {"failures": failures}
