"""Reach PostgreSQL: the address a user gives, or an embedded server in the data directory."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from cluster.db.embedded import start_embedded
from cluster.errors import FailureClass, RushesError, classify, first_line
from cluster.settings import Settings

PGVECTOR_REFUSED_BELOW = (0, 8, 0)
PGVECTOR_WARNED_BELOW = (0, 8, 4)
POSTGRES_REFUSED_BELOW = 150_000

# A peer that vanished without a word (a lost node, a cut cable) is noticed after half a minute by both ends:
# longer than a hiccup that TCP mends by itself, and half of the default wait for a database. The systems' own
# limits are a quarter of an hour for a lost answer, and two hours for which the server keeps what a dead
# driver or actor had locked. A Unix socket has no such peers and ignores them.
CLIENT_LIMITS = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
SERVER_LIMITS = (
    "SELECT set_config('tcp_keepalives_idle', '15', false), set_config('tcp_keepalives_interval', '5', false),"
    " set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '30000', false)"
)
# libpq gives no SQLSTATE for a refused connection. A server that speaks another language is waited for.
_NEVER = re.compile(
    r"(database|role|user|certificate file) \".*\" does not exist|authentication failed|no password supplied"
    r"|pg_hba\.conf (entry|rejects)|permission denied for database|not permitted to log in|no such (user|database)"
    r"|Servname not supported|does not support SSL|certificate verify failed"
)
_NO_SLOT = re.compile(r"too many (clients|connections)|connection slots are reserved|no more connections allowed")
_NOT_YET = re.compile(r"the database system is ")
NO_ADDRESS = "RUSHES_DATABASE_URL is not a PostgreSQL address: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE"

logger = logging.getLogger(__name__)
# It warns of every rollback on a connection that broke; the error that follows says the same.
logging.getLogger("psycopg").setLevel(logging.ERROR)


class RefusedError(RushesError):
    """The address of the database is wrong, or its server lets nobody in who comes so; waiting does not help."""


class UnreachableError(RushesError):
    """The server does not take the connection now; `cause` is the end of a sentence about it."""

    def __init__(self, message: str, cause: str = "does not answer") -> None:
        super().__init__(message)
        self.cause = cause


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
    return Database(start_embedded(settings.data_dir / "postgres"), embedded=True)


def refuse_embedded_elsewhere(database: Database, address: str | None) -> None:
    """Raise `RushesError` where other nodes cannot reach the database."""
    if address is not None and database.embedded:
        raise RushesError(
            "the embedded database serves one node only: set RUSHES_DATABASE_URL to run on a cluster (--address)"
        )


def open_connection(url: str, *, autocommit: bool = True) -> psycopg.Connection[Any]:
    """Connect, bound how long a vanished peer stays unnoticed, and register vector types where they exist.

    Raises `UnreachableError` for what may pass and `RefusedError` for an address that is wrong. Limits in
    the URL win.
    """
    try:
        given = conninfo_to_dict(url)
        limits: dict[str, Any] = {name: value for name, value in CLIENT_LIMITS.items() if name not in given}
        conn = psycopg.connect(url, autocommit=autocommit, application_name="rushes", **limits)
    except psycopg.ProgrammingError:
        # not what libpq says: it quotes the address, password and all
        raise RefusedError(NO_ADDRESS) from None
    except psycopg.OperationalError as error:
        raise _refused(url, error) from error
    try:
        conn.execute(SERVER_LIMITS)
        register_vectors(conn)
    except BaseException:
        conn.close()
        raise
    return conn


def _refused(url: str, error: psycopg.OperationalError) -> RushesError:
    message = (
        f"cannot reach the database {describe_url(url)}: {first_line(error)}; check RUSHES_DATABASE_URL, "
        "or unset it to use the embedded server"
    )
    if _NEVER.search(str(error)):
        return RefusedError(message)
    if _NO_SLOT.search(str(error)):
        return UnreachableError(message, "has too many connections")
    return UnreachableError(message, "is starting or stopping" if _NOT_YET.search(str(error)) else "does not answer")


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
def snapshot(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """One moment of the corpus for all that is read inside; `conn` is in no transaction."""
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


@contextmanager
def database_errors() -> Iterator[None]:
    """A server that goes away is one clear line: what is committed stays, and the same command goes on."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise RushesError(f"the database refuses: {first_line(error)}; log in as the owner of its tables") from error
    except psycopg.OperationalError as error:
        raise RushesError(
            f"the database went away ({first_line(error)}); what was committed is safe: start it and run this again"
        ) from error


def classify_database(error: BaseException) -> FailureClass:
    """A server that went away is transient; rows it refuses are a bug of ours."""
    return FailureClass.TRANSIENT if isinstance(error, psycopg.OperationalError) else classify(error)


def describe_url(url: str) -> str:
    """Host and database of a URL, without user or password; `RushesError` when it is no address."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise RefusedError(NO_ADDRESS) from None
    return f"{parts.get('dbname', 'postgres')} at {parts.get('host', 'localhost')}"
