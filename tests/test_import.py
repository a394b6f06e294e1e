"""Imports: what a person gives stands in every rerun, can be taken back, and leaves nothing half done."""

from __future__ import annotations

import json

import psycopg
import pytest

from cluster.db import ledger, runs, turns
from cluster.db.check import check_corpus
from cluster.db.connect import open_connection
from cluster.db.dump import canonical_dump, differences
from cluster.db.report import find_asset
from cluster.db.results import commit_row
from cluster.db.speakers.who import speakers_in
from cluster.db.transcripts import name_assets, read_transcript
from cluster.errors import RushesError
from cluster.formats import to_rttm
from cluster.formats.rttm import NamedTurn, parse_rttm
from cluster.settings import load_settings
from tests.archive import run
from tests.corpus_rows import PRINTS, claimed, computed_row, make_spaces, new_asset, new_run
from tests.test_cli import rushes

GIVEN = (
    ";; by hand\n"
    "SPEAKER call 1 6.000 2.000 <NA> <NA> Jo_Doe <NA> <NA>\n"
    "SPEAKER call 1 7.500 2.000 <NA> <NA> Ada <NA> <NA>\n"
    "SPEAKER call 1 9.000 5.000 <NA> <NA> UNKNOWN <NA> <NA>\n"
)


def exported(conn, name="call"):
    [named] = [item for item in name_assets(conn) if item.name == name]
    return to_rttm(read_transcript(conn, named))


def give(conn, asset_id, text=GIVEN):
    [given] = parse_rttm(text.splitlines(), "x.rttm").turns.values()
    return turns.give_turns(conn, asset_id, given, PRINTS)


def committed(conn, name="a.wav", **options):
    made, run_id, asset_id = make_spaces(conn), new_run(conn), new_asset(conn, name)
    row = computed_row(asset_id, claimed(conn, run_id, asset_id), **options)
    assert commit_row(conn, run_id, row, made) == "done"
    return asset_id


def states(conn, asset_id):
    return dict(conn.execute("SELECT lane, state FROM units WHERE asset_id = %s", (asset_id,)).fetchall())


def sound(conn):
    return not any(check_corpus(conn).values())


def test_an_export_imported_again_changes_nothing(corpus, corpus_url, tmp_path):
    before, text = canonical_dump(corpus), exported(corpus)
    (tmp_path / "call.rttm").write_text(text)
    done = rushes("import", str(tmp_path / "call.rttm"), url=corpus_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the segments are these already" in done.stdout
    assert exported(corpus) == text
    assert [line for line in differences(before, canonical_dump(corpus)) if "given_turns" not in line] == []


def test_given_turns_stand_in_for_the_diarizer_until_they_are_taken_back(corpus, corpus_url, media, tmp_path):
    found = exported(corpus)
    (tmp_path / "hand.rttm").write_text(GIVEN)
    assert "rushes ingest" in rushes("import", str(tmp_path / "hand.rttm"), url=corpus_url).stdout
    imported = exported(corpus)
    assert imported.splitlines() == GIVEN.splitlines()[1:]
    assert sound(corpus)
    summary = run(corpus_url, [str(media / "call.wav")])
    assert (summary.ok, summary.outputs["voices"]) == (1, 3)
    assert "speech" not in summary.outputs
    assert sound(corpus)
    before = canonical_dump(corpus)
    run(corpus_url, [str(media / "call.wav")], force=True)
    assert differences(before, canonical_dump(corpus)) == []
    run(corpus_url, [str(media / "call.wav")], {"segment_source": "whisper"}, lanes=("speech",))
    assert exported(corpus) == imported
    assert "Jo_Doe 1, Ada 1, unknown 1" in rushes("show", "call.wav", url=corpus_url).stdout
    assert "Jo_Doe 1" in rushes("status", url=corpus_url).stdout
    refused = rushes("import", "--forget-turns", "call.wav", url=corpus_url)
    assert (refused.returncode, "add --yes" in refused.stderr) == (2, True)
    taken = rushes("import", "--forget-turns", "call.wav", "--yes", url=corpus_url).stdout
    assert "3 turn(s) taken back" in taken
    assert f"rushes ingest --force {media / 'call.wav'}`" in taken
    run(corpus_url, [str(media / "call.wav")], force=True)
    assert exported(corpus) == found
    assert sound(corpus)


def test_turns_given_before_the_first_ingest_are_used_by_it(db, db_url, media):
    run(db_url, [str(media / "call.wav")], lanes=("texts",))
    asset_id = find_asset(db, "call.wav")["asset_id"]
    assert give(db, asset_id) == "stored"
    assert db.execute("SELECT count(*) FROM segments").fetchone() == (0,)
    run(db_url, [str(media / "call.wav")], lanes=("speech",))
    assert exported(db).splitlines() == GIVEN.splitlines()[1:]


def test_an_import_is_whole_or_nothing(db, monkeypatch):
    asset_id = committed(db)
    before = canonical_dump(db)

    def dies(*_):
        raise RuntimeError("power cut")

    monkeypatch.setattr(turns, "_settle", dies)
    with pytest.raises(RuntimeError):
        give(db, asset_id)
    assert differences(before, canonical_dump(db)) == []
    monkeypatch.undo()
    assert give(db, asset_id) == "rebuilt"
    assert states(db, asset_id) == {"speech": "done", "voices": "pending", "texts": "pending"}
    assert sound(db)


def test_what_other_models_derived_from_the_old_segments_goes(db):
    asset_id = committed(db)
    db.execute("INSERT INTO units (asset_id, lane, fingerprint, state, outputs) VALUES (%s, 'texts', 't0', 'done', 1)",
               (asset_id,))  # fmt: skip
    give(db, asset_id)
    prints = db.execute("SELECT fingerprint FROM units WHERE lane = 'texts'").fetchall()
    assert prints == [("t1",)]
    assert db.execute("SELECT count(*) FROM voices").fetchone() == (0,)


def test_an_asset_that_a_run_works_on_is_refused_and_a_dead_runs_late_commit_writes_nothing(db, db_url):
    asset_id = committed(db)
    ledger.reset_units(db, [asset_id], PRINTS, ["speech", "voices", "texts"], ["done"])
    with open_connection(db_url) as driver:
        run_id = new_run(driver)
        late = computed_row(asset_id, claimed(driver, run_id, asset_id), text="late")
        with pytest.raises(RushesError, match=f"run {str(run_id)[:8]} works on it"):
            give(db, asset_id)
        assert turns.read_turns(db, asset_id) is None
    runs.recover_dead_runs(db)
    assert give(db, asset_id) == "rebuilt"
    assert commit_row(db, run_id, late, make_spaces(db)) == "fenced"
    assert "late" not in {row["text"][:4] for row in ledger.read_segments(db, asset_id)}
    assert exported(db, "a").splitlines()[1:] == GIVEN.replace("call", "a").splitlines()[1:]


def test_no_run_claims_an_asset_while_its_turns_are_written(db, db_url):
    asset_id = committed(db)
    ledger.reset_units(db, [asset_id], PRINTS, ["speech"], ["done"])
    with open_connection(db_url) as other, db.transaction():
        other.execute("SET lock_timeout = '100ms'")
        run_id = new_run(other)
        turns._take(db, asset_id)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            ledger.claim_units(other, run_id, asset_id, ["speech"], PRINTS)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            ledger.ensure_units(other, [asset_id], {**PRINTS, "speech": "s2"}, ["speech"])


def test_two_hundred_names_and_overlaps_are_kept_verbatim(db):
    asset_id = committed(db)
    given = [NamedTurn(at * 100, at * 100 + 1_000, f"P{at % 200}") for at in range(500)]
    turns.give_turns(db, asset_id, given, PRINTS)
    rows = ledger.read_segments(db, asset_id)
    speakers = speakers_in(db, asset_id)
    assert [(row["start_ms"], row["end_ms"], speakers[row["idx"]].name) for row in rows] == [
        (turn.start_ms, turn.end_ms, turn.speaker) for turn in given
    ]
    assert sound(db)


@pytest.mark.parametrize(
    ("text", "options", "code", "message"),
    [
        ("SPEAKER call 1 -1 2 <NA> <NA> A <NA> <NA>", [], 1, "line 1: start '-1'"),
        ("SPEAKER other 1 1 2 <NA> <NA> A <NA> <NA>", [], 1, "no asset is called 'other': say which with --asset"),
        ("SPEAKER call 1 100 2 <NA> <NA> A <NA> <NA>", [], 1, "ends at 102.000 s, but call is 14.000 s long"),
        ("SPEAKER x 1 1 2 <NA> <NA> A <NA> <NA>\nSPEAKER y 1 1 2 <NA> <NA> A <NA> <NA>", ["--asset", "call.wav"], 2,
         "is about 2 recordings (x, y)"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_writes_nothing(text, options, code, message, corpus, corpus_url, tmp_path):
    good = "SPEAKER silence 1 1 1 <NA> <NA> A <NA> <NA>\n"
    (tmp_path / "good.rttm").write_text(good)
    (tmp_path / "bad.rttm").write_text(text)
    files = [str(tmp_path / "bad.rttm")] if options else [str(tmp_path / "good.rttm"), str(tmp_path / "bad.rttm")]
    done = rushes("import", *files, *options, url=corpus_url)
    assert done.returncode == code
    assert message in done.stderr
    assert corpus.execute("SELECT count(*) FROM given_turns").fetchone() == (0,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "import what?"),
        (["/no/such.rttm"], "/no/such.rttm does not exist"),
        ([__file__], "only folders, .rttm and .info.json"),
        (["--asset", "x", "--add-tag", "y" * 301], "--add-tag has 301 characters"),
        (["--asset", "x", "--add-tag", " "], "one is empty"),
        (["--forget-turns", "x"], "no asset matches 'x'"),
    ],
)
def test_a_mistake_is_one_line(words, message, db_url):
    done = rushes("import", *words, url=db_url)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_settings_of_the_import_name_the_units_that_wait(corpus_url, corpus, tmp_path):
    from actors.lanes import fingerprints

    (tmp_path / "hand.rttm").write_text(GIVEN)
    assert rushes("import", str(tmp_path / "hand.rttm"), "--dry-run", url=corpus_url).stdout == (
        "would import call: 3 turn(s) of 2 speaker(s)\n"
    )
    assert corpus.execute("SELECT count(*) FROM given_turns").fetchone() == (0,)
    rushes("import", str(tmp_path / "hand.rttm"), url=corpus_url)
    prints = fingerprints(load_settings(None))
    waiting = corpus.execute("SELECT lane, fingerprint FROM units WHERE state = 'pending'").fetchall()
    assert sorted(waiting) == [("texts", prints["texts"]), ("voices", prints["voices"])]


def test_json_names_the_speakers_that_were_given(db):
    from cluster.formats import to_json

    asset_id = committed(db)
    give(db, asset_id)
    [named] = name_assets(db)
    content = json.loads(to_json(read_transcript(db, named)))
    assert [item["name"] for item in content["speakers"]] == ["Jo_Doe", "Ada", "UNKNOWN"]
