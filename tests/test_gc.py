"""What `rushes db gc` drops, what it leaves alone, and that search never notices."""

from __future__ import annotations

import os
import threading
import time
import uuid
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from cluster.db import gc, spaces, uses, visual
from cluster.db import search as db_search
from cluster.db.connect import open_connection
from cluster.db.patience import Session
from cluster.db.search import SpaceGoneError, search_chunks
from cluster.errors import RushesError
from cluster.media.blobs import GRACE_S, blob_path, write_blob
from jobs.cli import search as search_command
from jobs.gc import survey, sweep
from jobs.profiles import switch_search
from tests.corpus_rows import PRINTS, choice, new_run, unit_vector
from tests.picture_rows import commit_pictures, frame, image_space, phash
from tests.stored import reembed_quietly, settings_of, store
from tests.test_cli import rushes
from tests.tiny_text_model import tiny_text_model

NOTHING = gc.Keep(frozenset(), frozenset())


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {size: tiny_text_model(folder / str(size), size, seed=size) for size in (32, 64)}


def collect(settings):
    with closing(Session(settings.database_url.get_secret_value(), 5.0)) as session:
        unneeded = survey(session, settings)
        return unneeded, sweep(session, settings, unneeded)


def switch(settings):
    with closing(Session(settings.database_url.get_secret_value(), 5.0)) as session:
        return [one for one in switch_search(session, settings) if one.kind == "text"]


def counts(conn):
    tables = ("assets", "segments", "local_speakers", "sources")
    return [conn.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()[0] for table in tables]


def pad(conn, space, count):
    """More chunks of the first asset, so that there is something to free."""
    conn.execute(
        "INSERT INTO chunks (asset_id, space_id, idx, first_segment, last_segment, start_ms, end_ms, text)"
        " SELECT 1, %s, n, 0, 0, 0, 1, 'talk ' || n FROM generate_series(1000, 999 + %s) n",
        (space.space_id, count),
    )
    conn.execute(
        f"INSERT INTO {space.table_name} SELECT chunk_id, array_fill(0.1, ARRAY[{space.dimension}])::vector"
        f" FROM chunks WHERE space_id = {space.space_id} AND idx >= 1000".encode()
    )


def test_profiles_switch_there_and_back_during_searches_and_gc_frees_the_disk(db, db_url, models):
    store(db, 40)
    one, other = (settings_of(db_url, models[size], size) for size in (32, 64))
    pad(db, reembed_quietly(one).space, 3_000)
    before, found, failed, over = counts(db), [], [], threading.Event()

    def look():
        with open_connection(db_url) as conn:
            while not over.is_set():
                try:
                    found.append(len(search_command.find(conn, "talk a7", None, 5).hits))
                except Exception as error:  # noqa: BLE001 - counted
                    failed.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        assert reembed_quietly(other).active.dimension == 64
        assert [one_switch.active for one_switch in switch(one)] == [True]
        assert [one_switch.active for one_switch in switch(other)] == [True]
        size_before = gc.database_bytes(db)
        unneeded, swept = collect(other)
        time.sleep(0.5)
    finally:
        over.set()
        thread.join()
    assert failed == []
    assert len(found) > 5
    assert set(found) == {5}
    assert counts(db) == before
    # that of the synthetic ingest, and the one of before; the voices are of an unknown model too, but searched
    assert sorted(swept.spaces) == ["text space 2", "text space 3"]
    assert sum(item.rows for item in unneeded.found if item.space) == 3_080
    assert gc.database_bytes(db) < size_before
    assert swept.database_freed_bytes > 0
    assert [space.dimension for space in spaces.list_spaces(db) if space.kind == "text"] == [64]
    assert db.execute("SELECT count(DISTINCT space_id), count(*) FROM chunks").fetchone() == (1, 40)
    assert collect(other)[0].found == []


def test_a_dropped_space_can_be_made_again(db, db_url, models):
    store(db, 3)
    one, other = (settings_of(db_url, models[size], size) for size in (32, 64))
    for settings in (one, other):
        reembed_quietly(settings)
    collect(other)
    again = reembed_quietly(one)
    assert (again.texts, again.missing, again.active) == (3, 0, again.space)


def test_what_a_living_session_names_is_left_alone(db, db_url, models):
    store(db, 2)
    settings = settings_of(db_url, models[32], 32)
    reembed_quietly(settings)
    db.execute("UPDATE units SET state = 'pending', outputs = NULL WHERE lane = 'texts' AND fingerprint = 't1'")
    name = spaces.space_names(db)[2]
    with open_connection(db_url) as job:
        uses.hold(job, [name, "t1"])
        assert collect(settings)[0].found == []
    unneeded, swept = collect(settings)
    assert [(item.what, item.rows) for item in unneeded.found] == [("text space 2", 2), ("units", 2)]
    assert (swept.spaces, swept.rows["units"]) == (["text space 2"], 2)


def test_what_the_settings_in_force_are_building_stays(db, db_url, models):
    store(db, 3)
    settings = settings_of(db_url, models[32], 32)
    part = reembed_quietly(settings, limit=1)
    assert not part.space.is_active
    assert collect(settings)[0].found == []
    found = collect(settings_of(db_url, models[64], 64))[0].found
    assert [(item.what, item.rows) for item in found] == [("text space 3", 1), ("units", 3)]


def test_a_job_names_its_space_and_its_fingerprints_while_it_runs(db, db_url, models, monkeypatch):
    from jobs.execution import Execution

    store(db, 2)
    settings, seen = settings_of(db_url, models[32], 32), []

    def look(self, rows):
        with closing(Session(db_url, 5.0)) as session:
            seen.append(survey(session, settings_of(db_url, models[64], 64)).found)

    monkeypatch.setattr(Execution, "run", look)
    reembed_quietly(settings)
    assert seen == [[]]


def test_transcripts_active_spaces_and_what_people_said_stay(db):
    ids = store(db, 2)
    db.execute("INSERT INTO asset_tags VALUES (%s, 'town')", (ids[0],))
    db.execute("INSERT INTO given_turns VALUES (%s, 0, 0, 500, 0, 'Ann')", (ids[0],))
    db.execute(
        "INSERT INTO failures (asset_id, lane, fingerprint, failure, stage, message)"
        " VALUES (%s, 'speech', 's0', 'bug', 's', 'm')", (ids[0],)
    )  # fmt: skip
    db.execute(
        "INSERT INTO units (asset_id, lane, fingerprint, state, reason) VALUES (%s, 'speech', 's0', 'failed', 'm')",
        (ids[0],),
    )
    found = gc.find_unneeded(db, NOTHING)
    assert [(item.what, item.rows) for item in found] == [("units", 1)]
    assert gc.drop_rest(db, NOTHING) == {"units": 1, "voice cache": 0, "crash claims": 0}
    for table, count in {"units": 6, "failures": 1, "asset_tags": 1, "given_turns": 1, "segments": 8}.items():
        assert db.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (count,)
    assert {space.is_active for space in spaces.list_spaces(db)} == {True}


def test_cached_voices_go_with_the_last_asset_of_their_sound(db):
    ids = store(db, 3)
    db.execute("DELETE FROM assets WHERE asset_id = %s", (ids[0],))
    assert gc.drop_rest(db, NOTHING)["voice cache"] == 3
    assert db.execute("SELECT count(*) FROM voice_cache_1").fetchone() == (6,)


def test_claims_of_runs_that_ended_go_and_those_of_living_ones_stay(db):
    [asset_id] = store(db, 1)
    living = new_run(db)
    for run_id in (living, uuid.uuid4()):
        db.execute(
            "INSERT INTO crash_claims (claim_id, asset_id, run_id, stage, deadline_s) VALUES (%s, %s, %s, 's', 1)",
            (uuid.uuid4(), asset_id, run_id),
        )
    assert gc.drop_rest(db, NOTHING)["crash claims"] == 1
    assert db.execute("SELECT run_id FROM crash_claims").fetchall() == [(living,)]


def retired_space(conn):
    space = spaces.ensure_space(conn, "text", choice("text", 8, "old"), {"old": True})
    assert not space.is_active
    return space


def test_a_sweep_that_broke_off_is_completed(db, monkeypatch):
    [asset_id] = store(db, 1)
    space = retired_space(db)
    db.execute(
        "INSERT INTO chunks (asset_id, space_id, idx, first_segment, last_segment, start_ms, end_ms, text)"
        " VALUES (%s, %s, 0, 0, 0, 0, 1, 'x')", (asset_id, space.space_id)
    )  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(gc, "_ROWS", {})
        with pytest.raises(KeyError):
            gc.drop_space(db, space)
    assert space.space_id not in [one.space_id for one in spaces.list_spaces(db)]
    [left] = [item for item in gc.find_unneeded(db, NOTHING) if item.space]
    assert (left.rows, gc.drop_space(db, left.space)) == (1, True)
    assert spaces.list_spaces(db, with_retired=True) == spaces.list_spaces(db)
    assert gc.drop_space(db, left.space) is False


def test_a_space_that_became_active_meanwhile_stays(db):
    store(db, 1)
    active = spaces.active_space(db, "text")
    assert gc.drop_space(db, active) is False
    assert spaces.active_space(db, "text") == active


def test_a_search_that_reads_holds_the_sweep_up_and_not_the_other_way(db, db_url, monkeypatch):
    store(db, 1)
    space = retired_space(db)
    monkeypatch.setattr(gc, "LOCK_WAIT_MS", 100)
    with open_connection(db_url, autocommit=False) as reader:
        reader.execute(f"SELECT count(*) FROM {space.table_name}".encode())
        with pytest.raises(psycopg.errors.LockNotAvailable):
            gc.drop_space(db, space)
    assert gc.drop_space(db, space)
    with pytest.raises(SpaceGoneError):
        search_chunks(db, space, unit_vector(1), "talk")


def test_a_search_whose_space_is_dropped_under_it_looks_again_and_not_for_ever(db, monkeypatch):
    store(db, 2)
    active, gone = spaces.active_space(db, "text"), retired_space(db)
    assert gc.drop_space(db, gone)
    answers = iter([gone, active])
    monkeypatch.setattr(db_search, "active_space", lambda *_: next(answers, gone))
    monkeypatch.setattr(search_command, "embed_query", lambda *_: unit_vector(1))
    assert len(search_command.find(db, "talk", None, 5).hits) == 2
    with pytest.raises(RushesError, match="search again"):
        search_command.find(db, "talk", None, 5)


def test_only_copies_that_no_source_needs_go(db, db_url, tmp_path, models):
    [kept, gone, orphan] = ["ab" + f"{number:062x}" for number in range(3)]
    for name, uri in ((kept, "s3://bucket/a"), (gone, "s3://bucket/b")):
        [asset_id] = db.execute(
            "INSERT INTO assets (sha256, byte_size, media_kind) VALUES (%s, 1, 'audio') RETURNING asset_id",
            (bytes.fromhex(name),),
        ).fetchone()
        db.execute("INSERT INTO sources (uri, asset_id, byte_size) VALUES (%s, %s, 1)", (uri, asset_id))
    db.execute("UPDATE sources SET gone_at = now() WHERE uri LIKE '%/b'")
    folder = tmp_path / "data" / "cache" / "ab"
    folder.mkdir(parents=True)
    young = "ab" + "f" * 62
    for name in (kept, gone, orphan, young, "notes.txt"):
        (folder / name).write_bytes(b"x" * 10)
        if name != young:
            os.utime(folder / name, (1, 1))
    _, swept = collect(settings_of(db_url, models[32], 32))
    assert (swept.copies, swept.copies_freed_bytes) == (2, 20)
    assert sorted(path.name for path in folder.iterdir()) == sorted([kept, young, "notes.txt"])


def test_only_thumbnails_that_no_frame_has_go_and_not_those_that_may_be_waiting(db, db_url, tmp_path, models):
    root = str(tmp_path / "data" / "store")
    kept, orphan, young = (write_blob(root, name.encode()) for name in ("kept", "orphan", "young"))
    commit_pictures(db, "film.mp4", [{**frame(0, phash(1), 0), "thumbnail_sha256": kept}])
    then = time.time() - GRACE_S - 60
    for name in (kept, orphan):
        os.utime(blob_path(root, name), (then, then))
    unneeded, swept = collect(settings_of(db_url, models[32], 32))
    assert [blob.sha256 for blob in unneeded.thumbnails] == [orphan]
    assert (swept.thumbnails, swept.thumbnails_freed_bytes) == (1, 6)
    assert [Path(blob_path(root, name)).exists() for name in (kept, orphan, young)] == [True, False, True]


def test_a_thumbnail_that_is_needed_again_between_look_and_sweep_stays(db, db_url, tmp_path, models):
    root, settings = str(tmp_path / "data" / "store"), settings_of(db_url, models[32], 32)
    names = [write_blob(root, name) for name in (b"named", b"renewed", b"orphan")]
    then = time.time() - GRACE_S - 60
    for name in names:
        os.utime(blob_path(root, name), (then, then))
    with closing(Session(db_url, 5.0)) as session:
        unneeded = survey(session, settings)
        assert len(unneeded.thumbnails) == 3
        commit_pictures(db, "film.mp4", [{**frame(0, phash(1), 0), "thumbnail_sha256": names[0]}])
        write_blob(root, b"renewed")
        assert sweep(session, settings, unneeded).thumbnails == 1
    assert [Path(blob_path(root, name)).exists() for name in names] == [True, True, False]


def test_a_retired_image_space_goes_with_its_clusters_and_the_frames_stay(db, db_url):
    active, old = image_space(db), image_space(db, 16)
    commit_pictures(db, "a.jpg", [frame(0, phash(1), 0, shot=None)], space=active)
    vectors = [unit_vector(number, 16) for number in range(2)]
    frames = [frame(0, phash(2), 0), frame(1, phash(3), 1000)]
    commit_pictures(db, "film.mp4", frames, space=old, vectors=vectors)
    for space in (active, old):
        visual.decide_waiting(db, space, 0.72)
    found = gc.find_unneeded(db, NOTHING)
    assert [(item.what, item.rows) for item in found] == [(f"image space {old.space_id}", 2), ("units", 1)]
    assert gc.drop_space(db, old)
    assert spaces.list_spaces(db) == [active]
    for table in old.tables:
        assert db.execute("SELECT to_regclass(%s)", (table,)).fetchone() == (None,)
    counts = {"frames": 3, "visual_clusters": 1, "visual_members": 1, active.leaders_table: 1}
    for table, count in counts.items():
        assert db.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (count,)
    assert gc.drop_rest(db, NOTHING)["units"] == 1
    lanes = db.execute("SELECT lane FROM units ORDER BY 1").fetchall()
    assert lanes == [("frames",), ("frames",), ("images",)]


def test_the_command_asks_says_sizes_and_drops(db, db_url):
    store(db, 1)
    retired_space(db)
    looked = rushes("db", "gc", "--dry-run", url=db_url)
    assert "text space 3" in looked.stdout
    refused = rushes("db", "gc", url=db_url)
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    assert len(spaces.list_spaces(db)) == 3
    done = rushes("db", "gc", "--yes", url=db_url)
    assert (done.returncode, "freed" in done.stdout) == (0, True)
    assert rushes("db", "gc", url=db_url).stdout == "nothing to drop\n"
    assert PRINTS["speech"] in [row[0] for row in db.execute("SELECT fingerprint FROM units").fetchall()]
