"""`rushes doctor`: each thing that can be wrong is one line with its fix, and nothing is changed."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

from cluster.db import doctor as database
from cluster.db.doctor import DatabaseVisit
from cluster.db.spaces import ensure_space
from cluster.doctor import Check, Found, examine, failed
from cluster.errors import RushesError
from cluster.plan import Node
from cluster.settings import load_settings, settings_to_dict
from jobs.doctor import machine, models
from jobs.doctor.child import LoaderChild, LoaderError
from tests.test_cli import rushes

ORDER = [
    "python", "ray", "resources", "ffmpeg", "transcriber model", "diarizer model", "voice model", "text model",
    "cuda libraries", "database", "server version", "pgvector", "schema", "indexes", "connections", "disk", "store",
    "node cache", "clock", "hub token",
]  # fmt: skip


def doctor(*words, **env):
    done = rushes("doctor", "--json", *words, **env)
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert all(finding["fix"] for finding in found.values() if finding["state"] in ("warn", "FAIL")), found
    return done.returncode, found


@pytest.fixture
def visit(db_url):
    with closing(DatabaseVisit(load_settings(database_url=db_url))) as visit:
        assert visit.reach().state == "ok"
        yield visit


def test_a_healthy_machine_passes_every_check_in_order_and_nothing_is_made(db_url, tmp_path):
    code, found = doctor(url=db_url)
    assert code == 0, found
    assert list(found) == ORDER
    assert {finding["state"] for finding in found.values()} <= {"ok", "warn"}
    assert "on cpu" in found["text model"]["found"]
    assert not (tmp_path / "data").exists()


def test_without_a_database_its_line_fails_and_what_needs_it_is_skipped():
    code, found = doctor(url="postgresql://me:hidden@127.0.0.1:1/none", RUSHES_TEXT_WEIGHTS="path:/nowhere")
    assert code == 1
    assert [name for name, finding in found.items() if finding["state"] == "FAIL"] == ["text model", "database"]
    assert "none at 127.0.0.1" in found["database"]["found"]
    assert "RUSHES_DATABASE_URL" in found["database"]["fix"]
    assert {name for name, finding in found.items() if finding["state"] == "skipped"} == {
        "server version", "pgvector", "schema", "indexes", "connections", "clock",
    }  # fmt: skip
    assert found["text model"]["found"] == "no weights at /nowhere"
    assert "RUSHES_TEXT_WEIGHTS" in found["text model"]["fix"]
    assert "hidden" not in json.dumps(found)


def test_an_old_pgvector_and_a_model_that_was_never_fetched_are_named_in_words(db, db_url, tmp_path):
    db.execute("UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'")
    done = rushes(
        "doctor", url=db_url, RUSHES_TEXT_PROFILE="speed", RUSHES_DIARIZER_PROFILE="speed", HF_HUB_OFFLINE="1",
        HF_HOME=str(tmp_path), HF_TOKEN="",
    )  # fmt: skip
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    fixes = {line: fix for line, fix in pairwise(lines) if line.startswith("FAIL")}
    assert len(fixes) == 4, done.stdout
    for (line, fix), (wrong, way_out) in zip(
        fixes.items(),
        [
            (
                "diarizer model: pyannote/speaker-diarization-community-1 at 3533c8cf",
                "set HF_TOKEN and run `rushes mod",
            ),
            ("text model: BAAI/bge-small-en-v1.5 at 5c38ec7c is not on this machine", "run `rushes models pull`"),
            ("pgvector: pgvector 0.7.4 is too old", "ALTER EXTENSION vector UPDATE"),
            ("hub token: hub:pyannote/", "HF_TOKEN"),
        ],
        strict=True,
    ):
        assert wrong in line
        assert fix.strip().startswith("fix: ")
        assert way_out in fix


def test_a_check_that_fails_or_breaks_stops_those_that_need_it_and_no_others():
    def refuses():
        raise RushesError("no such thing: buy one")

    def breaks():
        raise ValueError("odd")

    checks = [
        Check("a", refuses),
        Check("b", lambda: Found("ok", "fine"), ("a",)),
        Check("c", lambda: Found("ok", "fine"), ("b",)),
        Check("d", breaks, required=False),
        Check("e", lambda: Found("warn", "meh", "do"), ()),
        Check("f", lambda: Found("ok", "fine"), ("e",)),
    ]
    found = list(examine(checks))
    assert [finding.state for finding in found] == ["FAIL", "skipped", "skipped", "FAIL", "warn", "ok"]
    assert (found[0].found, found[0].fix) == ("no such thing", "buy one")
    assert found[2].found == "needs b"
    assert "ValueError: odd" in found[3].found
    assert failed(found)
    assert not failed(found[1:])


def test_a_pgvector_with_known_faults_is_warned_of_and_a_missing_one_fails(visit, db):
    db.execute("UPDATE pg_extension SET extversion = '0.8.1' WHERE extname = 'vector'")
    assert visit.pgvector().state == "warn"
    db.execute("UPDATE pg_extension SET extversion = '0.8.4' WHERE extname = 'vector'")
    assert visit.pgvector().state == "ok"


def test_pending_migrations_are_named_with_the_command(visit, db):
    assert visit.schema().state == "ok"
    db.execute("DELETE FROM schema_migrations WHERE version = 2")
    found = visit.schema()
    assert (found.state, found.fix) == ("FAIL", "run `rushes db migrate`")
    assert "0002" in found.text


def test_a_database_that_takes_no_writes_from_here_fails(visit, db):
    assert visit.schema().state == "ok"
    visit._connection().execute("SET default_transaction_read_only = on")
    assert (visit.schema().state, "read-only" in visit.schema().text) == ("FAIL", True)
    visit._connection().execute("SET default_transaction_read_only = off")
    db.execute("CREATE ROLE reader")
    try:
        db.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        visit._connection().execute("SET ROLE reader")
        assert (visit.schema().state, "reader may not write" in visit.schema().text) == ("FAIL", True)
    finally:
        visit._connection().execute("RESET ROLE")
        db.execute("DROP OWNED BY reader")
        db.execute("DROP ROLE reader")


def test_an_embedded_database_that_was_left_half_made_fails(tmp_path):
    (tmp_path / "postgres/base").mkdir(parents=True)
    with closing(DatabaseVisit(load_settings(data_dir=tmp_path))) as visit:
        found = visit.reach()
    assert (found.state, found.fix) == ("FAIL", "move it away, or set RUSHES_DATA_DIR")


def test_weights_that_are_not_pinned_are_not_to_be_pulled():
    settings = load_settings(text={"weights": "hub:some/model"})
    with pytest.raises(RushesError, match="not pinned: write"):
        models.loads(settings, "text", fake_child())


def test_a_large_space_without_a_whole_index_is_warned_of(visit, db, monkeypatch):
    monkeypatch.setattr(database, "INDEX_FROM_ROWS", 3)
    space = ensure_space(db, "text", load_settings(text={"dimension": 4}).model_choice("text"), {})
    db.execute("SET session_replication_role = replica")
    insert = f"INSERT INTO {space.table_name} VALUES (%s, '[1,0,0,0]')"
    for row in range(2):
        db.execute(insert, (row,))
    assert visit.indexes().state == "ok"
    db.execute(insert, (2,))
    assert visit.indexes().state == "warn"
    db.execute(f"CREATE INDEX whole ON {space.table_name} USING hnsw (embedding vector_cosine_ops)")
    assert visit.indexes().state == "ok"
    db.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'whole'::regclass")
    assert space.table_name in visit.indexes().text


def test_the_connection_budget_is_counted_against_the_server(visit, db_url):
    assert visit.connections(4).state == "ok"
    assert visit.connections(95).state == "FAIL"
    with ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(psycopg.connect(db_url))
        found = visit.connections(88)
    assert found.state == "warn", found
    assert "RUSHES_CPUS" in found.fix


@pytest.mark.parametrize(("ahead_s", "state"), [(0.0, "ok"), (1.5, "ok"), (5.0, "warn"), (-5.0, "warn")])
def test_a_clock_that_is_off_by_more_than_two_seconds_is_warned_of(ahead_s, state):
    visit = DatabaseVisit(load_settings())
    row = SimpleNamespace(fetchone=lambda: (datetime.now(UTC) + timedelta(seconds=ahead_s),))
    visit._conn = SimpleNamespace(execute=lambda query: row)
    assert visit.clock().state == state


def test_an_embedded_server_that_does_not_exist_yet_is_tried_elsewhere_and_removed(tmp_path):
    with closing(DatabaseVisit(load_settings())) as visit:
        found = visit.reach()
        assert (found.state, visit.version().state, visit.pgvector().state) == ("ok", "ok", "ok")
        assert "made at first use" in found.text
        assert visit.schema().state == visit.indexes().state == "ok"
        trial = visit._trial
        assert trial.is_dir()
    assert not trial.exists()
    assert not (tmp_path / "data").exists()


def crippled(tmp_path, monkeypatch, line):
    """A loader whose sentence_transformers does `line` when it is imported."""
    (tmp_path / "sentence_transformers.py").write_text(f"import os, signal, time\n{line}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return settings_to_dict(load_settings())


def test_a_model_that_kills_its_process_is_a_finding_and_the_next_one_loads(tmp_path, monkeypatch):
    settings = crippled(tmp_path, monkeypatch, "print('last words', flush=True); os.kill(os.getpid(), signal.SIGSEGV)")
    with closing(LoaderChild(settings)) as child:
        with pytest.raises(LoaderError, match=r"signal 11: last words"):
            child.ask("text")
        found = models.loads(load_settings(), "text", child)
        assert found.state == "FAIL"
        assert "signal 11" in found.text
        assert models.loads(load_settings(), "voice", child).state == "ok"


def test_a_model_that_hangs_is_ended_at_its_deadline(tmp_path, monkeypatch):
    settings = crippled(tmp_path, monkeypatch, "time.sleep(600)")
    with closing(LoaderChild(settings, deadline_s=30.0)) as child:
        assert child.ask("voice")["device"] == "cpu"
        child._deadline_s = 0.5
        with pytest.raises(LoaderError, match="not done after"):
            child.ask("text")


def fake_child(**refusals):
    def ask(request):
        if request in refusals:
            raise RushesError(refusals[request])
        return {}

    return SimpleNamespace(ask=ask)


def test_a_gpu_without_the_cublas_of_ctranslate2_fails_with_the_wheel_to_install():
    none = {"names": (), "memory_gib": (), "ctranslate2_gpus": 0, "has_driver": False}
    card = {"names": ("H200",), "memory_gib": (139.0,), "ctranslate2_gpus": 1, "has_driver": True}
    settings = load_settings()
    assert models.cuda_libraries(settings, none, fake_child()).text == "no GPU: not needed"
    assert models.cuda_libraries(settings, {**none, "has_driver": True}, fake_child()).state == "warn"
    assert models.cuda_libraries(settings, card, fake_child()).state == "ok"
    lacking = models.cuda_libraries(settings, card, fake_child(cublas="no libcublas.so.12"))
    assert (lacking.state, "nvidia-cublas-cu12" in lacking.fix) == ("FAIL", True)
    assert models.cuda_libraries(settings, {**card, "ctranslate2_gpus": 0}, fake_child()).state == "FAIL"
    on_cpu = load_settings(transcriber={"device": "cpu"})
    assert models.cuda_libraries(on_cpu, card, fake_child(cublas="no libcublas.so.12")).state == "ok"
    asking = models.cuda_libraries(load_settings(voice={"device": "cuda"}), none, fake_child())
    assert (asking.state, asking.text) == ("FAIL", "voice must run on CUDA, and torch finds no GPU")


def test_a_gated_model_needs_a_token_until_it_is_here(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert models.hub_token(load_settings()).text.startswith("not needed")
    gated = load_settings(profile="speed")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert models.hub_token(gated).state == "FAIL"
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hidden")
    found = models.hub_token(gated)
    assert (found.state, "hidden" in found.text) == ("ok", False)


def test_the_plan_is_held_against_cpus_memory_and_cards(monkeypatch):
    settings = load_settings()
    plan = machine.nominal_plan(settings, ())
    assert machine.resources(settings, plan, ()).state == "ok"
    with pytest.raises(RushesError, match=r"= .* GiB exceed a card of 1 GiB"):
        machine.nominal_plan(settings, (1.0,))
    monkeypatch.setattr("jobs.runners.this_node", lambda settings: Node(4, 1.0))
    with pytest.raises(RushesError, match=r"needs .* GiB, the largest node has 1\.0 GiB"):
        machine.nominal_plan(settings, ())


def test_a_disk_that_runs_full_is_warned_of_and_then_fails(monkeypatch, tmp_path):
    settings = load_settings(data_dir=tmp_path / "not" / "yet")
    states = []
    for free_gib in (10, 3, 0.5):
        usage = SimpleNamespace(free=free_gib * 2**30)
        monkeypatch.setattr(shutil, "disk_usage", lambda place, usage=usage: usage)
        states.append(machine.disk(settings).state)
    assert states == ["ok", "warn", "FAIL"]


def test_a_data_directory_that_takes_no_files_fails_and_none_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    assert machine.store(load_settings(data_dir=tmp_path)).state == "ok"
    assert machine.store(load_settings(data_dir=tmp_path / "new")).state == "ok"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        found = machine.store(load_settings(data_dir=place))
        assert (found.state, "RUSHES_DATA_DIR" in found.fix) == ("FAIL", True)


def test_ray_is_held_against_the_pin_of_the_project(monkeypatch):
    import tomllib

    import ray

    pins = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"ray[default,serve]=={machine.pinned_version('ray')}" in pins
    monkeypatch.setattr(ray, "__version__", "2.59.0")
    found = machine.ray_version()
    assert (found.state, "2.59.0" in found.text, found.fix) == ("FAIL", True, "run `make install` again")


def test_libraries_that_cannot_decode_are_named(monkeypatch):
    settings = load_settings()
    assert machine.ffmpeg(settings).state == "ok"
    monkeypatch.setattr("cluster.media.libraries.AUDIO_CODECS", ("aac", "no_such_codec"))
    found = machine.ffmpeg(settings)
    assert (found.state, "no_such_codec" in found.text) == ("FAIL", True)
