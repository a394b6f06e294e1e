"""Flag > environment > file > default; profiles with overrides; weights that are named."""

from __future__ import annotations

import pytest

from cluster.errors import RushesError, UsageError
from cluster.profiles import ALL_ROLES, ROLES, shipped
from cluster.settings import load_settings, settings_to_dict
from cluster.weights import identity, locate


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "rushes.toml"
    path.write_text(
        'language = "de"\nmin_speakers = 2\n[text]\nbatch_size = 7\n'
        '[profiles.own.text]\nweights = "path:/models/own"\ndimension = 32\n',
        encoding="utf-8",
    )
    return path


def test_flag_beats_environment_beats_file_beats_default(config, monkeypatch):
    assert load_settings(config).language == "de"
    monkeypatch.setenv("RUSHES_LANGUAGE", "fr")
    assert load_settings(config).language == "fr"
    settings = load_settings(config, language="en")
    assert settings.language == "en"
    assert settings.min_speakers == 2
    assert settings.segment_source == "diarization"


def test_a_role_is_overridden_field_by_field(config, monkeypatch):
    monkeypatch.setenv("RUSHES_TEXT_QUERY_PREFIX", "query: ")
    choice = load_settings(config).model_choice("text")
    assert (choice.profile, choice.batch_size, choice.query_prefix) == ("bundled", 7, "query: ")


def test_an_own_profile_extends_the_bundled_one(config, monkeypatch):
    monkeypatch.setenv("RUSHES_TEXT_PROFILE", "own")
    settings = load_settings(config)
    choice = settings.model_choice("text")
    assert (choice.weights, choice.dimension, choice.engine) == (
        "path:/models/own",
        32,
        "sentence-transformers",
    )
    assert settings.model_choice("voice").profile == "bundled"


def test_embedding_profile_sets_the_text_role_only(monkeypatch):
    monkeypatch.setenv("EMBEDDING_PROFILE", "speed")
    settings = load_settings()
    assert settings.model_choice("text").profile == "speed"
    assert settings.model_choice("voice").profile == "bundled"


def test_what_is_wrong_is_named(config, monkeypatch, tmp_path):
    with pytest.raises(UsageError, match=r"unknown profile 'fast'.*bundled, quality, speed"):
        load_settings(profile="fast")
    with pytest.raises(UsageError, match=r"segment_source.*whispr"):
        load_settings(segment_source="whispr")
    with pytest.raises(UsageError, match="--min-speakers 3 is greater than --max-speakers 2"):
        load_settings(min_speakers=3, max_speakers=2)
    with pytest.raises(UsageError, match="does not exist"):
        load_settings(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("language = \n")
    with pytest.raises(UsageError, match=r"bad\.toml"):
        load_settings(tmp_path / "bad.toml")
    (tmp_path / "odd.toml").write_text("langauge = 'en'\n")
    with pytest.raises(UsageError, match="langauge"):
        load_settings(tmp_path / "odd.toml")


def test_the_password_never_shows():
    settings = load_settings(database_url="postgresql://me:hidden@host/db")
    assert "hidden" not in repr(settings)
    assert "hidden" not in str(settings_to_dict(settings))


def test_every_shipped_profile_names_every_role_and_pins_its_weights():
    for name, roles in shipped().items():
        assert set(ROLES) <= set(roles) <= set(ALL_ROLES), name
        for values in roles.values():
            assert values["weights"].startswith(("package:", "hub:"))
            assert identity(values["weights"])


def test_weights_say_where_they_are_or_how_to_get_them(tmp_path):
    assert locate("package:resemblyzer/pretrained.pt").is_file()
    assert identity("package:resemblyzer/pretrained.pt").endswith("==0.1.4")
    for weights, words in {
        "package:no_such_module/x": "not installed",
        "package:resemblyzer/none.pt": "holds no none.pt",
        "path:/no/such/model": "no weights at /no/such/model",
        "hub:org/name": "not pinned",
        "hub:org/name@main": "not pinned",
    }.items():
        with pytest.raises(RushesError, match=words):
            locate(weights)


def test_a_path_is_known_by_its_content(tmp_path):
    for name, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.bin").write_text(text)
    same, twin, other = (identity(f"path:{tmp_path / name}") for name in "abc")
    assert same == twin != other


def test_a_mistake_in_a_secret_does_not_print_it(tmp_path):
    path = tmp_path / "rushes.toml"
    path.write_text('hf_token = "hf_hidden"\ndatabase_url = ["postgresql://me:hidden@host/db"]\n', encoding="utf-8")
    with pytest.raises(UsageError, match="hf_token: Extra inputs") as caught:
        load_settings(path)
    assert "hidden" not in str(caught.value)


def test_recognition_after_an_ingest_is_asked_for(config, monkeypatch):
    assert load_settings(config).identify is False
    monkeypatch.setenv("RUSHES_IDENTIFY", "true")
    assert load_settings(config).identify is True
    monkeypatch.setenv("RUSHES_IDENTIFY", "perhaps")
    with pytest.raises(UsageError, match="setting identify"):
        load_settings(config)


def test_a_variable_that_is_no_json_is_named_and_not_repeated(monkeypatch):
    monkeypatch.setenv("RUSHES_PLAN", "h200:4, hidden")
    with pytest.raises(UsageError, match=r'"plan" .* holds no JSON') as caught:
        load_settings(None)
    assert "hidden" not in str(caught.value)
