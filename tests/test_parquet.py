"""Parquet exports: the vectors of the database, bit for bit, in files that say what they hold."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.db import gc, spaces, transcripts
from cluster.db.connect import open_connection
from cluster.db.results import commit_row
from cluster.db.transcripts import name_assets
from cluster.db.turns import give_turns
from cluster.errors import UsageError
from cluster.formats.rttm import NamedTurn
from jobs.export import ExportOptions, export
from tests.corpus_rows import PRINTS, choice, claimed, computed_row, make_spaces, new_asset, new_run


def fill(conn, *names, dimension=8, segments=4):
    made, run_id = make_spaces(conn, dimension), new_run(conn)
    for name in names:
        asset_id = new_asset(conn, name)
        row = computed_row(asset_id, claimed(conn, run_id, asset_id), dimension=dimension, segments=segments)
        assert commit_row(conn, run_id, row, made) == "done"
    return made


def write(conn, folder, **options):
    done = export(conn, name_assets(conn), ExportOptions(["parquet"], folder, **options))
    assert done.failures == []
    return done


def stored(conn, table, parent, key):
    query = (
        f"SELECT encode(sha256, 'hex'), idx, embedding FROM {table} JOIN {parent} USING ({key})"
        " JOIN assets USING (asset_id)"
    )
    rows = conn.execute(query.encode(), binary=True).fetchall()
    return {(sha256, idx): vector.to_numpy() for sha256, idx, vector in rows}


def exported(folder, column):
    rows = pq.read_table(folder).to_pylist()
    return {(row["sha256"], row["idx"]): row[column] for row in rows if row[column] is not None}


@pytest.mark.parametrize(("dimension", "dtype"), [(8, np.float32), (512, np.float16)])
def test_vectors_are_those_of_the_database_bit_for_bit(dimension, dtype, db, tmp_path):
    made = fill(db, "a.wav", "b.wav", dimension=dimension)
    write(db, tmp_path)
    for kind, folder, parent, key in (
        ("voice", "segments", "segments", "segment_id"),
        ("text", "chunks", "chunks", "chunk_id"),
    ):
        want = stored(db, made[kind].table_name, parent, key)
        have = exported(tmp_path / folder, f"{kind}_vector")
        assert have.keys() == want.keys()
        assert len(want) == {"voice": 6, "text": 2}[kind]
        for at, vector in have.items():
            assert want[at].dtype == dtype
            assert np.array_equal(np.asarray(vector, np.float32).astype(dtype), want[at])
            assert np.array_equal(np.asarray(vector, np.float32), want[at].astype(np.float32))


def test_the_vectors_of_a_real_corpus_survive(corpus, tmp_path):
    write(corpus, tmp_path)
    want = stored(corpus, "voice_vectors_1", "segments", "segment_id")
    have = exported(tmp_path / "segments", "voice_vector")
    assert have.keys() == want.keys()
    assert have
    assert all(np.array_equal(np.asarray(have[at], np.float32), want[at]) for at in want)
    words = {row["idx"]: row["words"] for row in pq.read_table(tmp_path / "segments").to_pylist() if row["words"]}
    assert all(
        {"start_ms", "end_ms", "text", "probability"} == word.keys() for found in words.values() for word in found
    )


def test_every_file_says_which_space_its_vectors_are_of(db, tmp_path):
    db.execute("UPDATE assets SET title = 'x'")
    fill(db, "a.wav")
    db.execute(
        "UPDATE spaces SET identity = jsonb_build_object('weights', 'hub:org/voices@' || repeat('ab', 20))"
        " WHERE kind = 'voice'"
    )
    write(db, tmp_path)
    schema = pq.read_schema(next((tmp_path / "segments").rglob("*.parquet")))
    said = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert said["rushes.revision"] == "ab" * 20
    assert (said["rushes.kind"], said["rushes.dimension"], said["rushes.space"]) == ("voice", "8", "1")
    assert said["rushes.model"] == "path:/none"
    assert said["rushes.times"].startswith("ms")
    assert schema.field("voice_vector").type == pa.list_(pa.float32(), 8)
    assert schema.field("start_ms").type == pa.int32()
    chunk = pq.read_schema(next((tmp_path / "chunks").rglob("*.parquet")))
    assert chunk.metadata[b"rushes.kind"] == b"text"


def test_a_segment_without_a_voice_has_its_reason_and_no_vector(db, tmp_path):
    fill(db, "a.wav")
    write(db, tmp_path)
    rows = pq.read_table(tmp_path / "segments").to_pylist()
    assert [row["voice_skip_reason"] for row in rows] == [None, None, "too_short", None]
    assert [row["voice_vector"] is None for row in rows] == [False, False, True, False]
    assert [row["speaker"] for row in rows] == ["A", "B", "A", "UNKNOWN"]
    assert rows[0]["confidence"] == pytest.approx(0.9)


def test_rows_are_streamed_in_batches(db, tmp_path, monkeypatch):
    monkeypatch.setattr(transcripts, "BATCH_ROWS", 3)
    fill(db, "a.wav", segments=10)
    write(db, tmp_path)
    file = pq.ParquetFile(next((tmp_path / "segments").rglob("*.parquet")))
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [3, 3, 3, 1]
    assert file.read().column("idx").to_pylist() == list(range(10))


def test_an_asset_without_speech_has_files_with_columns_and_no_rows(db, tmp_path):
    fill(db, "silent.wav", segments=0)
    write(db, tmp_path)
    assert (pq.read_table(tmp_path / "segments").num_rows, pq.read_table(tmp_path / "chunks").num_rows) == (0, 0)


def test_by_speaker_each_speaker_is_a_folder(db, tmp_path):
    fill(db, "a.wav")
    write(db, tmp_path, by_speaker=True)
    table = pq.read_table(tmp_path / "segments_by_speaker")
    found = {(str(row["speaker"]), row["idx"]) for row in table.to_pylist()}
    assert found == {("A", 0), ("B", 1), ("A", 2), ("UNKNOWN", 3)}


def test_by_speaker_a_rerun_leaves_nothing_under_an_old_name(db, tmp_path):
    fill(db, "a.wav", "b.wav")
    write(db, tmp_path, by_speaker=True)
    first = name_assets(db)[0]
    turns = [NamedTurn(0, 900, "Ada / Ann"), NamedTurn(1000, 1900, None)]
    give_turns(db, first.asset_id, turns, PRINTS)
    write(db, tmp_path, by_speaker=True)
    rows = [row for row in pq.read_table(tmp_path / "segments_by_speaker").to_pylist() if row["sha256"] == first.sha256]
    assert sorted((str(row["speaker"]), row["idx"]) for row in rows) == [("Ada / Ann", 0), ("UNKNOWN", 1)]


def test_a_named_space_replaces_the_active_one(db, tmp_path):
    fill(db, "a.wav")
    other = make_spaces(db, 16)
    assert not other["voice"].is_active
    write(db, tmp_path / "active")
    write(db, tmp_path / "named", spaces=[other["voice"].space_id])
    field = pq.read_schema(next((tmp_path / "named" / "segments").rglob("*.parquet"))).field("voice_vector")
    assert field.type == pa.list_(pa.float32(), 16)
    assert exported(tmp_path / "named" / "segments", "voice_vector") == {}
    assert len(exported(tmp_path / "active" / "segments", "voice_vector")) == 3
    with pytest.raises(UsageError, match="there is no space 99; known: 1"):
        write(db, tmp_path, spaces=[99])
    with pytest.raises(UsageError, match="of one kind"):
        write(db, tmp_path, spaces=[1, other["voice"].space_id])


def test_without_any_space_segments_are_exported_without_vectors(db, tmp_path):
    run_id, asset_id = new_run(db), new_asset(db, "a.wav")
    row = computed_row(asset_id, claimed(db, run_id, asset_id, ("speech",)))
    commit_row(db, run_id, row, {})
    write(db, tmp_path)
    table = pq.read_table(tmp_path / "segments")
    assert table.num_rows == 4
    assert "voice_vector" not in table.column_names
    assert not (tmp_path / "chunks").exists()


def test_no_sweep_drops_a_space_while_it_is_exported(db, db_url, tmp_path):
    fill(db, "a.wav", "b.wav")
    old = spaces.active_space(db, "text")
    new = spaces.ensure_space(db, "text", choice("text", 16, "new"), {"new": True})
    db.execute("UPDATE spaces SET is_active = false WHERE kind = 'text'")
    db.execute("UPDATE spaces SET is_active = true WHERE space_id = %s", (new.space_id,))
    dropped = []
    with open_connection(db_url) as conn, open_connection(db_url) as other:
        options = ExportOptions(["parquet"], tmp_path, spaces=[old.space_id])
        done = export(conn, name_assets(conn), options, lambda _: dropped.append(gc.drop_space(other, old)))
    assert dropped == [False] * 4
    assert (len(done.files), done.failures) == (4, [])
    assert len(exported(tmp_path / "chunks", "text_vector")) == 2


def test_an_asset_is_read_as_one_moment_of_the_corpus(db, db_url, tmp_path):
    fill(db, "a.wav")
    with open_connection(db_url) as conn, open_connection(db_url) as other:
        done = export(
            conn, name_assets(conn), ExportOptions(["parquet"], tmp_path), lambda _: other.execute("DELETE FROM chunks")
        )
    assert len(done.files) == 2
    assert len(exported(tmp_path / "chunks", "text_vector")) == 1
    assert db.execute("SELECT count(*) FROM chunks").fetchone() == (0,)
