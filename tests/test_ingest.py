"""The main job on real recordings, real weights and a real database, without Ray."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pytest

from cluster.db import ledger, report, runs, spaces
from cluster.db.check import check_corpus
from cluster.db.connect import open_connection
from cluster.errors import UsageError
from cluster.selection import parse_failure_limit
from jobs import ingest as main_job
from jobs.cli.progress import LineReporter
from jobs.summary import describe
from tests.archive import run
from tests.media_factory import silence, write_wav
from tests.tiny_text_model import tiny_text_model


def scalar(corpus, query):
    return corpus.execute(query).fetchone()[0]


def test_every_recording_is_done_and_the_counts_add_up(ingested, corpus):
    _, summary = ingested
    assert (summary.planned, summary.ok, summary.failed, summary.skipped) == (5, 4, 1, 0)
    assert summary.ignored == 1
    assert summary.exit_code == 3
    assert describe(summary)[-1].endswith(f"4 ok · 1 failed · 0 skipped · run {summary.run_id[:8]}")
    assert not any(check_corpus(corpus).values())
    rows = {Path(row["uris"][0]).name: row for row in report.assets_table(corpus)}
    assert [Path(uri).name for uri in rows["call.wav"]["uris"]] == ["call.wav", "copy.wav"]
    unheard = dict.fromkeys(("speech", "voices", "texts"), "skipped")
    assert rows["mute.mp4"]["lanes"] == {**unheard, "frames": "done"}
    assert rows["silence.wav"]["lanes"]["speech"] == "done"
    assert rows["silence.wav"]["speakers"] is None
    assert rows["2024-03-09 film.mp4"]["recorded_at"].strftime("%Y-%m-%d") == "2024-03-09"
    assert scalar(corpus, "SELECT count(*) FROM segments") == scalar(corpus, "SELECT count(*) FROM voices") > 2


def test_a_failed_file_says_which_and_why(corpus):
    [failure] = report.open_failures(corpus, report.FailureFilter())
    assert Path(failure["uri"]).name == "broken.mp4"
    assert (failure["failure"], failure["stage"]) == ("bad_media", "register")
    assert "Traceback" not in failure["message"]


def test_again_there_is_nothing_to_do_and_no_model_is_touched(corpus_url, media, monkeypatch):
    import jobs.runners

    monkeypatch.setattr(jobs.runners, "build_chain", lambda *a: pytest.fail("a chain was built"))
    summary = run(corpus_url, [str(media)])
    assert summary.state == "nothing"
    assert summary.exit_code == 0
    assert describe(summary) == ["nothing to do: 4 done, 1 failed; see `rushes failures list`"]


def test_forcing_reuses_every_voice_and_gives_the_same_rows(corpus_url, corpus, media, monkeypatch):
    import actors.ge2e

    query = "SELECT asset_id, idx, start_ms, end_ms, local_speaker, text, words FROM segments ORDER BY 1, 2"
    before = corpus.execute(query).fetchall()
    vectors = scalar(corpus, "SELECT count(*) FROM voice_vectors_1")
    monkeypatch.setattr(actors.ge2e.Ge2eEncoder, "embed", lambda *a: pytest.fail("a voice was computed"))
    summary = run(corpus_url, [str(media)], force=True)
    assert (summary.ok, summary.failed) == (4, 1)
    assert summary.outputs["voice_cache_hits"] == vectors == scalar(corpus, "SELECT count(*) FROM voice_vectors_1")
    assert corpus.execute(query).fetchall() == before
    assert not any(check_corpus(corpus).values())


def test_a_second_text_space_stands_beside_the_first_and_search_uses_the_active_one(
    corpus_url, corpus, tmp_path, monkeypatch
):
    import actors.decode

    config = tmp_path / "rushes.toml"
    model = tiny_text_model(tmp_path / "model", dimension=32)
    config.write_text(f'[profiles.own.text]\nweights = "path:{model}"\ndimension = 32\nmax_tokens = 64\n')
    monkeypatch.setenv("RUSHES_CONFIG", str(config))
    monkeypatch.setattr(actors.decode.Decode, "process", lambda *a: pytest.fail("media was touched"))
    segments = corpus.execute("SELECT array_agg(segment_id ORDER BY segment_id) FROM segments").fetchone()
    old = spaces.active_space(corpus, "text")
    summary = run(corpus_url, lanes=("texts",), flags={"text": {"profile": "own"}})
    assert (summary.ok, summary.failed) == (3, 0)
    new = spaces.active_space(corpus, "text")
    assert (old.dimension, new.dimension) == (384, 32)
    assert corpus.execute("SELECT array_agg(segment_id ORDER BY segment_id) FROM segments").fetchone() == segments
    assert scalar(corpus, f"SELECT count(*) FROM {old.table_name}".encode()) > 0
    from jobs.cli.search import find

    assert find(corpus, "originally from Chicago", None, 3).hits
    back = run(corpus_url, lanes=("texts",))
    assert back.state == "nothing"
    assert spaces.active_space(corpus, "text").space_id == old.space_id
    assert not any(check_corpus(corpus).values())


def test_search_finds_the_sentence_with_its_time(corpus):
    from jobs.cli.search import find

    [hit, *_] = find(corpus, "originally from Chicago", None, 3).hits
    assert "Chicago" in hit.text
    assert 0 <= hit.start_ms < hit.end_ms <= 30_000


def test_whisper_boundaries_give_unknown_speakers_with_voices(corpus_url, corpus, media):
    summary = run(corpus_url, [str(media / "call.wav")], {"segment_source": "whisper"})
    assert (summary.ok, summary.failed) == (1, 0)
    asset = report.find_asset(corpus, str(media / "call.wav"))["asset_id"]
    rows = corpus.execute(
        "SELECT s.local_speaker, v.skip_reason, e.segment_id IS NOT NULL FROM segments s"
        " JOIN voices v USING (segment_id) LEFT JOIN voice_vectors_1 e USING (segment_id) WHERE s.asset_id = %s",
        (asset,),
    ).fetchall()
    assert len(rows) > 1
    assert {row[0] for row in rows} == {None}
    assert all((reason is None) == has_vector for _, reason, has_vector in rows)
    assert not any(check_corpus(corpus).values())


def test_an_interrupted_run_keeps_what_it_committed_and_goes_on(db_url, media):
    class Impatient(LineReporter):
        def finished(self, row, summary):
            raise KeyboardInterrupt

    summary = run(db_url, [str(media)], reporter=Impatient(quiet=True, verbose=False))
    assert summary.exit_code == 130
    again = run(db_url, [str(media)])
    assert (again.planned, again.ok, again.exit_code) == (3, 3, 0)
    with open_connection(db_url) as corpus:
        assert not any(check_corpus(corpus).values())
        assert scalar(corpus, "SELECT count(*) FROM units WHERE state IN ('running', 'pending')") == 0


def test_limits_dry_runs_and_failure_limits(db_url, media, tmp_path):
    dry = run(db_url, [str(media)], dry_run=True)
    assert dry.exit_code == 0
    assert "would be read first" in describe(dry)[0]
    planned = run(db_url, [str(media / "silence.wav")], limit=1, dry_run=True)
    assert planned.run_id is None
    bad = tmp_path / "bad"
    bad.mkdir()
    for number in range(3):
        write_wav(bad / f"{number}.wav", np.full(16_000, number, np.int16), 16_000)
    run(db_url, [str(bad)], {"decode_base_s": 1e-9, "decode_s_per_hour": 1e-9}, limit=1)
    with open_connection(db_url) as corpus:
        [failure] = report.open_failures(corpus, report.FailureFilter())
        assert failure["failure"] == "timeout"
        hurried = {"decode_base_s": 1e-9, "decode_s_per_hour": 1e-9}
        stopped = run(db_url, [str(bad)], hurried, max_failures=parse_failure_limit("0"))
        assert (stopped.exit_code, stopped.failed) == (1, 1)
        assert "stopped after 1 failed of 1 finished" in describe(stopped)[-2]
        assert run(db_url, [str(bad)], retry_failed=True).ok == 3
        assert report.open_failures(corpus, report.FailureFilter()) == []


def test_forcing_a_few_leaves_the_others_done_and_a_dry_run_leaves_all(corpus_url, corpus, media):
    states = "SELECT asset_id, lane, state, generation FROM units ORDER BY 1, 2"
    before = corpus.execute(states).fetchall()
    dry = run(corpus_url, [str(media)], force=True, dry_run=True)
    assert dry.planned == 4
    assert corpus.execute(states).fetchall() == before
    few = run(corpus_url, [str(media / "silence.wav"), str(media / "call.wav")], force=True, limit=1)
    assert (few.planned, few.ok) == (1, 1)
    after = corpus.execute(states).fetchall()
    assert len([row for row, old in zip(after, before, strict=True) if row != old]) == 3
    assert {row[2] for row in after} == {"done", "failed", "skipped"}


def test_a_file_that_changed_is_another_asset(db_url, tmp_path):
    path = tmp_path / "take.wav"
    write_wav(path, np.full(16_000, 1, np.int16), 16_000)
    assert run(db_url, [str(path)]).ok == 1
    write_wav(path, np.full(32_000, 2, np.int16), 16_000)
    assert run(db_url, [str(path)]).ok == 1
    with open_connection(db_url) as corpus:
        old, new = report.assets_table(corpus)[::-1]
        assert new["uris"] == [str(path)]
        assert old["uris"][0] == f"sha256:{old['sha256'][:12]}"
        assert not any(check_corpus(corpus).values())
    assert run(db_url).state == "nothing"


def test_a_missing_input_is_the_users_to_mend(db_url):
    with pytest.raises(UsageError, match="/no/such/folder"):
        run(db_url, ["/no/such/folder"])


def test_a_run_that_cannot_work_ends_with_its_reason_and_its_line(db_url, media):
    summary = run(db_url, [str(media / "call.wav")], {"language": "de"})
    assert summary.exit_code == 1
    *_, reason, last = describe(summary)
    assert "does not know language 'de'" in reason
    assert last.endswith(f"0 ok · 0 failed · 0 skipped · run {summary.run_id[:8]}")


def test_an_unreadable_name_is_told_once(db_url, tmp_path):
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere")
    write_wav(tmp_path / "one.wav", silence(1), 16_000)
    first = run(db_url, [str(tmp_path)])
    assert (first.ok, first.failed, first.exit_code) == (1, 1, 3)
    assert run(db_url, [str(tmp_path)]).state == "nothing"


def test_a_registration_that_dies_before_it_told_what_is_unreadable_tells_it_next_time(db_url, tmp_path, monkeypatch):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"this is not a film")

    def die(*_):
        raise SystemExit("the driver ends here")

    with monkeypatch.context() as patch:
        patch.setattr(main_job, "record_failures", die)
        with pytest.raises(SystemExit):
            run(db_url, [str(bad)])
    assert run(db_url, [str(bad)]).failed == 1
    with open_connection(db_url) as conn:
        assert not any(check_corpus(conn).values())
        [failure] = report.open_failures(conn, report.FailureFilter())
        assert failure["failure"] == "bad_media"
    assert run(db_url, [str(bad)]).state == "nothing"


def test_what_another_run_takes_during_the_pause_is_left_to_it(db_url, tmp_path):
    write_wav(tmp_path / "a.wav", np.full(16_000, 7, np.int16), 16_000)

    class Busy(LineReporter):
        def waiting(self, assets, delay_s):
            with open_connection(db_url) as conn:
                runs.start_run(conn, other, "ingest", {})
                [(asset_id,)] = conn.execute("SELECT asset_id FROM assets").fetchall()
                prints = dict(conn.execute("SELECT lane, fingerprint FROM units").fetchall())
                assert len(ledger.claim_units(conn, other, asset_id, list(prints), prints)) == 3

    other = uuid.uuid4()
    hurried = {"decode_base_s": 1e-9, "decode_s_per_hour": 1e-9, "retry_base_s": 2.0}
    summary = run(db_url, [str(tmp_path)], hurried, Busy(quiet=True, verbose=False))
    assert (summary.exit_code, summary.skipped, summary.retried, summary.missing) == (0, 1, 1, 0)
