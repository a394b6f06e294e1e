"""Bugs that peers had and that could occur here, each named after whose it was.

What the pipelines of others got wrong is known from reading their sources and trackers; every test
here breaks when ours does the same.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cluster.db import report, results
from cluster.db.check import check_corpus
from cluster.db.connect import open_connection
from cluster.db.dump import canonical_dump, differences
from cluster.faults import FaultPoint
from cluster.plan import Node, Work, make_plan
from jobs.summary import describe
from tests.archive import read_call, run
from tests.conftest import clone_database
from tests.corpus_rows import claimed, computed_row, make_spaces, new_asset, new_run
from tests.media_factory import silence, write_wav

ROOT = Path(__file__).parents[1]
COMMIT_POINTS = (
    FaultPoint.SPEECH_WRITTEN,
    FaultPoint.VOICES_WRITTEN,
    FaultPoint.TEXTS_WRITTEN,
    FaultPoint.UNITS_SETTLED,
)


@pytest.fixture
def other_url(server_url):
    yield from clone_database(server_url, "template_corpus")


def clips(folder, count, seconds=5):
    folder.mkdir(exist_ok=True)
    call = read_call()
    for number in range(count):
        write_wav(folder / f"{number}.wav", call[(3 + 2 * number) * 16_000 :][: seconds * 16_000], 16_000)
    return folder


def dump(url):
    with open_connection(url) as conn:
        assert not any(check_corpus(conn).values())
        return canonical_dump(conn)


@pytest.mark.parametrize("point", COMMIT_POINTS)
def test_cosmos_curate_a_marker_never_precedes_its_data(point, db, db_url, monkeypatch):
    """It wrote the "processed" marker in the same wave as the embeddings; a crash between lost them for good."""
    run_id, spaces, asset_id = new_run(db), make_spaces(db), new_asset(db, "marker")
    row = computed_row(asset_id, claimed(db, run_id, asset_id))

    def crash(reached, key=""):
        if reached is point:
            raise ConnectionResetError("the process ends here")

    monkeypatch.setattr(results, "reach", crash)
    with pytest.raises(ConnectionResetError):
        results.commit_row(db, run_id, row, spaces)
    with open_connection(db_url) as other:
        assert other.execute("SELECT DISTINCT state FROM units").fetchall() == [("running",)]
        for table in ("segments", "voices", "chunks", spaces["voice"].table_name, spaces["text"].table_name):
            assert other.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    monkeypatch.undo()
    assert results.commit_row(db, run_id, row, spaces) == "done"


def test_cosmos_curate_a_poison_file_is_not_redone_by_every_run(corpus_url, media):
    """A video with errors got no marker and was computed again by each run, without bound."""
    again = run(corpus_url, [str(media)])
    assert (again.state, again.exit_code) == ("nothing", 0)
    assert again.known["failed"] == 1


def test_cosmos_curate_ids_never_swap(db_url, other_url, tmp_path):
    """Captions went to the wrong videos in six releases, paired by position."""
    folder = clips(tmp_path / "media", 4)
    together = run(db_url, [str(folder)])
    for path in sorted(folder.iterdir(), reverse=True):
        assert run(other_url, [str(path)]).ok == 1
    assert together.ok == 4
    assert differences(dump(db_url), dump(other_url)) == []


def test_cosmos_curate_nothing_is_put_into_the_object_store_by_an_actor():
    """What a pool actor puts dies with it (OwnerDiedError); values are returned instead."""
    sources = [path for folder in ("actors", "jobs", "serve") for path in (ROOT / folder).rglob("*.py")]
    assert sources
    assert [
        path.name for path in sources if re.search(r"\bray\.put\(|checkpoint_config", path.read_text("utf-8"))
    ] == []


def test_nemo_curator_no_share_rounds_to_nothing():
    """4 GB of a 140 GB card became a share of 0.0 GPU."""
    stages = ("decode", "speech_activity", "transcribe", "diarize", "segments", "voices", "texts")
    for cpus in (1, 2, 64):
        plan = make_plan(Work(36_000, 100), [Node(cpus, 64.0, (140.0,))], stages)
        assert all(group.cpus_each > 0 and group.gpus_each > 0 for group in plan.groups)


def test_nemo_curator_same_input_same_segments(db_url, other_url, tmp_path):
    """Chunks of speech were merged with an unseeded generator, so a replay gave other segments."""
    folder = clips(tmp_path / "media", 2, seconds=9)
    assert run(db_url, [str(folder)]).ok == run(other_url, [str(folder)]).ok == 2
    assert differences(dump(db_url), dump(other_url)) == []
    assert run(other_url, [str(folder)], force=True).ok == 2
    assert differences(dump(db_url), dump(other_url)) == []


def test_nemo_curator_rerun_of_a_finished_job_succeeds(corpus_url, media):
    """Running a finished job again raised ValueError: No tasks to process."""
    summary = run(corpus_url, [str(media / "call.wav")])
    assert summary.exit_code == 0
    assert describe(summary)[-1] == "nothing to do: 1 done"


def test_nemo_curator_other_content_behind_an_unchanged_path_is_another_asset(db_url, tmp_path):
    """Its source id hashed paths, so that a replaced file kept the results of the old one."""
    first, second = (clips(tmp_path / name, 2) for name in ("a", "b"))
    path = first / "0.wav"
    assert run(db_url, [str(path)]).ok == 1
    shutil.copyfile(second / "1.wav", path)
    assert run(db_url, [str(path)]).ok == 1
    with open_connection(db_url) as conn:
        assert conn.execute("SELECT count(*) FROM assets").fetchone() == (2,)
        assert conn.execute("SELECT count(*) FROM sources").fetchone() == (1,)


def test_data_juicer_a_failed_sample_is_not_replaced_by_nothing(ingested):
    """With skip_op_error a failed sample vanished from the output and from every count."""
    _, summary = ingested
    assert summary.planned == summary.ok + summary.failed + summary.skipped
    assert (summary.failed, summary.missing) == (1, 0)


def test_anyscale_example_no_placeholder_vector(db_url, tmp_path):
    """A clip without frames was written as a zero vector."""
    hum = (400 * np.sin(np.arange(3 * 16_000) / 20)).astype(np.int16)
    write_wav(tmp_path / "silence.wav", silence(3), 16_000)
    write_wav(tmp_path / "hum.wav", hum, 16_000)
    write_wav(tmp_path / "clip.wav", np.concatenate([read_call()[6 * 16_000 : 12 * 16_000], silence(4)]), 16_000)
    assert run(db_url, [str(tmp_path)], {"segment_source": "whisper"}).ok == 3
    vectors = dump(db_url).vectors
    stacked = [vector for section in vectors.values() for vector in section.values()]
    assert stacked
    np.testing.assert_allclose([np.linalg.norm(vector) for vector in stacked], 1.0, atol=1e-3)


def test_anyscale_example_files_with_the_same_beginning_are_two_assets(db_url, tmp_path):
    """The id was a hash of the first 4,096 bytes, equal for files with the same header."""
    call = read_call()[: 5 * 16_000]
    other = call.copy()
    other[-16_000:] = 0
    write_wav(tmp_path / "one.wav", call, 16_000)
    write_wav(tmp_path / "two.wav", other, 16_000)
    assert (tmp_path / "one.wav").read_bytes()[:4096] == (tmp_path / "two.wav").read_bytes()[:4096]
    assert run(db_url, [str(tmp_path)]).ok == 2


def test_cosmos_curate_a_video_without_clips_stays_in_the_counts(corpus):
    """A video with 0 clips vanished from the summary; here it is a commit like any other."""
    row = corpus.execute(
        "SELECT state, outputs FROM units JOIN asset_names USING (asset_id)"
        " WHERE name LIKE '%/silence.wav' ORDER BY lane"
    ).fetchall()
    assert row == [("skipped", None), *[("done", 0)] * 3]
    assert [r for r in report.assets_table(corpus) if r["uris"][0].endswith("/silence.wav")]


def test_xenna_a_process_that_holds_models_ends_when_it_is_told_to(corpus_url, tmp_path):
    """Non-daemon threads kept its workers alive under a later Ray."""
    code = (
        "import threading, sys; from actors.lanes import speech_chain; from cluster.settings import load_settings;"
        "from cluster.stage import load_stages; chain = speech_chain(load_settings(None)); load_stages(chain);"
        "[stage.close() for stage in chain];"
        "print([t.name for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "[]"), ended.stderr
