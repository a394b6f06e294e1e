"""Profiles: the user's own ones, comparing them, and one line of the settings file changed."""

from __future__ import annotations

import json
import tomllib

import pytest

from cluster.db import spaces
from cluster.errors import RushesError, UsageError
from cluster.profiles import choose, profile_names, shipped
from cluster.settings import load_settings, settings_to_dict
from cluster.settings_file import edited, set_value
from jobs.profiles import vector_bytes
from jobs.spec import JobSpec
from tests.stored import reembed_quietly, settings_of, store
from tests.test_cli import rushes
from tests.tiny_text_model import tiny_text_model


@pytest.mark.parametrize(
    ("text", "table", "after"),
    [
        ("", None, 'profile = "new"\n'),
        ("", "text", '[text]\nprofile = "new"\n'),
        ('# mine\nprofile = "old"  # for now\n', None, '# mine\nprofile = "new"  # for now\n'),
        ("[text]\nbatch_size = 7\n", None, 'profile = "new"\n[text]\nbatch_size = 7\n'),
        ("cpus = 2\n[text]\nbatch_size = 7\n", "text", 'cpus = 2\n[text]\nprofile = "new"\nbatch_size = 7\n'),
        ("[text]\nprofile='o'\n[voice]\nprofile='o'\n", "text", '[text]\nprofile="new"\n[voice]\nprofile=\'o\'\n'),
        ('cpus = 2', "text", 'cpus = 2\n\n[text]\nprofile = "new"\n'),
        ('text.profile = "old"\n', "text", 'text.profile = "new"\n'),
        ("[profiles.a.text]\nprofile = 1\n", "text", '[profiles.a.text]\nprofile = 1\n\n[text]\nprofile = "new"\n'),
        ("cpus = 2\r\n[text]\r\n", "text", 'cpus = 2\r\n[text]\r\nprofile = "new"\r\n'),
        ("cpus = 2\r\n", "text", 'cpus = 2\r\n\r\n[text]\r\nprofile = "new"\r\n'),
        ('profile = "old"\r\ncpus = 2\r\n', None, 'profile = "new"\r\ncpus = 2\r\n'),
    ],
)  # fmt: skip
def test_one_value_changes_and_nothing_else(text, table, after):
    assert edited(text, table, "profile", "new") == after


@pytest.mark.parametrize(
    "text",
    ['text = { profile = "old" }\n', 'text = "odd"\n', '[text]\nprofile = """old"""\n', "[text]\nprofile = 3\n"],
)
def test_a_file_that_no_line_can_change_stays_as_it_is(tmp_path, text):
    path = tmp_path / "rushes.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r'write \[text\] profile = "new" there yourself'):
        set_value(path, "text", "profile", "new")
    assert path.read_text() == text


def test_the_file_is_made_kept_private_and_followed(tmp_path):
    path = tmp_path / "a" / "rushes.toml"
    set_value(path, None, "profile", 'odd "name" \\')
    assert tomllib.loads(path.read_text()) == {"profile": 'odd "name" \\'}
    path.chmod(0o600)
    link = tmp_path / "link.toml"
    link.symlink_to(path)
    set_value(link, "text", "profile", "new")
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in path.parent.iterdir()] == ["rushes.toml"]
    path.write_text("cpus = ")
    with pytest.raises(UsageError, match=r"rushes\.toml: "):
        set_value(path, None, "profile", "new")


def test_a_folder_that_takes_no_file_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RushesError, match="cannot write the settings file"):
        set_value(tmp_path / "file" / "rushes.toml", None, "profile", "new")
    with pytest.raises(RushesError, match="cannot read the settings file"):
        set_value(tmp_path, None, "profile", "new")


def own(**profiles):
    return {name: {"text": fields} for name, fields in profiles.items()}


def test_own_profiles_extend_each_other():
    chain = own(
        one={"extends": "two", "batch_size": 3},
        two={"extends": "speed", "query_prefix": "q: "},
        speed={"max_tokens": 64},
    )
    choice = choose("text", "one", {}, chain)
    # `speed` is the user's here, and extends the bundled one unless it says otherwise.
    assert (choice.batch_size, choice.query_prefix, choice.max_tokens) == (3, "q: ", 64)
    assert choice.weights == shipped()["bundled"]["text"]["weights"]
    same = choose("text", "speed", {}, own(speed={"extends": "speed", "max_tokens": 64}))
    assert (same.weights, same.max_tokens) == (shipped()["speed"]["text"]["weights"], 64)
    assert profile_names(chain) == ["bundled", "speed", "quality", "one", "two"]
    assert choose("voice", "one", {}, chain).engine == "ge2e"


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[profiles.a.text]\nextends = 'b'\n[profiles.b.text]\nextends = 'a'\n", "circle: a > b > a"),
        ("[profiles.a.text]\nextends = 'none'\n", "unknown profile 'none'"),
        ("[profiles.a.text]\ndimension = 0\n", r"profiles\.a\.text\.dimension.*greater than or equal to 1"),
        ("[profiles.a.text]\nprecision = 'int3'\n", "RUSHES_TEXT_PRECISION to default or float32"),
        ("[profiles.a.text]\nengine = 'ollama'\n", "RUSHES_TEXT_ENGINE to sentence-transformers"),
        ("[profiles.a.text]\ndevice = 'tpu'\n", r"profiles\.a\.text\.device"),
        ("[profiles.a.text]\nmodel = 'x'\n", r"profiles\.a\.text\.model"),
        ("[profiles.a.smell]\nweights = 'x'\n", r"profiles\.a\.smell"),
    ],
)
def test_what_is_wrong_in_an_own_profile_is_named(tmp_path, toml, words):
    path = tmp_path / "rushes.toml"
    path.write_text(toml)
    with pytest.raises(UsageError, match=words):
        load_settings(path).following("text", "a").model_choice("text")


def test_every_field_may_be_overridden_under_any_profile(monkeypatch):
    given = {"WEIGHTS": "path:/x", "DIMENSION": "7", "DEVICE": "cpu", "PRECISION": "float16", "BATCH_SIZE": "3",
             "MAX_TOKENS": "99", "QUERY_PREFIX": "", "DOCUMENT_PREFIX": "d: "}  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(f"RUSHES_TEXT_{name}", value)
    choice = load_settings(profile="speed").model_choice("text")
    assert [str(getattr(choice, name.lower())) for name in given] == list(given.values())


def test_the_actors_follow_the_profile_that_the_command_saw(monkeypatch):
    monkeypatch.setenv("EMBEDDING_PROFILE", "speed")
    spec = JobSpec("", "", settings_to_dict(load_settings()), (), {}, {})
    monkeypatch.delenv("EMBEDDING_PROFILE")
    from cluster.settings import Settings

    assert Settings.model_validate(JobSpec.from_json(spec.to_json()).settings).model_choice("text").profile == "speed"


def test_a_stored_vector_takes_what_the_comparison_says(db):
    from tests.corpus_rows import choice

    for dimension in (384, 511, 512, 1536):
        space = spaces.ensure_space(db, "text", choice("text", dimension), {"d": dimension})
        query = f"SELECT pg_column_size(array_fill(0.5, ARRAY[{dimension}])::{space.storage}({dimension}))"
        assert db.execute(query.encode()).fetchone() == (vector_bytes(dimension),)


@pytest.fixture
def tiny(tmp_path, db, db_url):
    """A corpus with an old text space, and a settings file with two profiles of which one is embedded."""
    store(db, 3)
    folders = {size: tiny_text_model(tmp_path / f"m{size}", size) for size in (16, 32)}
    path = tmp_path / "config" / "rushes" / "rushes.toml"
    path.parent.mkdir(parents=True)
    path.write_text("".join(
        f'[profiles.t{size}.text]\nweights = "path:{folder}"\ndimension = {size}\n' for size, folder in folders.items()
    ))  # fmt: skip
    reembed_quietly(settings_of(db_url, folders[16], 16))
    return path


def test_using_a_profile_writes_it_and_switches_where_everything_is_there(tiny, db, db_url):
    first = reembed_quietly(load_settings(tiny, database_url=db_url, runner="inline").following("text", "t32"))
    assert first.active.dimension == 32
    done = rushes("profiles", "use", "t16", "--role", "text", url=db_url)
    assert (done.returncode, "t16, 16-d) is complete and in use" in done.stdout) == (0, True)
    assert tomllib.loads(tiny.read_text())["text"] == {"profile": "t16"}
    assert spaces.active_space(db, "text").dimension == 16
    back = rushes("profiles", "use", "t32", "--role", "text", url=db_url, EMBEDDING_PROFILE="t16")
    assert "t32, 32-d) is complete and in use" in back.stdout
    assert "EMBEDDING_PROFILE" not in back.stdout
    won = rushes("profiles", "use", "t32", "--role", "text", url=db_url, RUSHES_TEXT_PROFILE="t16")
    assert "but the text follows t16: RUSHES_TEXT_PROFILE wins" in won.stdout
    held = rushes("profiles", "use", "bundled", url=db_url, EMBEDDING_PROFILE="t16", RUSHES_PROFILE="speed")
    assert "but the text follows t32: [text] profile in the file wins" in held.stdout
    assert "but the voice follows speed: RUSHES_PROFILE wins" in held.stdout
    rows = json.loads(rushes("profiles", "compare", "t16", "t32", "bundled", "--json", url=db_url).stdout)
    assert [(row["profile"], row["dimension"], row["here"], row.get("vectors")) for row in rows] == [
        ("t16", 16, True, 3), ("t32", 32, True, 3), ("bundled", 384, True, None),
    ]  # fmt: skip


def test_a_profile_that_is_not_embedded_says_how_to_get_there(tiny, db, db_url):
    done = rushes("profiles", "use", "t32", "--role", "text", url=db_url)
    assert "no text space of t32 yet: run `rushes reembed`" in done.stdout
    assert spaces.active_space(db, "text").dimension == 16
    listed = json.loads(rushes("profiles", "list", "--json", url=db_url).stdout)
    assert {row["profile"]: row["in_force"] for row in listed}["t32"] == ["text"]
    shown = json.loads(rushes("profiles", "show", "t32", "--json", url=db_url).stdout)
    assert (shown["text"]["dimension"], shown["reranker"]) == (32, None)
    run = rushes("reembed", "--json", url=db_url, RUSHES_RUNNER="inline")
    answer = json.loads(run.stdout)
    assert (answer["texts"], answer["active"]["dimension"], answer["before"]["dimension"]) == (3, 32, 16)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["use"], "no terminal to ask on"),
        (["use", "fast"], "unknown profile 'fast'"),
        (["use", "speed", "--role", "smell"], "--role 'smell'"),
        (["show", "fast"], "unknown profile 'fast'"),
        (["compare", "bundled", "fast"], "unknown profile 'fast'"),
    ],
)
def test_a_mistake_changes_nothing(words, message, db_url, tmp_path):
    done = rushes("profiles", *words, url=db_url)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
    assert not (tmp_path / "config").exists()


def test_a_profile_whose_weights_are_missing_is_not_written(db_url, tmp_path):
    path = tmp_path / "config" / "rushes" / "rushes.toml"
    path.parent.mkdir(parents=True)
    path.write_text(before := '[profiles.away.text]\nweights = "path:/no/such/folder"\n')
    done = rushes("profiles", "use", "away", "--role", "text", url=db_url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no weights at /no/such/folder" in done.stderr
    assert path.read_text() == before


def test_asking_shows_the_comparison_first(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from jobs.cli.main import app

    done = CliRunner().invoke(app, ["profiles", "use", "--interactive", "--role", "text"], input="speed\n")
    assert (done.exit_code, "bytes/vector" in done.stdout) == (0, True)
    path = tmp_path / "config" / "rushes" / "rushes.toml"
    assert path.read_text() == '[text]\nprofile = "speed"\n'
    assert not (tmp_path / "data").exists()
