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
from cluster.db.speakers.actions import label, undo
from cluster.db.speakers.events import Target
from tests.archive import read_call, run
from tests.conftest import clone_database
from tests.media_factory import write_wav

pytestmark = pytest.mark.ray_process
ROOT = Path(__file__).parents[1]
FILES = 6


@pytest.fixture
def other_url(server_url):
    yield from clone_database(server_url, "template_corpus")


def command(url, data_dir, runner, *words):
    variables = {
        **os.environ,
        "RUSHES_DATABASE_URL": url,
        "RUSHES_RUNNER": runner,
        "RUSHES_CPUS": "1",
        "RUSHES_DATA_DIR": str(data_dir),
    }
    words = map(str, words)
    line = [sys.executable, "-m", "jobs.cli.main", "ingest", *words]
    return subprocess.Popen(line, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def write_calls(folder):
    call = read_call()
    folder.mkdir()
    for number in range(FILES):
        write_wav(folder / f"{number}.wav", call[(3 + 2 * number) * 16_000 :][: 6 * 16_000], 16_000)


@pytest.mark.timeout(600)
def test_two_jobs_over_the_same_folder(db_url, other_url, tmp_path):
    folder = tmp_path / "media"
    write_calls(folder)
    jobs = [command(db_url, tmp_path / runner, runner, folder) for runner in ("worker", "ray")]
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


def put_all_in_one_cluster(conn):
    """What clustering might make of the voices of one telephone call."""
    [(cluster_id,)] = conn.execute("INSERT INTO voice_clusters (space_id) VALUES (1) RETURNING cluster_id").fetchall()
    conn.execute(
        "INSERT INTO cluster_members (asset_id, local_speaker, space_id, found_in, cluster_id, similarity)"
        " SELECT asset_id, local_speaker, 1, %(id)s, %(id)s, 0.9 FROM local_voices_1", {"id": cluster_id},
    )  # fmt: skip


def longest_segment(conn, asset_id):
    row = conn.execute(
        "SELECT start_ms, end_ms FROM segments JOIN local_voices_1 USING (asset_id, local_speaker) WHERE asset_id = %s"
        " ORDER BY end_ms - start_ms DESC LIMIT 1", (asset_id,),
    ).fetchone()  # fmt: skip
    return Target(asset_id, *row)


@pytest.mark.timeout(600)
def test_two_jobs_over_overlapping_sets_and_a_person_who_labels_meanwhile(db_url, tmp_path):
    folder = tmp_path / "media"
    write_calls(folder)
    assert run(db_url, [str(folder)]).ok == FILES
    with open_connection(db_url) as conn:
        put_all_in_one_cluster(conn)
        ids = [row[0] for row in conn.execute("SELECT asset_id FROM local_voices_1 GROUP BY 1 ORDER BY 1")]
        label(conn, "Anna", [longest_segment(conn, ids[0])], "me")
        before = canonical_dump(conn)
        named = sum(fields["speaker"] == "Anna" for fields in before.facts["local speaker"].values())
        assert named > 1
        paths = [folder / f"{number}.wav" for number in range(FILES)]
        jobs = [
            command(db_url, tmp_path / name, "worker", "--force", *chosen)
            for name, chosen in (("one", paths[:4]), ("other", paths[2:]))
        ]
        decided = 0
        while any(job.poll() is None for job in jobs):
            # Who is meant may be between two segmentations just now: then the time finds them again.
            target = longest_segment(conn, ids[decided % len(ids)])
            for event in (label(conn, "Bob", [target], "me"), label(conn, None, [target], "me")):
                undo(conn, event.event_id, "me")
            decided += 1
        outputs = [job.communicate()[0] for job in jobs]
        assert [job.returncode for job in jobs] == [0, 0], outputs
        assert decided > 1
        assert not any(check_corpus(conn).values()), check_corpus(conn)
        assert differences(before, canonical_dump(conn)) == []
        assert conn.execute("SELECT count(*) FROM failures").fetchone() == (0,)
