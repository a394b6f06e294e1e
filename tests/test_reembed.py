"""A new text space from stored transcripts: no media, whole blocks, one failure each, and a flip at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.decode import Decode
from actors.texts import Texts
from cluster.db import spaces
from cluster.db.connect import open_connection
from cluster.db.ledger import PendingRow
from cluster.profiles import ModelChoice
from cluster.settings import load_settings
from jobs.cli.reembed import _switched
from jobs.reembed import Reembedded
from jobs.runners import BLOCK_ROWS, BLOCK_S, blocks_of
from tests.corpus_rows import PRINTS
from tests.stored import reembed_quietly, settings_of, store
from tests.tiny_text_model import tiny_text_model

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_text_model(tmp_path_factory.mktemp("model") / "tiny", 32)


@pytest.fixture
def settings(db_url, weights):
    return settings_of(db_url, weights, 32)


def old_chunks(conn):
    return conn.execute("SELECT asset_id, idx, text FROM chunks WHERE space_id = 2 ORDER BY 1, 2").fetchall()


def vectors(conn, space):
    return conn.execute(f"SELECT count(*) FROM {space.table_name}".encode()).fetchone()[0]


def test_no_media_is_read_and_vanished_sources_do_not_matter(db, settings, monkeypatch):
    ids = store(db, 5)
    db.execute("DELETE FROM sources WHERE asset_id = %s", (ids[0],))
    db.execute("UPDATE sources SET gone_at = now() WHERE asset_id = %s", (ids[1],))
    monkeypatch.setattr(Decode, "process", lambda *_: pytest.fail("media was read"))
    before = old_chunks(db)
    result = reembed_quietly(settings)
    assert (result.assets, result.failed, result.exit_code) == (5, 0, 0)
    assert result.active == result.space != result.before
    assert vectors(db, result.space) == result.texts == 5
    assert old_chunks(db) == before
    again = reembed_quietly(settings)
    assert (again.assets, again.texts, again.exit_code) == (0, 0, 0)


def test_going_back_computes_nothing(db, settings, weights, monkeypatch):
    store(db, 2)
    first = reembed_quietly(settings)
    other = tiny_text_model(Path(str(weights) + "-other"), 16, seed=1)
    assert reembed_quietly(settings_of(settings.database_url.get_secret_value(), other, 16)).active != first.active
    monkeypatch.setattr(Texts, "load", lambda *_: pytest.fail("a model was loaded"))
    assert reembed_quietly(settings).active.space_id == first.space.space_id


def test_the_chunks_of_a_block_share_one_call_of_the_model(db, settings, monkeypatch):
    store(db, 7)
    calls = []
    encode = Texts._encode
    monkeypatch.setattr(
        Texts, "_encode", lambda self, texts, size: calls.append(len(texts)) or encode(self, texts, size)
    )
    assert reembed_quietly(settings).texts == 7
    assert calls == [7]


def test_a_poisoned_row_of_a_block_fails_alone_and_is_tried_again(db, settings, monkeypatch):
    ids = store(db, 6)
    encode = Texts._encode

    def poisoned(self, texts, size):
        if any("a3" in text for text in texts):
            raise ValueError("poison")
        return encode(self, texts, size)

    with monkeypatch.context() as patch:
        patch.setattr(Texts, "_encode", poisoned)
        result = reembed_quietly(settings)
    assert (result.assets, result.failed, result.missing, result.exit_code) == (5, 1, 1, 3)
    assert result.active == result.before
    [failed] = db.execute("SELECT asset_id FROM units WHERE state = 'failed'").fetchone()
    assert failed == ids[3]
    again = reembed_quietly(settings)
    assert (again.assets, again.texts, again.active) == (1, 1, again.space)


def test_a_row_that_kills_its_process_takes_no_other_row_of_the_block_along(db, db_url, weights, tmp_path, monkeypatch):
    ids = store(db, 4)
    fault = {"point": "before_texts", "action": "kill", "match": "a2.wav", "always": True, "folder": str(tmp_path)}
    monkeypatch.setenv("RUSHES_FAULT", json.dumps(fault))
    result = reembed_quietly(settings_of(db_url, weights, 32, runner="worker"))
    assert (result.assets, result.failed, result.texts) == (3, 1, 3)
    assert db.execute("SELECT asset_id, failure FROM failures").fetchall() == [(ids[2], "crash")]


def test_transcripts_of_earlier_settings_are_embedded_too(db, settings):
    store(db, 3)
    store(db, 2, {**PRINTS, "speech": "s0", "texts": "t0"}, "b")
    result = reembed_quietly(settings)
    assert (result.assets, result.missing) == (5, 0)
    assert result.active == result.space
    states = dict(db.execute("SELECT lane, count(*) FROM units WHERE state = 'pending' GROUP BY 1").fetchall())
    assert states == {}


def test_a_part_leaves_search_where_it_is(db, settings):
    ids = store(db, 3)
    db.execute("INSERT INTO asset_tags VALUES (%s, 'town')", (ids[2],))
    from cluster.db.filter import AssetFilter

    dry = reembed_quietly(settings, dry_run=True)
    assert (dry.assets, dry.chunks_now, dry.space) == (3, 3, None)
    tagged = reembed_quietly(settings, chosen=AssetFilter(tags=("Town",)))
    assert (tagged.assets, tagged.missing, tagged.active) == (1, 2, tagged.before)
    assert (reembed_quietly(settings, limit=1).missing, reembed_quietly(settings).missing) == (1, 0)


def test_a_killed_run_goes_on_where_it_was(db, db_url, settings, weights, tmp_path):
    count = 3 * BLOCK_ROWS
    store(db, count)
    config = tmp_path / "rushes.toml"
    config.write_text(f'[profiles.tiny.text]\nweights = "path:{weights}"\ndimension = 32\n')
    words = [sys.executable, "-m", "jobs.cli.main", "reembed", "--profile", "tiny", "--config", str(config), "-q"]
    env = {**os.environ, "RUSHES_DATABASE_URL": db_url, "RUSHES_RUNNER": "worker", "RUSHES_CPUS": "2"}
    process = subprocess.Popen(words, cwd=ROOT, env=env, start_new_session=True)
    done = 0
    while done == 0 and process.poll() is None:
        time.sleep(0.02)
        [done] = db.execute("SELECT count(*) FROM units WHERE state = 'done' AND fingerprint <> ALL(%s)",
                            (list(PRINTS.values()),)).fetchone()  # fmt: skip
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.3)
    [done] = db.execute(
        "SELECT count(*) FROM units WHERE state = 'done' AND fingerprint <> ALL(%s)", (list(PRINTS.values()),)
    ).fetchone()
    assert 0 < done < count
    rest = reembed_quietly(settings)
    assert (rest.assets, rest.failed) == (count - done, 0)
    assert vectors(db, rest.space) == count
    assert rest.active == rest.space


def pending(number, lanes, duration_ms, kind="video"):
    return PendingRow(number, "", f"/{number}", 1, None, kind, 0, duration_ms, 0.0, lanes)


def test_rows_travel_together_only_where_no_media_is_decoded():
    texts = [pending(number, ("texts",), 60_000) for number in range(BLOCK_ROWS + 1)]
    assert [len(block) for block in blocks_of(texts)] == [BLOCK_ROWS, 1]
    whole = [pending(number, ("speech", "texts"), 60_000) for number in range(3)]
    assert [len(block) for block in blocks_of([*texts[:2], *whole])] == [2, 1, 1, 1]
    half = int(BLOCK_S * 1000 / 2)
    long = [pending(number, ("texts",), half) for number in range(3)]
    assert [len(block) for block in blocks_of(long)] == [2, 1]
    assert [len(block) for block in blocks_of([pending(0, ("texts",), 9 * half), *long])] == [1, 2, 1]
    images = [pending(number, ("frames", "images"), None, "image") for number in range(3)]
    films = [pending(number, lanes, 60_000) for number in (7, 8) for lanes in (("speech",), ("frames", "images"))]
    blocks = [[row["asset_id"] for row in block] for block in blocks_of([*images, *films])]
    assert blocks == [[7], [0, 1, 2], [7], [8], [8]]
    frames = [pending(number, ("frames",), 60_000) for number in range(3)]
    mixed = [row for pair in zip(texts, frames, strict=False) for row in pair]
    assert [[row["root"] for row in block] for block in blocks_of(mixed)] == [["frames"]] * 3 + [["speech"] * 3]


def test_more_threads_give_the_same_vectors():
    import torch

    texts = [f"the {word} of the house spoke for a while and then left" for word in ("lord", "lady", "dog", "king")]
    choice = load_settings().model_choice("text")
    assert isinstance(choice, ModelChoice)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            stage = Texts(choice, threads)
            stage.load()
            found.append(stage.embed_documents(texts))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


def test_a_space_that_a_sweep_takes_is_not_found_again(db):
    store(db, 1)
    space = spaces.active_space(db, "text")
    assert [found.space_id for found in spaces.list_spaces(db)] == [1, 2]
    db.execute("UPDATE spaces SET config_hash = %s WHERE space_id = %s", (f"{spaces.RETIRED}2", space.space_id))
    assert [found.space_id for found in spaces.list_spaces(db)] == [1]
    with open_connection(db.info.dsn) as other:
        assert len(spaces.list_spaces(other, with_retired=True)) == 2


def test_the_last_lines_say_what_is_missing_what_stays_and_the_way_back(db, settings, weights):
    store(db, 2)
    first, choice = reembed_quietly(settings), settings.model_choice("text")
    lines = _switched(first, choice, replace(choice, profile="of the same model"))
    assert lines[-1] == f"back: rushes profiles use {first.before.profile} --role text"
    other = load_settings().model_choice("text")
    assert _switched(first, choice, other)[-1].startswith("the settings say bundled")
    changed = tiny_text_model(Path(str(weights) + "-changed"), 16)
    second = reembed_quietly(settings_of(settings.database_url.get_secret_value(), changed, 16))
    back = "back: the settings of before, then rushes profiles use tiny --role text"
    assert _switched(second, choice, choice)[-1] == back
    broken = _switched(Reembedded(space=first.space, active=second.active, missing=2), choice, choice)
    assert "lacks 2 asset(s)" in broken[0]
