"""The files of `ray up` are what Ray, the cloud and the plan take them for, checked without a cluster."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml
from botocore.session import get_session
from botocore.validate import ParamValidator

from cluster.hardware import kind_of, kinds
from cluster.plan import Node, Work, make_plan
from cluster.reservation import serve_shares
from cluster.settings import ServeSettings, load_settings
from deploy.check import main, problems, ray_starts
from tests.deploy_files import RAY_FILES, ROOT, filled, node_gib, parsed

ARCHIVE = Work(1_200 * 3_600.0, 2_400, images=20_000)
STAGES = ("decode", "speech_activity", "transcribe", "diarize", "segments", "voices", "texts", "pictures")
CLOUDS = RAY_FILES[:2]
LABEL = "ray.io/accelerator-type"


@pytest.fixture
def ready(tmp_path, monkeypatch):
    """A checkout whose settings are filled in, and a home with the two secrets."""
    home = tmp_path / "home"
    for name in (".config/rushes/database_url", ".ray/auth_token"):
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text("secret")
        (home / name).chmod(0o600)
    monkeypatch.setenv("HOME", str(home))
    for name in {local for path in RAY_FILES for local in parsed(path)[0]["file_mounts"].values() if local[0] != "~"}:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if name == "deploy/rushes.toml":
            (tmp_path / name).write_text(filled(name))
        elif not (tmp_path / name).exists():
            (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setattr("deploy.check.ROOT", tmp_path)
    return home


@pytest.fixture(autouse=True)
def _a_folder_of_its_own(tmp_path):
    (tmp_path / "deploy").mkdir()


def workers(name, count):
    """The nodes of a file with `count` (`min_workers`, `max_workers`) of each type, as the plan sees them."""
    config = parsed(name)[0]
    found = []
    for kind, type_ in config["available_node_types"].items():
        if kind == config["head_node_type"]:
            continue
        machine = type_["node_config"].get("InstanceType") or type_["node_config"]["machineType"]
        card = kind_of(type_.get("labels", {}).get(LABEL, ""))
        gpus = (kinds()[card].card_gib,) * type_["resources"].get("GPU", 0) if card else ()
        node = Node(type_["resources"]["CPU"], node_gib(machine), gpus, kind=card or "cpu")
        found += [node] * type_[count]
    return found


@pytest.mark.parametrize("name", RAY_FILES)
def test_a_file_is_ready_once_it_is_filled_in_and_not_before(ready, name):
    assert problems(ROOT / name, filled(name)) == []
    missing = problems(ROOT / name, (ROOT / name).read_text("utf-8"))
    assert missing
    assert all("still to be filled in" in one for one in missing)


@pytest.mark.parametrize("name", RAY_FILES)
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("RAY_AUTH_MODE=token ", "", "without RAY_AUTH_MODE=token"),
        ("cluster_name: rushes", "cluster_name: rushes\nmax_workerz: 2", "max_workerz"),
        ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "beyond loopback"),
        ("--num-cpus=0 ", "", "the head offers CPUs"),
        ("  ~/.ray/auth_token: ~/.ray/auth_token\n", "", "nothing brings auth_token"),
        ("~/rushes/jobs: jobs", "~/rushes/jobs: jobz", "jobz does not exist"),
        ("PATH=/opt", "RUSHES_DATABASE_URL=postgresql://me:hunter2@host/db PATH=/opt", "holds a secret"),
        ("setup_commands:\n", "setup_commands:\n  - uv pip install ray==2.55.0\n", "2.55.0, this checkout has 2.60.0"),
    ],
)
def test_a_broken_file_is_told(ready, name, old, new, told):
    text = filled(name)
    assert old in text
    found = problems(ROOT / name, text.replace(old, new))
    assert any(told in one for one in found), found
    assert not any("hunter2" in one for one in found if told == "holds a secret" and one.startswith(told))


def test_secrets_that_others_may_read_and_empty_ones_are_told(ready):
    (ready / ".ray/auth_token").chmod(0o644)
    (ready / ".config/rushes/database_url").write_text("\n")
    found = problems(ROOT / RAY_FILES[0], filled(RAY_FILES[0]))
    assert found == [
        "file_mounts: ~/.config/rushes/database_url is empty",
        "file_mounts: ~/.ray/auth_token is open to others: chmod 600",
    ]


def test_the_check_as_a_program(ready, capsys, tmp_path):
    (tmp_path / "cluster.yaml").write_text(filled(RAY_FILES[0]))
    assert main([str(tmp_path / "cluster.yaml")]) == 0
    assert main([str(ROOT / RAY_FILES[0])]) == 1
    assert "FILL_IN_REGION" in capsys.readouterr().out
    (tmp_path / "no.yaml").write_text("a: [")
    assert main([str(tmp_path / "absent.yaml")]) == 2
    assert main([]) == 2
    assert main([str(tmp_path / "no.yaml")]) == 2
    (tmp_path / "no.yaml").write_text("- a")
    assert main([str(tmp_path / "no.yaml")]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no deployment file"),
        ("foo: 1", "neither cluster_name, nor services, nor kind"),
        ("services:", "neither cluster_name, nor services, nor kind"),
        ("kind: RayCluster\nspec: {headGroupSpec: }", "RayCluster without name: the head offers CPUs"),
        ("cluster_name: x\nfile_mounts: [a]", "nothing brings auth_token to the nodes"),
        ("services: {head: {command: ray start --head, environment: [A=1]}}", "runs without RAY_AUTH_MODE: token"),
        ("services: {head: {command: ray start --head}}", "the head offers CPUs"),
    ],
)
def test_a_file_of_another_shape_is_one_line(text, says, tmp_path, capsys):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    assert main([str(path)]) in (1, 2)
    told = capsys.readouterr()
    assert says in told.out + told.err


def test_an_environment_may_be_a_list():
    service = "services: {head: {command: [ray, start], environment: [RAY_AUTH_MODE=token]}}"
    assert problems(ROOT / "compose.yaml", service) == []


@pytest.mark.parametrize("name", RAY_FILES)
def test_every_node_runs_the_environment_and_takes_the_database_by_file(name):
    config = parsed(name)[0]
    starts = ray_starts(config)
    assert len(starts) == 2
    for command in starts:
        assert "PATH=/opt/rushes/.venv/bin:$PATH" in command
        assert {"RAY_USAGE_STATS_ENABLED=0", "RAY_worker_niceness=0"} <= set(command.split())
        assert "--metrics-export-port=8090" in command.split()
        file = re.search(r"RUSHES_DATABASE_URL_FILE=\$HOME(\S+)", command)[1]
        assert f"~{file}" in config["file_mounts"]
    (settings,) = [remote for remote, local in config["file_mounts"].items() if local == "deploy/rushes.toml"]
    assert settings == "~/.config/rushes/rushes.toml"


def test_the_settings_of_the_nodes_are_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config/rushes").mkdir(parents=True)
    (tmp_path / ".config/rushes/database_url").write_text("postgresql:///corpus\n")
    (tmp_path / "rushes.toml").write_text(filled("deploy/rushes.toml"))
    settings = load_settings(tmp_path / "rushes.toml")
    assert settings.database_url.get_secret_value() == "postgresql:///corpus"
    assert settings.store.startswith("s3://")
    # The head's too: it registers, through a cache like every node's.
    types = {name: parsed(name)[0]["available_node_types"] for name in CLOUDS}
    disks_gb = {(name, kind): _disk_gb(types[name][kind]["node_config"]) for name in types for kind in types[name]}
    assert len(disks_gb) == 6
    small = {at: gb for at, gb in disks_gb.items() if settings.cache_bytes >= gb * 10**9 - 30 * 2**30}
    assert small == {}


def _disk_gb(node: dict[str, Any]) -> int:
    if "disks" in node:
        return node["disks"][0]["initializeParams"]["diskSizeGb"]
    return node["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"]


@pytest.mark.parametrize("name", RAY_FILES)
def test_the_mounts_are_all_that_setup_and_run_need_and_small(name):
    mounts = parsed(name)[0]["file_mounts"]
    locals_ = [ROOT / local for local in mounts.values() if not local.startswith("~")]
    files = [file for path in locals_ for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    assert sum(file.stat().st_size for file in files if "__pycache__" not in file.parts) < 20 * 2**20
    needed = {"cluster", "actors", "jobs", "serve", "deploy", "Makefile", "pyproject.toml", "requirements.lock"}
    assert needed <= {path.name for path in locals_}


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_takes_no_work_is_never_spot_and_the_setup_is_ours_alone(name):
    from ray.autoscaler._private.util import prepare_config

    config = parsed(name)[0]
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]
    assert "scheduling" not in head["node_config"]
    whole = prepare_config(yaml.safe_load(filled(name)))
    assert all("/opt/rushes" in command for command in whole["head_setup_commands"])
    most = sum(type_.get("max_workers", 0) for type_ in config["available_node_types"].values())
    assert config["max_workers"] == most


def test_ec2_takes_the_parameters_of_every_node_and_would_refuse_an_unknown_one():
    shape = get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for type_ in parsed(RAY_FILES[0])[0]["available_node_types"].values():
        given = {**type_["node_config"], "MinCount": 1, "MaxCount": 1}
        assert ParamValidator().validate(given, shape).generate_report() == ""
        assert "Spott" in ParamValidator().validate({**given, "Spott": 1}, shape).generate_report()


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("count", ["min_workers", "max_workers"])
def test_the_archive_fits_the_nodes_beside_the_service(name, count):
    nodes = workers(name, count)
    assert any(node.gpu_gib for node in nodes)
    share = sum(serve_shares(ServeSettings().models, ServeSettings().gpu_share).values())
    for held in (0.0, share):
        there = [Node(n.cpus, n.memory_gib, n.gpu_gib, held if n.gpu_gib else 0.0, kind=n.kind) for n in nodes]
        plan = make_plan(ARCHIVE, there, STAGES, runner="ray", max_connections=None)
        cards = sum(len(node.gpu_gib) for node in there)
        assert sum(group.actors * group.gpus_each for group in plan.groups) <= cards * (1 - held) + 1e-6
        assert {stage for group in plan.groups for stage in group.stages} == set(STAGES)
        assert all(any(group.may_use(node) for node in there) for group in plan.groups)
        assert count == "max_workers" or any(group.gpus_each for group in plan.groups)


@pytest.mark.parametrize("name", CLOUDS)
def test_the_label_of_a_node_type_names_its_card_and_its_resources_count_it(name):
    for type_ in parsed(name)[0]["available_node_types"].values():
        cards = type_["resources"].get("GPU", 0)
        assert bool(kind_of(type_.get("labels", {}).get(LABEL, ""))) is bool(cards)


@pytest.mark.parametrize("name", RAY_FILES)
def test_every_command_is_one_that_a_shell_takes(name):
    config = parsed(name)[0]
    for key in ("setup_commands", "head_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        for command in config.get(key, []):
            subprocess.run(["bash", "-n", "-c", command], check=True)
            assert "\n" not in command, "one line: its environment would end with the first"


def test_the_setup_script_parses_and_makes_what_the_makefile_has():
    script = ROOT / "deploy/setup-node.sh"
    subprocess.run(["sh", "-n", script], check=True)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^make (\w+)", script.read_text("utf-8"), re.M):
        assert re.search(rf"^{target}:", makefile, re.M)


def test_the_check_runs_by_its_path():
    done = subprocess.run(
        [sys.executable, "deploy/check.py", "deploy/kuberay/settings.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (
        1,
        "deploy/kuberay/settings.yaml: FILL_IN_BUCKET is still to be filled in\n",
    ), done.stderr
