"""The commands as a person runs them: words, exit codes, no traceback for a mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.db.connect import open_connection
from tests.archive import read_call, run
from tests.commands import call, call_anew
from tests.media_factory import write_wav

ROOT = Path(__file__).parents[1]


def rushes(*words, url=None, anew=False, **env):
    variables = {**os.environ, **env, **({"RUSHES_DATABASE_URL": url} if url else {})}
    # The libraries of the hub look at its variables when they are imported.
    anew = anew or any(name.startswith("HF_") for name in env)
    done = (call_anew if anew else call)(words, variables)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["ingest", "/no/such/place"], 2, "/no/such/place"),
        (["ingest", "--lanes", "smell"], 2, "unknown lane 'smell'"),
        (["ingest", "--profile", "fast"], 2, "unknown profile 'fast'"),
        (["ingest", "--force", "--only-missing"], 2, "exclude each other"),
        (["ingest", "--max-failures", "some"], 2, "--max-failures"),
        (["ingest", "--limit", "0"], 2, "limit"),
        (["nonsense"], 2, "nonsense"),
        (["search", " "], 2, "nothing to search for"),
        (["search", "bridge", "--tag", "nope"], 2, "no asset has the tag 'nope'"),
        (["export", "x", "-f", "doc"], 2, "unknown format 'doc'"),
        (["export", "x", "-f", "srt,vtt"], 2, "add -o DIR"),
        (["show", "nothing.wav"], 2, "no asset matches 'nothing.wav'"),
        (["status", "ffff"], 2, "no run begins with 'ffff'"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(words, code, message, db_url):
    done = rushes(*words, url=db_url)
    assert done.returncode == code
    assert message in done.stderr


def test_an_unreachable_database_is_named_without_its_password():
    done = rushes("status", url="postgresql://me:hidden@127.0.0.1:1/none", anew=True)
    assert done.returncode == 1
    assert "127.0.0.1" in done.stderr
    assert "hidden" not in done.stderr


def test_a_missing_schema_says_how_to_get_it(server_url):
    import psycopg

    from tests.conftest import database_url

    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute("CREATE DATABASE bare_one")
    url = database_url(server_url, "bare_one")
    assert "rushes db migrate" in rushes("status", url=url, anew=True).stderr
    assert "applied 0001" in rushes("db", "migrate", url=url, anew=True).stdout
    assert "up to date" in rushes("db", "migrate", url=url).stdout
    assert rushes("db", "check", url=url).returncode == 0
    assert "nothing failed" in rushes("failures", "list", url=url).stdout


def test_the_corpus_can_be_read_in_words_and_json(corpus_url, media, tmp_path):
    status = rushes("status", url=corpus_url).stdout
    assert "call.wav (+1 same)" in status
    assert "text space 2: bundled, 384-d, active" in status
    assert json.loads(rushes("status", "--json", url=corpus_url).stdout)["totals"]["sources"] == 6
    run_id = json.loads(rushes("status", "--json", url=corpus_url).stdout)["runs"][0]["run_id"]
    assert "partial: 5 assets planned" in rushes("status", run_id[:8], url=corpus_url).stdout
    shown = rushes("show", str(media / "call.wav"), url=corpus_url).stdout
    assert "A: " in shown
    failures = json.loads(rushes("failures", "list", "--json", "--class", "bad_media", url=corpus_url).stdout)
    assert [Path(item["uri"]).name for item in failures] == ["broken.mp4"]
    assert "attempt 1" in rushes("failures", "show", "broken.mp4", url=corpus_url).stdout
    assert rushes("show", "call.wav", url=corpus_url).returncode == 0
    done = rushes("export", "call.wav", "-f", "srt,vtt,rttm,txt,json", "-o", str(tmp_path), url=corpus_url)
    assert done.returncode == 0
    assert sorted(path.suffix for path in tmp_path.glob("call.*")) == [".json", ".rttm", ".srt", ".txt", ".vtt"]
    assert "no transcript" in rushes("export", "broken.mp4", url=corpus_url).stderr
    assert "transcribe" in rushes("plan", "--explain", "--hours", "100", url=corpus_url).stdout
    assert rushes("plan", "--hours", "inf", url=corpus_url).returncode == 2


def test_a_name_that_no_disk_takes_fails_and_retries_in_words(db_url, tmp_path):
    name = str(tmp_path / ("x" * 300 + ".wav"))
    assert rushes("ingest", name, url=db_url).returncode == 3
    again = rushes("failures", "retry", url=db_url)
    assert (again.returncode, again.stdout, again.stderr) == (0, "nothing left to retry\n", f"gone: {name}\n")


def test_inputs_come_from_lists_globs_and_standard_input(corpus_url, media, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"# recordings\n{media / 'call.wav'}\n\n")
    for words in (["-a", str(listed)], [str(media / "ca*.wav")], [str(media / "call.wav"), str(media / "copy.wav")]):
        done = rushes("ingest", *words, url=corpus_url)
        assert (done.returncode, done.stdout) == (0, "nothing to do: 1 done\n")
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli.main", "ingest", "-", "--json"],
        input=f"{media / 'call.wav'}\n", capture_output=True, text=True, cwd=ROOT, check=True,
        env={**os.environ, "RUSHES_DATABASE_URL": corpus_url},
    )  # fmt: skip
    assert json.loads(done.stdout)["known"] == {"done": 1}


def test_retry_takes_another_source_when_the_first_is_gone_and_leaves_orphans(db_url, tmp_path):
    call = read_call()[3 * 16_000 : 8 * 16_000]
    for name in ("a", "b"):
        write_wav(tmp_path / f"{name}.wav", call, 16_000)
    hurried = {"decode_base_s": 1e-9, "decode_s_per_hour": 1e-9}
    assert run(db_url, [str(tmp_path)], hurried).failed == 1
    (tmp_path / "a.wav").unlink()
    again = rushes("failures", "retry", url=db_url, RUSHES_RUNNER="inline")
    assert again.returncode == 0, again.stderr
    assert "1 ok" in again.stdout
    assert "gone" not in again.stderr

    run(db_url, [str(tmp_path / "b.wav")], hurried, force=True)
    write_wav(tmp_path / "b.wav", call[::-1], 16_000)
    (tmp_path / "a.wav").unlink(missing_ok=True)
    with open_connection(db_url) as conn:
        conn.execute("DELETE FROM sources WHERE uri LIKE '%/a.wav'")
    assert rushes("failures", "retry", url=db_url, RUSHES_RUNNER="inline").returncode == 0
    with open_connection(db_url) as conn:
        states = conn.execute("SELECT state, count(*) FROM units GROUP BY state ORDER BY state").fetchall()
    assert states == [("done", 3), ("failed", 1), ("skipped", 4)]
