"""What a backfill sends: one id for one selection, one line for a shell, no secret, little code."""

from __future__ import annotations

import json
import shlex
import zipfile
from types import SimpleNamespace

import pytest

from cluster.errors import UsageError
from cluster.plan import Node
from cluster.settings import load_settings
from jobs import working_dir
from jobs.backfill import absolute_inputs, submission_of
from jobs.cli.asked import spelled, words_of
from jobs.cli.backfill import NOT_SENT
from jobs.cli.ingest import ingest
from jobs.cli.progress import LineReporter
from jobs.job import IngestOptions
from jobs.plan_file import read_plan_file
from jobs.ray_job import this_job
from jobs.ray_job_client import dashboard_address
from jobs.submission import STOP_WAIT_S, attempt_of, bears_secret, job_id_of, travelling

WORDS = words_of(ingest, NOT_SENT)


def made(inputs=("/a",), sent=None, **asked):
    """The job of what is asked; `sent` are settings of the environment or the file."""
    asked = {**dict.fromkeys(WORDS), **asked, "inputs": list(inputs)}
    of_words = {name: asked[name] for name in ("profile", "language") if asked[name]}
    return submission_of(
        asked,
        spelled(WORDS, asked),
        load_settings(None, **(sent or {})),
        load_settings(None, **{**(sent or {}), **of_words}),
        working_dir="none",
        address="http://head:8265",
    )


def test_the_id_names_what_would_be_done_and_nothing_else():
    usual = made(["/a", "/b"]).key
    same = [
        made(["/b", "/a", "/a"]),
        made(["/a", "/b"], fail_fast=True),
        made(["/a", "/b"], max_failures="3", verbose=True),
        made(["/a", "/b"], sent={"plan": {"nodes": "h200:4"}, "cpus": 3, "database_wait_s": 5, "data_dir": "/x"}),
    ]
    assert {one.key for one in same} == {usual}
    others = [
        made(["/a"]),
        made([]),
        made(["/a", "/b"], channel=["news"]),
        made(["/a", "/b"], lanes="speech"),
        made(["/a", "/b"], limit=3),
        made(["/a", "/b"], force=True),
        made(["/a", "/b"], language="en"),
        made(["/a", "/b"], sent={"text": {"max_tokens": 64}}),
    ]
    assert len({usual, *(one.key for one in others)}) == len(others) + 1


def test_a_word_a_variable_and_an_order_of_lanes_say_the_same():
    assert made(language="en").key == made(sent={"language": "en"}).key
    assert made(lanes="speech,texts").key == made(lanes="texts, speech").key


def test_attempts_are_counted_per_selection():
    key = made().key
    assert attempt_of(job_id_of(key, 12), key) == 12
    assert [
        attempt_of(name, key) for name in (None, "raysubmit_1", f"rushes-{key}-0", "rushes-" + "0" * 12 + "-1")
    ] == [0] * 4


def test_the_line_says_in_a_shell_what_is_sent():
    awkward = made(["/a b/it's", "--like-a-flag", "s3://x/$HOME"], lanes="speech", sent={"language": "de"})
    words = shlex.split(awkward.ray_line("rushes-x-1"))
    assert words[:6] == [
        "RAY_API_SERVER_ADDRESS=http://head:8265",
        "ray",
        "job",
        "submit",
        "--submission-id",
        "rushes-x-1",
    ]
    assert json.loads(words[words.index("--runtime-env-json") + 1]) == awkward.runtime_env
    assert shlex.split(awkward.entrypoint) == words[words.index("--") + 1 :]
    tail = words[words.index("--") + 1 :]
    assert tail == [
        "python",
        "-m",
        "jobs.cli.main",
        "ingest",
        "--lanes=speech",
        "--address=auto",
        "--",
        "/a b/it's",
        "--like-a-flag",
        "s3://x/$HOME",
    ]
    assert "--no-wait" in awkward.ray_line("rushes-x-1", wait=False)


def test_settings_travel_whole_and_what_is_of_this_machine_stays(monkeypatch, tmp_path):
    given = {
        "language": "en",
        "text": {"dimension": 64, "max_tokens": 99},
        "profiles": {"mine": {"text": {"max_tokens": 9}}},
        "plan": {"nodes": "cpu:2", "groups": [{"name": "all", "stages": ["decode", "texts"]}]},
        "identify": True,
        "database_url_file": str(tmp_path / "url"),
        "serve": {"models": ["text"]},
    }
    (tmp_path / "url").write_text("postgresql://u:hidden@h/d")
    settings = load_settings(None, **given, cpus=3, runner="inline")
    variables = travelling(settings)
    assert not {"RUSHES_CPUS", "RUSHES_RUNNER", "RUSHES_DATA_DIR", "RUSHES_DATABASE_URL"} & variables.keys()
    assert "hidden" not in json.dumps(variables)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    there = load_settings(None)
    differences = {name for name in settings.model_dump() if getattr(settings, name) != getattr(there, name)}
    assert differences <= {"cpus", "runner"}
    assert travelling(load_settings(None, database_url="postgresql://u:hidden@h/d")) == variables


def test_nothing_travels_that_is_as_it_comes():
    assert made().runtime_env == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}}


@pytest.mark.parametrize(
    "text",
    [
        "s3://key:secret@bucket/x",
        "postgresql://me:pw@host/db",
        "https://h/x?X-Amz-Signature=abc",
        "s3://b/x?secret_key=1",
        "https://h/x?sv=2024&sig=abc",
        "https://h/x?account_key=abc",
        "s3://b/a?x?sig=y",
        "s3://b/?a=?token=x",
        "host=h password=pw",
    ],
)
def test_a_secret_is_refused_and_not_repeated(text):
    assert bears_secret(text)
    with pytest.raises(UsageError, match="holds a password or a key") as refused:
        made([text])
    assert "secret@" not in str(refused.value)
    assert "pw" not in str(refused.value)
    with pytest.raises(UsageError, match="RUSHES_LANGUAGE holds"):
        made(sent={"language": text})


def test_ordinary_names_bear_no_secret():
    assert not any(
        map(bears_secret, ["/a/token=1.mp4", "s3://bucket/a@b:c", "s3://b/?region=eu", "a:b@c", "http://h:80/x"])
    )


def test_more_inputs_than_a_command_takes_are_refused():
    with pytest.raises(UsageError, match="name their folders"):
        made([f"/archive/{number:06}.mp4" for number in range(10_000)])


def test_lists_are_read_here_and_paths_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_text("# old\na.wav\n\ns3://b/c\n")
    assert absolute_inputs(["x/*.wav"], ["list"], None) == [
        str(tmp_path / "x/*.wav"),
        str(tmp_path / "a.wav"),
        "s3://b/c",
    ]
    with pytest.raises(UsageError, match="list gone: no such file"):
        absolute_inputs([], ["gone"], None)
    (tmp_path / "list").write_text("# nothing\n")
    with pytest.raises(UsageError, match="names no input"):
        absolute_inputs([], ["list"], None)


def test_a_plan_file_names_what_it_may_hold(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text('inputs = ["/a"]\nlimit = 3\nnodes = "h200:4"\n[prices]\nh200 = 3.5\n')
    assert read_plan_file(path, WORDS) == ({"inputs": ["/a"], "limit": 3}, {"nodes": "h200:4", "prices": {"h200": 3.5}})
    path.write_text("address = 'x'\nnode = 'h200'\n")
    with pytest.raises(UsageError, match=r"unknown address, node; it may hold inputs, .*nodes, prices"):
        read_plan_file(path, WORDS)
    path.write_text("[")
    with pytest.raises(UsageError, match="plan file"):
        read_plan_file(path, WORDS)
    with pytest.raises(UsageError, match="no such file"):
        read_plan_file(tmp_path / "none", WORDS)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"nodes": "h300:2"}, "no node type 'h300:2'"),
        ({"prices": {"h200": -3}}, "greater than or equal to 0"),
        ({"prices": {"h200": float("nan")}}, "plan.prices.h200"),
    ],
)
def test_nodes_and_prices_that_make_no_sense_are_refused_before_anything_is_sent(plan, said):
    with pytest.raises(UsageError, match=said):
        load_settings(None, plan=plan)


def test_values_of_a_plan_file_are_of_their_kind():
    assert WORDS["channel"].check("news") == ["news"]
    assert WORDS["limit"].check(3) == 3
    for name, value in (
        ("limit", "3"),
        ("limit", True),
        ("limit", 0),
        ("force", 1),
        ("channel", [1]),
        ("lanes", ["speech"]),
    ):
        with pytest.raises(UsageError, match=name):
            WORDS[name].check(value)


def test_the_code_of_a_job_is_small_and_only_code(tmp_path, monkeypatch):
    for folder in ("jobs/cli", "cluster", "serve", "actors", "media[1]", ".git"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("jobs/cli/main.py", "pyproject.toml", "cluster/big.bin", "media[1]/film.mp4"):
        (tmp_path / name).write_bytes(b"x" * 1000)
    found = working_dir.code_of(str(tmp_path))
    assert found == {"working_dir": str(tmp_path), "excludes": ["/.git", "/media\\[1\\]", "__pycache__"]}
    monkeypatch.setattr(working_dir, "MOST_BYTES", 2500)
    with pytest.raises(UsageError, match=r"0\.0 MiB\), .*main\.py|cluster/big\.bin"):
        working_dir.code_of(str(tmp_path))
    with pytest.raises(UsageError, match="no checkout of rushes"):
        working_dir.code_of(str(tmp_path / "cluster"))
    assert working_dir.code_of("none") == {}
    assert working_dir.code_of("s3://code/rushes.zip") == {"working_dir": "s3://code/rushes.zip"}


def test_this_checkout_is_small_enough_and_ray_packs_exactly_its_code(tmp_path):
    from ray._private.runtime_env.packaging import create_package

    env = working_dir.code_of(None)
    packed = tmp_path / "code.zip"
    create_package(env["working_dir"], packed, include_gitignore=True, excludes=env["excludes"])
    names = zipfile.ZipFile(packed).namelist()
    assert {name.partition("/")[0] for name in names} == set(working_dir.CODE)
    assert "jobs/cli/main.py" in names
    assert packed.stat().st_size < working_dir.MOST_BYTES


def test_the_dashboard_is_named_by_flag_or_by_rays_own_variables():
    assert dashboard_address(None, {}) is None
    assert dashboard_address("http://h:1/", {"RAY_ADDRESS": "auto"}) == "http://h:1"
    assert (
        dashboard_address(None, {"RAY_ADDRESS": "http://a:1", "RAY_API_SERVER_ADDRESS": "http://b:1"}) == "http://b:1"
    )
    with pytest.raises(UsageError, match=r"'auto' \(RAY_ADDRESS\) is not the address of a dashboard"):
        dashboard_address(None, {"RAY_ADDRESS": "auto"})


def test_a_driver_knows_the_job_it_is():
    config = json.dumps({"metadata": {"job_submission_id": "rushes-x-1"}})
    assert this_job({"RAY_JOB_CONFIG_JSON_ENV_VAR": config}) == "rushes-x-1"
    assert [this_job({"RAY_JOB_CONFIG_JSON_ENV_VAR": text}) for text in ("", "{", "[]", "{}")] == [None] * 4


def test_the_nodes_of_a_plan_are_asked_for_before_the_first_pass_and_let_go(monkeypatch):
    from jobs import execution

    asked, here, came = [], [Node(2, 8.0)], [Node(2, 8.0), Node(16, 64.0)]
    monkeypatch.setattr(execution, "wait_for_nodes", lambda wanted, tell: asked.append(len(wanted)) or came)
    monkeypatch.setattr(execution, "release_nodes", lambda: asked.append("let go"))

    def nodes(address="auto", nodes="cpu:2", runner=""):
        settings = load_settings(None, plan={"nodes": nodes})
        summary, reporter = SimpleNamespace(runner=runner), LineReporter(quiet=True, verbose=False)
        options = IngestOptions(address=address)
        job = SimpleNamespace(settings=settings, options=options, summary=summary, reporter=reporter)
        with execution.nodes_asked_for(job, here) as found:
            return found

    assert nodes() is came
    assert asked == [2, "let go"]
    assert [nodes(address=None), nodes(nodes=None), nodes(runner="ray")] == [here] * 3
    assert asked == [2, "let go"]
