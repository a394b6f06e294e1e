"""What every route works with: the corpus, the models, the limits. Made once per ingress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol, cast

from fastapi import Depends, Request

from cluster.db.pool import Corpus
from cluster.settings import Settings
from serve.access import Access, Keys, is_loopback
from serve.events import Streams
from serve.media import MediaDesk
from serve.meter import Meter
from serve.models import Models


class Submitter(Protocol):
    """Takes jobs, by entry-point string; they run elsewhere and outlive the request."""

    async def submit(self, entrypoint: Sequence[str]) -> str:
        """Begin `rushes` with these words; returns the job's id. `UnavailableError` where none can be begun."""
        ...

    async def state(self, job_id: str) -> dict[str, str | None] | None:
        """`state` (pending, running, succeeded, failed, stopped) and `message`; None for an unknown id."""
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of one service. `media` reads files and cuts clips, `meter` counts and times."""

    settings: Settings
    corpus: Corpus
    models: Models
    access: Access
    media: MediaDesk
    meter: Meter
    jobs: Submitter
    streams: Streams = field(default_factory=Streams)

    def close(self) -> None:
        """Let go of connections and child processes."""
        self.media.close()
        self.corpus.close()


def make_service(
    settings: Settings, corpus: Corpus, models: Models, jobs: Submitter, meter: Meter | None = None
) -> Service:
    """The parts, put together; nothing is connected to yet."""
    access = Access(Keys(corpus), open_reads=is_loopback(settings.serve.host))
    return Service(settings, corpus, models, access, MediaDesk(settings), meter or Meter(), jobs)


def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


Serving = Annotated[Service, Depends(_service)]
