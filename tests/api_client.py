"""The service in this process, over a real database and fake models: no Ray, no HTTP server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.testclient import TestClient

from cluster.db.api_keys import Scope, create_key
from cluster.db.connect import open_connection
from cluster.db.pool import Corpus
from cluster.settings import load_settings
from serve.api import build_api
from serve.models import Models
from serve.service import Service, make_service
from tests.fake_models import FakeJobs, FakeModels


@dataclass
class Api:
    """`client` comes from this machine without a key; `as_writer` are the headers of a key that may write."""

    client: TestClient
    service: Service
    models: Any
    jobs: FakeJobs
    url: str

    def headers(self, scope: Scope = "write", name: str | None = None) -> dict[str, str]:
        """A new key of this scope, as headers."""
        with open_connection(self.url) as conn:
            count = conn.execute("SELECT count(*) FROM api_keys").fetchone()
            key = create_key(conn, name or f"{scope} {count}", scope)
        return {"authorization": f"Bearer {key}"}


@contextmanager
def api_over(url: str, models: Models | None = None, **flags: Any) -> Iterator[Api]:
    """The service over this database; `flags` are settings."""
    settings, fakes, jobs = load_settings(**flags), models or FakeModels(), FakeJobs()
    service = make_service(settings, Corpus(url, size=4), fakes, jobs)
    service.access.keys._refresh_s = 0.0
    with TestClient(build_api(service), base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield Api(client, service, fakes, jobs, url)
