"""The config of the service is one that Serve reads as it is meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from cluster.errors import UsageError
from cluster.reservation import serve_shares
from cluster.settings import ServeSettings, load_settings
from serve.access import is_loopback
from serve.app import AppArgs, _deployment, build
from serve.deploying import read_config, unknown_keys
from serve.surroundings import find_service, forget_service, tell_service
from serve.words import one_line

PATH = Path(__file__).parents[1] / "serve" / "config.yaml"


def test_the_shipped_config_has_known_keys_and_the_plans_shares():
    config = read_config(PATH)
    (application,) = config["applications"]
    assert application["import_path"] == "serve.app:build"
    args = AppArgs.model_validate(application["args"])
    served = load_settings(args.config, **args.settings).serve
    assert served == ServeSettings()
    assert sum(serve_shares(served.models, served.gpu_share).values()) == pytest.approx(0.25)
    assert is_loopback(config["http_options"]["host"])
    assert config["logging_config"]["enable_access_log"] is False


@pytest.mark.parametrize("role", ["text", "audio"])
def test_the_threads_of_a_model_wait_for_each_other_without_holding_a_core(role):
    options = _deployment(role, 1, 0.0).ray_actor_options
    assert options["runtime_env"]["env_vars"]["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ([], "unheard_of"),
        (["http_options"], "http_options.unheard_of"),
        (["applications", 0], r"applications\[0\].unheard_of"),
        (["applications", 0, "deployments", 0], r"applications\[0\].deployments\[0\].unheard_of"),
        (["applications", 0, "deployments", 0, "autoscaling_config"], r"autoscaling_config.unheard_of"),
        (["applications", 0, "deployments", 0, "ray_actor_options"], r"ray_actor_options.unheard_of"),
    ],
)
def test_a_misspelt_key_is_named_at_every_depth(place, named, tmp_path):
    config = yaml.safe_load(PATH.read_text("utf-8"))
    config["applications"][0]["deployments"] = [
        {"name": "Text", "autoscaling_config": {"min_replicas": 1}, "ray_actor_options": {"num_cpus": 1}}
    ]
    assert list(unknown_keys(config, ServeDeploySchema)) == []
    at = config
    for step in place:
        at = at[step]
    at["unheard_of"] = 1
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    with pytest.raises(UsageError, match=named):
        read_config(path)


@pytest.mark.parametrize("text", ["[1, 2", "a: [b", "just words", "applications: 3", "\x00"])
def test_what_is_no_config_is_one_line(text, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError) as caught:
        read_config(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="No such file"):
        read_config(tmp_path / "none.yaml")


def test_arguments_of_the_application_hold_no_unknown_name_and_no_address_of_a_database():
    with pytest.raises(UsageError, match=r"args\.setings"):
        build({"setings": {}})
    with pytest.raises(UsageError, match="RUSHES_DATABASE_URL on the nodes") as caught:
        build({"settings": {"database_url": "postgresql://me:hidden@host/db"}})
    assert "hidden" not in str(caught.value)
    with pytest.raises(UsageError, match="unheard_of"):
        build({"settings": {"serve": {"unheard_of": 1}}})


def test_pages_of_ray_become_one_line():
    page = "Traceback:\n  File x\ncluster.errors.RushesError: weights are not here: pull them\n"
    assert one_line(page) == "weights are not here: pull them"
    assert one_line("Traceback\nRuntimeError: CUDA is gone\n") == "RuntimeError: CUDA is gone"
    assert one_line("") == ""


def test_a_second_service_on_a_data_directory_leaves_the_first_to_be_found(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    tell_service(tmp_path)
    # pytest's own parent: a process that lives
    monkeypatch.setattr(os, "getpid", os.getppid)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8266")
    tell_service(tmp_path)
    forget_service(tmp_path)
    assert find_service(tmp_path) == "http://127.0.0.1:8265"
    monkeypatch.undo()
    forget_service(tmp_path)
    assert find_service(tmp_path) is None
