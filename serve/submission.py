"""Jobs that a request asks for: their words come from checked fields alone, and they outlive the request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from serve.fields import Asked, LabelName, Sha
from serve.lookups import asset_ids
from serve.service import Service

_MOST_ASSETS = 1000
Labels = Annotated[list[LabelName], Field(max_length=50)]


class Selection(Asked):
    """Which assets a job looks at; nothing given means all."""

    assets: list[Sha] = Field(default_factory=list, max_length=_MOST_ASSETS)
    channels: Labels = Field(default_factory=list)
    tags: Labels = Field(default_factory=list)
    collections: Labels = Field(default_factory=list)

    def words(self) -> list[str]:
        """The same for the command line; no value can be taken for an option."""
        options = [("channel", self.channels), ("tag", self.tags), ("collection", self.collections)]
        return [*(f"--{name}={value}" for name, values in options for value in values), "--", *self.assets]


class Submitted(BaseModel):
    """A job that was begun, and where to ask how it is."""

    job_id: str
    job_url: str


async def submit(service: Service, words: Sequence[str]) -> Submitted:
    """Begin `rushes` with these words."""
    job_id = await service.jobs.submit(words)
    return Submitted(job_id=job_id, job_url=f"/v1/jobs/{job_id}")


async def submit_over(service: Service, command: Sequence[str], chosen: Selection) -> JSONResponse:
    """202 with the job that runs this command over the assets chosen; `NotFoundError` for an unknown asset."""
    await service.corpus.run(lambda conn: asset_ids(conn, chosen.assets, "assets"))
    job = await submit(service, [*command, *chosen.words()])
    return JSONResponse(job.model_dump(), 202, {"location": job.job_url})
