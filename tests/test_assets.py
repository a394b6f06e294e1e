"""Assets under their labels, and forgotten without a trace."""

from __future__ import annotations

import json
import threading
import time

import pytest
from psycopg import sql

from cluster.db import counts, ledger, results, visual
from cluster.db.assets import Page, add_label, drop_label, list_assets
from cluster.db.check import check_corpus
from cluster.db.connect import open_connection
from cluster.db.filter import AssetFilter, matching
from cluster.db.forget import forget_asset, holdings, without_source
from cluster.db.speakers.actions import label, rename
from cluster.db.speakers.events import Target
from cluster.errors import UsageError
from cluster.media import store
from jobs.forget import vanished
from tests.archive import run
from tests.corpus_rows import PRINTS, claimed, computed_row, make_spaces, new_asset, new_run
from tests.picture_rows import PICTURE_PRINTS, commit_pictures, frame, image_space, phash, picture_row, unit
from tests.test_cli import rushes
from tests.test_hostile_changes import Meanwhile
from tests.waits import until_it_waits


def committed(db, name, *, sound=None):
    run_id, made, asset_id = new_run(db), make_spaces(db), new_asset(db, name)
    row = computed_row(asset_id, claimed(db, run_id, asset_id))
    row["audio_sha256"] = sound or row["audio_sha256"]
    assert results.commit_row(db, run_id, row, made) == "done"
    return asset_id


def row_counts(db) -> dict[str, int]:
    """Every table of the schema, those of the spaces among them -> its rows."""
    tables = db.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
        " AND table_type = 'BASE TABLE'"
    ).fetchall()
    count = sql.SQL("SELECT count(*) FROM {}")
    return {name: db.execute(count.format(sql.Identifier(name))).fetchone()[0] for (name,) in tables}


def everything_about(db, asset_id):
    """One row of every kind that may hang on an asset, beside those of its commit."""
    add_label(db, "tag", "news", [asset_id])
    add_label(db, "collection", "spring", [asset_id])
    db.execute("INSERT INTO given_turns VALUES (%s, 0, 0, 900, 0, 'Ann')", (asset_id,))
    db.execute("INSERT INTO crash_claims VALUES (gen_random_uuid(), %s, gen_random_uuid(), 'decode', 1)", (asset_id,))
    db.execute(
        "INSERT INTO failures (asset_id, uri, failure, stage, message) SELECT a, u, 'bad_media', 'decode', '-'"
        " FROM (SELECT %s::bigint AS a, NULL AS u UNION SELECT NULL, '/media/a') t",
        (asset_id,),
    )
    everything_about_people(db, asset_id)


def everything_about_people(db, asset_id):
    """What persons and the machine may say of its voices, and what follows."""
    target = Target(asset_id, 0, 900)
    for name in ("Ann", "Bea"):
        label(db, name, [target], "me")
    label(db, "Bea", [Target(asset_id, 1_000, 1_900, "segment")], "me")
    rename(db, "Bea", "Bee", "me")
    db.execute("INSERT INTO segment_groups SELECT segment_id, asset_id, 0 FROM segments WHERE idx = 3")
    db.execute("INSERT INTO voice_clusters (space_id) VALUES (1)")
    db.execute("INSERT INTO cluster_members SELECT %s, 0, 1, cluster_id, cluster_id, 1 FROM voice_clusters",
               (asset_id,))  # fmt: skip
    db.execute("INSERT INTO identifications SELECT %s, 1, 1, max(speaker_id), 0.9, 0.1, 0.8, true FROM speakers",
               (asset_id,))  # fmt: skip
    db.execute("INSERT INTO recognised_from SELECT run_id, max(speaker_id), 1 FROM runs, speakers GROUP BY 1 LIMIT 1")
    db.execute("INSERT INTO forgotten_voices VALUES (%s, 0, 900)", (asset_id,))
    db.execute("INSERT INTO local_voices_1 SELECT %s, 0, 900, embedding FROM voice_vectors_1 LIMIT 1", (asset_id,))
    db.execute("INSERT INTO speaker_means_1 SELECT max(speaker_id), 1, array_fill(0.1, ARRAY[8])::vector FROM speakers")


def everything_about_pictures(db, asset_id, other, space):
    """What it shows, and what persons and the machine may say of that."""
    run_id = new_run(db)
    db.execute("UPDATE assets SET media_kind = 'video' WHERE asset_id = %s", (asset_id,))
    units = claimed(db, run_id, asset_id, ("frames", "images"), PICTURE_PRINTS)
    row = picture_row(asset_id, units, [frame(0, phash(2), 0)], vectors=[unit(0, 1)])
    assert results.commit_row(db, run_id, row, {"image": space}) == "done"
    assert visual.decide_waiting(db, space, 0.72).led == 1
    pair = sorted((asset_id, other))
    db.execute("INSERT INTO near_duplicates VALUES (%s, %s, 'sequence', 1, 1, 1, 0, NULL)", pair)
    db.execute("INSERT INTO anchors (asset_id, phash, is_probe) VALUES (%s, 0::bigint::bit(64), true)", (asset_id,))
    db.execute(
        "INSERT INTO duplicate_events (author, verdict, asset_a, asset_b) VALUES ('me', 'different', %s, %s)", pair
    )


def test_no_row_and_no_vector_of_a_forgotten_asset_is_left_in_any_table(db):
    make_spaces(db)
    space = image_space(db)
    other = commit_pictures(db, "b.mp4", [frame(0, phash(1), 0)], space=space, vectors=[unit(1)])
    visual.decide_waiting(db, space, 0.72)
    kept = {"schema_migrations", "spaces", "runs", "calibrations", "api_keys", "stage_rates"}
    counts.fold(db)
    before = {name: count for name, count in row_counts(db).items() if name not in kept}
    asset_id = committed(db, "a")
    everything_about(db, asset_id)
    everything_about_pictures(db, asset_id, other, space)
    held = {name: count for name, count in row_counts(db).items() if name not in kept}
    untouched = sorted(name for name in held if held[name] == before[name])
    assert untouched == [], "a table that this test does not fill proves nothing"
    assert forget_asset(db, asset_id)
    counts.fold(db)
    assert {name: count for name, count in row_counts(db).items() if name not in kept} == before
    assert not forget_asset(db, asset_id)


def test_forgetting_one_leaves_the_others_and_voices_that_sound_the_same(db):
    one, twin, other = committed(db, "a", sound="aa" * 32), committed(db, "b", sound="aa" * 32), committed(db, "c")
    cached = "SELECT count(*) FROM voice_cache_1"
    before = db.execute(cached).fetchone()[0]
    assert forget_asset(db, one)
    assert db.execute(cached).fetchone()[0] == before
    assert forget_asset(db, twin)
    assert 0 < db.execute(cached).fetchone()[0] < before
    assert [row["asset_id"] for row in list_assets(db, Page())] == [other]
    assert set(check_corpus(db).values()) == {0}


def test_of_two_that_sound_the_same_and_are_forgotten_at_once_no_voice_is_left(db, db_url):
    one, twin = committed(db, "a", sound="aa" * 32), committed(db, "b", sound="aa" * 32)
    with open_connection(db_url) as other:
        forgetting = threading.Thread(target=forget_asset, args=(other, twin))
        with db.transaction():
            forget_asset(db, one)
            forgetting.start()
            until_it_waits(db, forgetting)
        forgetting.join()
    assert db.execute("SELECT count(*) FROM voice_cache_1").fetchone() == (0,)


def test_a_late_commit_of_a_forgotten_asset_writes_nothing(db, db_url):
    run_id, made, asset_id = new_run(db), make_spaces(db), new_asset(db, "a")
    row = computed_row(asset_id, claimed(db, run_id, asset_id))
    assert forget_asset(db, asset_id)
    before = row_counts(db)
    assert results.commit_row(db, run_id, row, made) == "fenced"
    assert row_counts(db) == before


def test_forgetting_waits_for_a_commit_in_progress_and_takes_its_rows_too(db, db_url):
    run_id, made, asset_id = new_run(db), make_spaces(db), new_asset(db, "a")
    row = computed_row(asset_id, claimed(db, run_id, asset_id))
    before = row_counts(db)
    with open_connection(db_url) as other:
        forgetting = threading.Thread(target=forget_asset, args=(other, asset_id))
        with db.transaction():
            results.commit_row(db, run_id, row, made)
            forgetting.start()
            until_it_waits(db, forgetting)
        forgetting.join()
    after = row_counts(db)
    assert (after["assets"], after["segments"], after["voice_cache_1"]) == (0, 0, 0)
    assert before["assets"] == 1


def test_an_asset_that_is_being_forgotten_gets_no_units(db, db_url):
    gone, kept = new_asset(db, "a"), new_asset(db, "b")
    with open_connection(db_url) as other:
        units = threading.Thread(target=ledger.ensure_units, args=(other, [gone, kept], PRINTS, list(PRINTS)))
        with db.transaction():
            forget_asset(db, gone)
            units.start()
            until_it_waits(db, units)
        units.join()
    assert db.execute("SELECT DISTINCT asset_id FROM units").fetchall() == [(kept,)]


def test_a_run_says_that_an_asset_was_forgotten_under_it(corpus_url, corpus, media):
    def forget() -> None:
        with open_connection(corpus_url) as conn:
            [(asset_id,)] = conn.execute("SELECT asset_id FROM sources WHERE uri LIKE '%/silence.wav'").fetchall()
            assert forget_asset(conn, asset_id)

    inputs = [str(media / "silence.wav")]
    summary = run(corpus_url, inputs, reporter=Meanwhile(forget), force=True, lanes=("speech",))
    assert (summary.exit_code, summary.ok, summary.failed, summary.skipped, summary.missing) == (0, 0, 0, 1, 0)
    assert summary.notes == [f"forgotten meanwhile: {media / 'silence.wav'}"]
    assert corpus.execute("SELECT count(*) FROM sources WHERE uri LIKE '%/silence.wav'").fetchone() == (0,)


def test_labels_are_added_once_whatever_their_case_and_taken_away(db):
    ids = [new_asset(db, name) for name in ("a", "b")]
    assert add_label(db, "tag", " News ", ids[:1]) == 1
    assert add_label(db, "tag", "NEWS", ids) == 1
    assert [row["tags"] for row in list_assets(db, Page())] == [["News"], ["News"]]
    assert matching(db, AssetFilter(tags=("news",))) == ids
    assert drop_label(db, "tag", "news", ids[:1]) == 1
    assert drop_label(db, "tag", "news", ids[:1]) == 0
    for name in ("", " ", "a\nb", "x" * 201):
        with pytest.raises(UsageError, match="printable"):
            add_label(db, "collection", name, ids)


def test_a_label_for_an_asset_that_is_being_forgotten_is_left_out(db, db_url):
    ids, added = [new_asset(db, name) for name in ("a", "b")], []
    with open_connection(db_url) as other:
        labelling = threading.Thread(target=lambda: added.append(add_label(other, "tag", "x", ids)))
        with db.transaction():
            forget_asset(db, ids[0])
            labelling.start()
            until_it_waits(db, labelling)
        labelling.join()
    assert added == [1]
    assert matching(db, AssetFilter(tags=("x",))) == ids[1:]


def test_a_thread_that_ended_is_not_waited_for(db):
    ended = threading.Thread(target=int)
    ended.start()
    ended.join()
    with pytest.raises(AssertionError, match="waits for nothing"):
        until_it_waits(db, ended)


def test_names_and_counts_that_no_database_takes_are_one_line(db_url):
    for words in (["forget", "\udcff.wav", "--yes"], ["assets", "tag", "x", "\udcff.wav"], ["status", "\udcff"]):
        refused = rushes(*words, url=db_url)
        assert (refused.returncode, refused.stderr.startswith("error: '\\udcff")) == (2, True), refused.stderr
    for words in (["assets", "list", "--offset"], ["assets", "list", "-n"], ["status", "--limit"]):
        assert rushes(*words, "99999999999999999999", url=db_url).returncode == 2


def test_a_list_is_paged_by_name_and_tells_what_vanished(db):
    ids = [new_asset(db, f"{number:02}.wav") for number in range(5)]
    db.execute("UPDATE sources SET gone_at = now() WHERE uri LIKE '%%/03.wav'")
    assert [row["asset_id"] for row in list_assets(db, Page(limit=2, offset=1))] == ids[1:3]
    assert [row["asset_id"] for row in list_assets(db, Page(vanished=True))] == [ids[3]] == without_source(db)
    assert [row["asset_id"] for row in list_assets(db, Page(ids[:2]))] == ids[:2]
    assert list_assets(db, Page(ids[3:4]))[0]["sources"][0]["gone_at"] is not None


def test_a_page_of_ten_thousand_assets_is_looked_up_alone(db):
    db.execute(
        "INSERT INTO assets (sha256, byte_size, media_kind, audio_stream, duration_ms)"
        " SELECT sha256(n::text::bytea), 1, 'audio', 0, 1000 FROM generate_series(1, 10000) n"
    )
    db.execute("INSERT INTO sources (uri, asset_id, byte_size) SELECT '/media/' || asset_id, asset_id, 1 FROM assets")
    db.execute("ANALYZE")
    began = time.perf_counter()
    assert len(list_assets(db, Page())) == 10_000
    whole_s = time.perf_counter() - began
    began = time.perf_counter()
    assert len(list_assets(db, Page(limit=10))) == 10
    assert time.perf_counter() - began < whole_s / 3


def test_the_commands_label_list_and_forget(corpus_url, media, tmp_path):
    assert "1 asset(s) added" in rushes("assets", "tag", "News", "call.wav", url=corpus_url).stdout
    assert "2 asset(s) added" in rushes("assets", "collect", "spring", "call.wav", "mute.mp4", url=corpus_url).stdout
    [row] = json.loads(rushes("assets", "list", "--tag", "news", "--json", url=corpus_url).stdout)
    assert (row["tags"], row["collections"], len(row["sources"])) == (["News"], ["spring"], 2)
    assert "#News, spring" in rushes("assets", "list", "-n", "5", url=corpus_url).stdout
    absent = rushes("assets", "untag", "weather", "call.wav", url=corpus_url)
    assert (absent.returncode, "has the tag 'weather'" in absent.stderr) == (2, True)
    wrong = rushes("assets", "tag", "x", "mute.mp4", "nothing.wav", url=corpus_url)
    assert (wrong.returncode, "no asset matches 'nothing.wav'" in wrong.stderr) == (2, True)

    dry = rushes("forget", "call.wav", "--dry-run", url=corpus_url)
    assert "1 asset(s) would be forgotten" in dry.stdout
    refused = rushes("forget", "call.wav", url=corpus_url)
    assert (refused.returncode, "add --yes" in refused.stderr) == (2, True)
    assert rushes("forget", url=corpus_url).returncode == 2
    done = rushes("forget", "call.wav", "--yes", url=corpus_url)
    assert "forgotten: 1 asset(s); a later ingest" in done.stdout
    assert (media / "call.wav").exists()
    assert rushes("show", "call.wav", url=corpus_url).returncode == 2
    assert rushes("db", "check", url=corpus_url).returncode == 0
    assert "nothing to forget" in rushes("forget", "--vanished", "--yes", url=corpus_url).stdout


def test_the_nodes_copy_of_an_object_goes_with_its_asset(tmp_path):
    copy = tmp_path / "ab" / f"ab{'0' * 62}"
    copy.parent.mkdir()
    copy.write_bytes(b"x")
    store.drop_cached(tmp_path, copy.name)
    store.drop_cached(tmp_path, copy.name)
    assert not copy.exists()


def test_what_vanished_is_looked_for_once_more_before_it_is_forgotten(db, tmp_path):
    ids = [new_asset(db, name) for name in ("lost", "back", "replaced", "remote")]
    (tmp_path / "back").write_bytes(b"x")
    for asset_id, uri in ((ids[1], str(tmp_path / "back")), (ids[3], "s3://bucket/a.wav")):
        db.execute("UPDATE sources SET uri = %s WHERE asset_id = %s", (uri, asset_id))
    db.execute("UPDATE sources SET gone_at = now()")
    db.execute("DELETE FROM sources WHERE asset_id = %s", (ids[2],))
    assert vanished(db) == ([ids[0], ids[2], ids[3]], 1)


def test_what_is_held_of_an_asset_is_counted(db):
    asset_id = committed(db, "a")
    [held] = holdings(db, [asset_id])
    assert (held.segments, held.voices, held.chunks, held.voice_key) == (4, 3, 1, True)
