"""The main job on real recordings, real weights and a real database, without Ray."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import psycopg
import pytest

from cluster.db import report, spaces
from cluster.db.check import check_corpus
from cluster.db.connect import open_connection
from cluster.errors import RushesError, UsageError
from cluster.selection import parse_failure_limit
from cluster.settings import load_settings
from jobs.cli.progress import LineReporter
from jobs.ingest import IngestOptions, ingest
from jobs.summary import describe
from tests.conftest import database_url
from tests.media_factory import call_wav, silence, write_video, write_wav
from tests.tiny_text_model import tiny_text_model


def read_call():
    import wave

    with wave.open(str(call_wav())) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


def build_media(folder: Path) -> Path:
    """A call, its copy, a film with sound, one without, silence, a broken file, a note."""
    folder.mkdir()
    call = read_call()
    write_wav(folder / "call.wav", call[: 14 * 16_000], 16_000)
    write_wav(folder / "copy.wav", call[: 14 * 16_000], 16_000)
    write_video(folder / "2024-03-09 film.mp4", 8, call[14 * 16_000 : 22 * 16_000])
    write_video(folder / "mute.mp4", 2, None)
    write_wav(folder / "silence.wav", silence(3), 16_000)
    (folder / "broken.mp4").write_bytes(b"this is not a film")
    (folder / "notes.txt").write_text("not media")
    return folder


def run(url, inputs=(), flags=None, reporter=None, **options):
    settings = load_settings(None, database_url=url, cpus=2, **(flags or {}))
    return ingest(
        settings, IngestOptions(inputs=inputs, **options), reporter or LineReporter(quiet=True, verbose=False)
    )


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    return build_media(tmp_path_factory.mktemp("media") / "all")


@pytest.fixture(scope="session")
def ingested(server_url, media, tmp_path_factory):
    """One database with everything ingested; tests work on clones of it."""
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute("CREATE DATABASE template_ingested TEMPLATE template_corpus")
    url = database_url(server_url, "template_ingested")
    summary = run(url, [str(media)], {"data_dir": tmp_path_factory.mktemp("data")})
    return url, summary


@pytest.fixture
def corpus_url(server_url, ingested):
    name = f"clone_{uuid.uuid4().hex[:10]}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE template_ingested".encode())
    yield database_url(server_url, name)
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def conn(corpus_url):
    with open_connection(corpus_url) as connection:
        yield connection


def scalar(conn, query):
    return conn.execute(query).fetchone()[0]


def test_every_recording_is_done_and_the_counts_add_up(ingested, conn):
    _, summary = ingested
    assert (summary.planned, summary.ok, summary.failed, summary.skipped) == (4, 3, 1, 0)
    assert summary.ignored == 1
    assert summary.exit_code == 3
    assert describe(summary)[-1].endswith(f"3 ok · 1 failed · 0 skipped · run {summary.run_id[:8]}")
    assert not any(check_corpus(conn).values())
    rows = {Path(row["uris"][0]).name: row for row in report.assets_table(conn)}
    assert [Path(uri).name for uri in rows["call.wav"]["uris"]] == ["call.wav", "copy.wav"]
    assert rows["mute.mp4"]["lanes"] == dict.fromkeys(("speech", "voices", "texts"), "skipped")
    assert rows["silence.wav"]["lanes"]["speech"] == "done"
    assert rows["silence.wav"]["speakers"] is None
    assert rows["2024-03-09 film.mp4"]["recorded_at"].strftime("%Y-%m-%d") == "2024-03-09"
    assert scalar(conn, "SELECT count(*) FROM segments") == scalar(conn, "SELECT count(*) FROM voices") > 2


def test_a_failed_file_says_which_and_why(conn):
    [failure] = report.open_failures(conn, report.FailureFilter())
    assert Path(failure["uri"]).name == "broken.mp4"
    assert (failure["failure"], failure["stage"]) == ("bad_media", "register")
    assert "Traceback" not in failure["message"]


def test_again_there_is_nothing_to_do_and_no_model_is_touched(corpus_url, media, monkeypatch):
    import jobs.runners

    monkeypatch.setattr(jobs.runners, "build_chain", lambda *a: pytest.fail("a chain was built"))
    summary = run(corpus_url, [str(media)])
    assert summary.state == "nothing"
    assert summary.exit_code == 0
    assert describe(summary) == ["nothing to do: 3 done, 1 failed, 1 skipped; see `rushes failures list`"]


def test_forcing_reuses_every_voice_and_gives_the_same_rows(corpus_url, conn, media, monkeypatch):
    import actors.ge2e

    query = "SELECT asset_id, idx, start_ms, end_ms, local_speaker, text, words FROM segments ORDER BY 1, 2"
    before = conn.execute(query).fetchall()
    vectors = scalar(conn, "SELECT count(*) FROM voice_vectors_1")
    monkeypatch.setattr(actors.ge2e.Ge2eEncoder, "embed", lambda *a: pytest.fail("a voice was computed"))
    summary = run(corpus_url, [str(media)], force=True)
    assert (summary.ok, summary.failed) == (3, 1)
    assert summary.outputs["voice_cache_hits"] == vectors == scalar(conn, "SELECT count(*) FROM voice_vectors_1")
    assert conn.execute(query).fetchall() == before
    assert not any(check_corpus(conn).values())


def test_a_second_text_space_stands_beside_the_first_and_search_uses_the_active_one(
    corpus_url, conn, tmp_path, monkeypatch
):
    import actors.decode

    config = tmp_path / "rushes.toml"
    model = tiny_text_model(tmp_path / "model", dimension=32)
    config.write_text(f'[profiles.own.text]\nweights = "path:{model}"\ndimension = 32\nmax_tokens = 64\n')
    monkeypatch.setenv("RUSHES_CONFIG", str(config))
    monkeypatch.setattr(actors.decode.Decode, "process", lambda *a: pytest.fail("media was touched"))
    segments = conn.execute("SELECT array_agg(segment_id ORDER BY segment_id) FROM segments").fetchone()
    old = spaces.active_space(conn, "text")
    summary = run(corpus_url, lanes=("texts",), flags={"text": {"profile": "own"}})
    assert (summary.ok, summary.failed) == (3, 0)
    new = spaces.active_space(conn, "text")
    assert (old.dimension, new.dimension) == (384, 32)
    assert conn.execute("SELECT array_agg(segment_id ORDER BY segment_id) FROM segments").fetchone() == segments
    assert scalar(conn, f"SELECT count(*) FROM {old.table_name}".encode()) > 0
    from jobs.cli.search import find

    assert find(conn, "originally from Chicago", None, 3)
    back = run(corpus_url, lanes=("texts",))
    assert back.state == "nothing"
    assert spaces.active_space(conn, "text").space_id == old.space_id
    assert not any(check_corpus(conn).values())


def test_search_finds_the_sentence_with_its_time(conn):
    from jobs.cli.search import find

    [hit, *_] = find(conn, "originally from Chicago", None, 3)
    assert "Chicago" in hit.text
    assert 0 <= hit.start_ms < hit.end_ms <= 30_000


def test_whisper_boundaries_give_unknown_speakers_with_voices(corpus_url, conn, media):
    summary = run(corpus_url, [str(media / "call.wav")], {"segment_source": "whisper"})
    assert (summary.ok, summary.failed) == (1, 0)
    asset = report.find_asset(conn, str(media / "call.wav"))["asset_id"]
    rows = conn.execute(
        "SELECT s.local_speaker, v.skip_reason, e.segment_id IS NOT NULL FROM segments s"
        " JOIN voices v USING (segment_id) LEFT JOIN voice_vectors_1 e USING (segment_id) WHERE s.asset_id = %s",
        (asset,),
    ).fetchall()
    assert len(rows) > 1
    assert {row[0] for row in rows} == {None}
    assert all((reason is None) == has_vector for _, reason, has_vector in rows)
    assert not any(check_corpus(conn).values())


def test_an_interrupted_run_keeps_what_it_committed_and_goes_on(db_url, media):
    class Impatient(LineReporter):
        def finished(self, row, summary):
            raise KeyboardInterrupt

    summary = run(db_url, [str(media)], reporter=Impatient(quiet=True, verbose=False))
    assert summary.exit_code == 130
    again = run(db_url, [str(media)])
    assert (again.planned, again.ok, again.exit_code) == (2, 2, 0)
    with open_connection(db_url) as conn:
        assert not any(check_corpus(conn).values())
        assert scalar(conn, "SELECT count(*) FROM units WHERE state IN ('running', 'pending')") == 0


def test_limits_dry_runs_and_failure_limits(db_url, media, tmp_path):
    dry = run(db_url, [str(media)], dry_run=True)
    assert dry.exit_code == 0
    assert "would be read first" in describe(dry)[0]
    bad = tmp_path / "bad"
    bad.mkdir()
    for number in range(3):
        write_wav(bad / f"{number}.wav", np.full(16_000, number, np.int16), 16_000)
    run(db_url, [str(bad)], {"decode_base_s": 1e-9, "decode_s_per_hour": 1e-9}, limit=1)
    with open_connection(db_url) as conn:
        [failure] = report.open_failures(conn, report.FailureFilter())
        assert failure["failure"] == "timeout"
        with pytest.raises(RushesError, match="stopped after 1 failed of 1"):
            run(db_url, [str(bad)], {"decode_base_s": 1e-9, "decode_s_per_hour": 1e-9},
                max_failures=parse_failure_limit("0"))  # fmt: skip
        assert run(db_url, [str(bad)], retry_failed=True).ok == 3
        assert report.open_failures(conn, report.FailureFilter()) == []


def test_a_missing_input_is_the_users_to_mend(db_url):
    with pytest.raises(UsageError, match="/no/such/folder"):
        run(db_url, ["/no/such/folder"])
