"""Two jobs over the same folder at the same time make one set of rows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.db.check import check_corpus
from cluster.db.connect import open_connection
from cluster.db.dump import canonical_dump, differences
from tests.archive import read_call, run
from tests.conftest import clone_database
from tests.media_factory import write_wav

pytestmark = pytest.mark.ray_process
ROOT = Path(__file__).parents[1]
FILES = 6


@pytest.fixture
def other_url(server_url):
    yield from clone_database(server_url, "template_corpus")


def command(url, folder, data_dir, runner):
    variables = {
        **os.environ,
        "RUSHES_DATABASE_URL": url,
        "RUSHES_RUNNER": runner,
        "RUSHES_CPUS": "1",
        "RUSHES_DATA_DIR": str(data_dir),
    }
    words = [sys.executable, "-m", "jobs.cli.main", "ingest", str(folder)]
    return subprocess.Popen(words, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.timeout(600)
def test_two_jobs_over_the_same_folder(db_url, other_url, tmp_path):
    call, folder = read_call(), tmp_path / "media"
    folder.mkdir()
    for number in range(FILES):
        write_wav(folder / f"{number}.wav", call[(3 + 2 * number) * 16_000 :][: 6 * 16_000], 16_000)
    jobs = [command(db_url, folder, tmp_path / runner, runner) for runner in ("worker", "ray")]
    outputs = [job.communicate(timeout=500)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], outputs
    done = [int(re.search(r"(\d+) ok · 0 failed", out).group(1)) for out in outputs if "nothing to do" not in out]
    assert sum(done) == FILES, outputs
    assert run(other_url, [str(folder)]).ok == FILES
    with open_connection(db_url) as conn, open_connection(other_url) as other:
        assert not any(check_corpus(conn).values())
        assert differences(canonical_dump(conn), canonical_dump(other)) == []
        assert conn.execute("SELECT DISTINCT state FROM runs").fetchall() == [("done",)]
        assert conn.execute("SELECT count(*) FROM failures").fetchone() == (0,)
