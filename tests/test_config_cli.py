"""`rushes config`: each setting with the place that decided it, and never a secret."""

from __future__ import annotations

import json

import pytest

from cluster.provenance import config_place, provenance
from cluster.settings import load_settings
from tests.test_cli import rushes


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "rushes.toml"
    path.write_text(
        'language = "de"\nmin_speakers = 2\n[text]\nprofile = "other"\nbatch_size = 7\n'
        '[profiles.mine.text]\ndimension = 32\nquery_prefix = "q "\n'
        '[profiles.other.text]\nextends = "mine"\ndimension = 16\n'
    )
    return path


def sources(config, **flags):
    return {item.name: (item.value, item.source) for item in provenance(load_settings(config, **flags), config, flags)}


def test_each_setting_names_the_place_that_decided_it(config, monkeypatch):
    monkeypatch.setenv("RUSHES_LANGUAGE", "fr")
    monkeypatch.setenv("RUSHES_VOICE", '{"batch_size": 9}')
    found = sources(config, profile="speed")
    assert found["profile"] == ("speed", "flag --profile")
    assert found["language"] == ("fr", "environment RUSHES_LANGUAGE")
    assert found["min_speakers"] == (2, f"file {config}")
    assert found["segment_source"] == ("diarization", "default")
    assert found["transcriber.profile"] == ("speed", "flag --profile")
    assert found["transcriber.beam_size"] == (1, "profile speed")
    assert found["transcriber.device"] == ("auto", "default")
    assert found["voice.batch_size"] == (9, "environment RUSHES_VOICE")
    assert found["profiles"] == (["mine", "other"], f"file {config}")


def test_a_role_follows_its_profiles_chain_field_by_field(config, monkeypatch):
    found = sources(config)
    assert found["text.profile"] == ("other", f"file {config}")
    assert found["text.dimension"] == (16, "profile other")
    assert found["text.query_prefix"] == ("q ", "profile mine")
    assert found["text.engine"] == ("sentence-transformers", "profile bundled")
    assert found["text.batch_size"] == (7, f"file {config}")
    monkeypatch.setenv("RUSHES_TEXT_DIMENSION", "64")
    monkeypatch.setenv("EMBEDDING_PROFILE", "speed")
    found = sources(None)
    assert found["text.dimension"] == (64, "environment RUSHES_TEXT_DIMENSION")
    assert found["text.profile"] == ("speed", "environment EMBEDDING_PROFILE")
    assert found["text.weights"][1] == "profile speed"
    assert found["voice.profile"] == ("bundled", "default")


def test_every_setting_is_shown(config):
    settings = load_settings(config)
    shown = {name.partition(".")[0] for name in sources(config)}
    assert shown == set(type(settings).model_fields)


def test_the_database_is_shown_by_its_place_and_never_its_password(config):
    for url, shown in (
        ("postgresql://me:hidden@db.example:5432/corpus", "corpus at db.example"),
        ("postgres:/me:hidden@db.example/corpus", "(not a PostgreSQL address)"),
    ):
        for words in (["config", "show"], ["config", "show", "--json"]):
            done = rushes(*words, "--config", str(config), url=url)
            assert done.returncode == 0, done.stderr
            assert shown in done.stdout
            assert "hidden" not in done.stdout + done.stderr
    done = rushes("db", "status", url="postgres:/me:hidden@db.example/corpus")
    assert (done.returncode, "hidden" in done.stderr) == (1, False)
    assert "embedded server" in rushes("config", "show").stdout


def test_the_path_is_that_of_the_file_in_force_or_of_the_one_looked_for(config, tmp_path, monkeypatch):
    assert rushes("config", "path", "--config", str(config)).stdout == f"{config}\n"
    found = json.loads(rushes("config", "path", "--json").stdout)
    assert found == {
        "path": str(tmp_path / "config/rushes/rushes.toml"),
        "named_by": "the usual place",
        "exists": False,
    }
    for words, env, named in (
        (["--config", "/no/such.toml"], {}, "--config"),
        ([], {"RUSHES_CONFIG": "/no/such.toml"}, "RUSHES_CONFIG"),
    ):
        done = rushes("config", "path", *words, **env)
        assert (done.returncode, done.stderr) == (
            2,
            f"error: settings file /no/such.toml does not exist: check {named}\n",
        )
    monkeypatch.setenv("RUSHES_CONFIG", str(config))
    assert config_place(None).named_by == "RUSHES_CONFIG"
