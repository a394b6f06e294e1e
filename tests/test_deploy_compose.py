"""deploy/compose.yaml and the image: keys that exist, files that are there, secrets by file, loopback alone."""

from __future__ import annotations

import json
import re
import shlex
import tomllib

import pytest
import typer
import yaml
from jsonschema import Draft202012Validator

from cluster.db.connect import PGVECTOR_WARNED_BELOW
from cluster.plan import RESERVED_CONNECTIONS, Node, Work, make_plan
from deploy.check import problems
from jobs.cli.main import app
from serve.deploying import read_config
from tests.deploy_files import COMPOSE, EVERY_FILE, ROOT, commands, filled, parsed, values

COMPOSED = parsed(COMPOSE)[0]
SERVICES = COMPOSED["services"]
OURS = {name: one for name, one in SERVICES.items() if one["image"].startswith("rushes")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
STAGES = ("decode", "speech_activity", "transcribe", "diarize", "segments", "voices", "texts", "pictures")


def faults(document):
    schema = json.loads((ROOT / "tests/schemas/compose.json").read_text("utf-8"))
    # It is of an older draft, whose `id` means nothing since.
    schema = json.loads(re.sub(r'"id": "[^"]*",', "", json.dumps(schema)))
    # The name of a project came after it.
    document = {key: value for key, value in document.items() if key != "name"}
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(document)]


def sources(service):
    """Where each mount of a service comes from."""
    for mount in service.get("volumes", []):
        yield re.sub(r"\$\{[^}]*\}", "variable", mount).split(":")[0]


def steps():
    """The instructions of the Dockerfile: (`RUN`, words after it)."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def test_every_key_exists_and_an_unknown_one_is_told():
    assert faults(COMPOSED) == []
    assert problems(ROOT / COMPOSE, filled(COMPOSE)) == []
    broken = yaml.safe_load(filled(COMPOSE).replace("depends_on", "depend_on"))
    assert any("depend_on" in fault for fault in faults(broken))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("RAY_AUTH_MODE: token", "RAY_AUTH_MODE: disabled", "services.head: runs without RAY_AUTH_MODE: token"),
        ('"127.0.0.1:8265:8265"', '"8265:8265"', "port 8265:8265 is published beyond loopback"),
        ("      - --num-cpus=0\n", "", "services.head: the head offers CPUs"),
        ("image: rushes:0.1.0", "image: rushes:0.0.1", "image rushes 0.0.1, this checkout has 0.1.0"),
        ("RUSHES_STORE: /store", "RUSHES_DATABASE_URL: postgresql://a:b@database/c", "holds a secret"),
    ],
)
def test_a_broken_file_is_told(old, new, told):
    assert old in filled(COMPOSE)
    found = problems(ROOT / COMPOSE, filled(COMPOSE).replace(old, new))
    assert any(told in one for one in found), found


def test_what_the_services_mount_depend_on_and_use_is_there():
    for service in SERVICES.values():
        for source in sources(service):
            if source.startswith("."):
                assert (ROOT / "deploy" / source).is_file(), source
            elif source != "variable":
                assert source in COMPOSED["volumes"], source
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        assert set(service.get("secrets", [])) <= set(COMPOSED["secrets"])
    used = {name for service in SERVICES.values() for name in service.get("secrets", [])}
    assert used == set(COMPOSED["secrets"])


def test_images_are_pinned_and_pgvector_is_new_enough():
    for service in SERVICES.values():
        assert re.search(r":v?\d", service["image"]), service["image"]
    has = re.search(r"pgvector/pgvector:([\d.]+)-pg(\d+)", SERVICES["database"]["image"])
    assert tuple(map(int, has[1].split("."))) >= tuple(PGVECTOR_WARNED_BELOW)
    assert int(has[2]) >= 15


def test_every_process_of_ours_takes_token_and_database_by_file():
    for service in OURS.values():
        environment = service["environment"]
        for name in ("RAY_AUTH_TOKEN_PATH", "RUSHES_DATABASE_URL_FILE"):
            assert environment[name].removeprefix("/run/secrets/") in service["secrets"]
        assert service["cap_drop"] == ["ALL"]
    assert "POSTGRES_PASSWORD" not in SERVICES["database"]["environment"]


def test_services_wait_for_those_that_answer():
    for service in SERVICES.values():
        waits = service.get("depends_on", {})
        for other, how in waits.items() if isinstance(waits, dict) else ():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], other


def test_the_connections_of_a_large_machine_fit_the_database():
    most = re.search(r"max_connections=(\d+)", " ".join(SERVICES["database"]["command"]))[1]
    node = Node(64, 256.0, (44.0,) * 4, kind="l40s")
    plan = make_plan(Work(1_200 * 3_600.0, 2_400), [node], STAGES, runner="ray", max_connections=int(most))
    assert plan.connections + RESERVED_CONNECTIONS <= int(most)


def test_the_service_is_the_shipped_one_but_for_its_address():
    ours, shipped = read_config(ROOT / "deploy/compose/serve.yaml"), read_config(ROOT / "serve/config.yaml")
    assert (ours["http_options"].pop("host"), shipped["http_options"].pop("host")) == ("0.0.0.0", "127.0.0.1")
    assert ours == shipped


def test_prometheus_keeps_what_deploy_grafana_keeps_and_finds_what_it_names():
    ours = yaml.safe_load((ROOT / "deploy/compose/prometheus.yaml").read_text("utf-8"))
    shipped = yaml.safe_load((ROOT / "deploy/grafana/prometheus.yaml").read_text("utf-8"))
    (job,) = [job for job in ours["scrape_configs"] if job["job_name"] == "rushes"]
    assert job.pop("authorization") == {"credentials_file": "/run/secrets/metrics_key"}
    (target,) = job["static_configs"][0]["targets"]
    assert target.split(":")[0] in SERVICES
    plain = next(one for one in shipped["scrape_configs"] if one["job_name"] == "rushes")
    job["static_configs"] = plain["static_configs"]
    assert ours == shipped
    mounted = [mount.split(":")[1] for mount in SERVICES["prometheus"]["volumes"]]
    assert f"/etc/prometheus/{ours['rule_files'][0]}" in mounted
    (files,) = [job["file_sd_configs"][0]["files"] for job in ours["scrape_configs"] if "file_sd_configs" in job]
    assert all(any(file.startswith(f"{place}/") for place in mounted) for file in files)


def test_grafana_is_given_the_source_and_the_dashboard():
    mounted = {mount.split(":")[1] for mount in SERVICES["grafana"]["volumes"]}
    (provider,) = yaml.safe_load((ROOT / "deploy/compose/dashboards.yaml").read_text("utf-8"))["providers"]
    assert any(place.startswith(provider["options"]["path"]) for place in mounted)
    (source,) = yaml.safe_load((ROOT / "deploy/compose/source.yaml").read_text("utf-8"))["datasources"]
    assert re.match(r"http://(\w+):9090$", source["url"])[1] in SERVICES


def known(words):
    """Whether `rushes WORDS` is a command with these options."""
    command = typer.main.get_command(app)
    words = list(words)
    while words and hasattr(command, "commands"):
        name = words.pop(0)
        if name not in command.commands:
            return False
        command = command.commands[name]
    options = {option for parameter in command.params for option in parameter.opts}
    return {word.split("=")[0] for word in words if word.startswith("-")} <= options


def test_every_command_of_the_files_exists():
    found = [words for name in EVERY_FILE for document in parsed(name) for words in commands(document)]
    found += list(commands((ROOT / "deploy/setup-node.sh").read_text("utf-8")))
    found += [json.loads(rest) for step, rest in steps() if step == "CMD"]
    ours = [words[1:] for words in found if words[0] == "rushes" and words[1:] != ["--help"]]
    assert {tuple(words[:2]) for words in ours} >= {("models", "warm"), ("serve", "deploy"), ("db", "migrate")}
    for words in ours:
        assert known(words), words
    assert not known(["models", "warmed"])
    assert not known(["models", "warm", "--no-such-option"])


def test_every_option_of_ray_start_exists():
    from ray.scripts.scripts import start

    options = {option for parameter in start.params for option in parameter.opts}
    seen = 0
    for name in EVERY_FILE:
        for document in parsed(name):
            for words in commands(document):
                if words[:2] == ["ray", "start"]:
                    given = {word.split("=")[0] for word in words if word.startswith("--")}
                    assert given <= options, (name, given - options)
                    seen += 1
            for params in values(document, "rayStartParams"):
                assert {f"--{key}" for key in params} <= options, name
                seen += 1
    assert seen >= 6 + 2 + 3


def test_the_image_copies_what_exists_and_nothing_else_reaches_the_builder():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    copied = set()
    for step, rest in steps():
        if step in ("COPY", "ADD"):
            copied |= {word for word in shlex.split(rest)[:-1] if not word.startswith("--")}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    assert "*" in (ROOT / ".dockerignore").read_text("utf-8").splitlines()


def test_the_image_runs_as_nobody_in_particular_from_the_lock_with_a_token():
    by_step = [step for step, _ in steps()]
    assert dict(steps())["FROM"].startswith(f"python:{PROJECT['requires-python'][2:]}-slim")
    (user,) = [rest for step, rest in steps() if step == "USER"]
    assert user not in ("root", "0")
    assert by_step.index("USER") < by_step.index("COPY")
    runs = " ".join(rest for step, rest in steps() if step == "RUN")
    assert "make install" in runs
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert "--require-hashes -r requirements.lock" in makefile
    assert "compileall" in makefile
    environment = dict(re.findall(r"(\w+)=(\S+)", dict(steps())["ENV"]))
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["PATH"].startswith("/opt/rushes/.venv/bin:")
    assert not {
        name
        for step, rest in steps()
        if step in ("ENV", "ARG")
        for name in re.findall(r"\w*(?:PASSWORD|SECRET|URL)\w*", rest)
    }


def test_every_folder_that_a_volume_covers_belongs_to_the_user_of_the_image():
    runs = " ".join(rest for step, rest in steps() if step == "RUN")
    made = set(re.search(r"install -d -o rushes -g rushes ([^&]+)", runs)[1].split())
    for service in OURS.values():
        for mount in service["volumes"]:
            if not mount.startswith(("$", ".")):
                assert mount.split(":")[1] in made, mount
