"""Says what a deployment file lacks before it is used: `python deploy/check.py FILE...`.

It asks no cloud and no cluster: placeholders that are still to be filled in, keys that nobody knows, secrets that are
missing or stand in the file, a Ray without token, versions that differ from this checkout. Exit code 1 when anything
is wrong, 2 when a file cannot be read.
"""

from __future__ import annotations

import io
import logging
import re
import shlex
import stat
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from yaml import YAMLError

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDER = re.compile(r"FILL_IN_[A-Z_]+")
# An address with a password, a token as it is, an access key of AWS, a private key.
SECRET = re.compile(r"://[^\s:/@]+:[^\s/@$]+@|RAY_AUTH_TOKEN[=:]\s*\S|AKIA[0-9A-Z]{16}|PRIVATE KEY-----")
SECRET_MOUNTS = ("database_url", "auth_token")
LOOPBACK = "127.0.0.1"


def problems(path: Path, text: str) -> list[str]:
    """What is wrong with the deployment file at `path` that holds `text`, one line each."""
    found = [f"{name} is still to be filled in" for name in dict.fromkeys(PLACEHOLDER.findall(_code(text)))]
    found += [f"holds a secret: {_hidden(match)}" for match in SECRET.findall(text)]
    for document in list(yaml.safe_load_all(text)) or [None]:
        if not isinstance(document, dict):
            raise ValueError("no deployment file: a mapping is expected")
        if "cluster_name" in document:
            found += _of_ray_file(document)
        elif isinstance(document.get("services"), dict):
            found += _of_compose(document)
        elif "kind" in document:
            found += _of_kubernetes(document)
        else:
            raise ValueError("no deployment file: it has neither cluster_name, nor services, nor kind")
    return found + [f"{what} {has}, this checkout has {want}" for what, has, want in _versions(text) if has != want]


def ray_starts(config: dict[str, Any]) -> list[str]:
    """Every command of a Ray cluster file that starts Ray."""
    lists = (config.get("head_start_ray_commands") or [], config.get("worker_start_ray_commands") or [])
    return [command for commands in lists for command in commands if re.search(r"\bray start\b", command)]


def ray_clusters(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The specs of Ray clusters in a document of Kubernetes."""
    spec = document.get("spec") or {}
    inner = {"RayCluster": spec, "RayJob": spec.get("rayClusterSpec"), "RayService": spec.get("rayClusterConfig")}
    return [inner[document["kind"]] or {}] if document.get("kind") in inner else []


def _of_ray_file(config: dict[str, Any]) -> Iterator[str]:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        # It warns of single files under file_mounts, which only containers do not see change.
        logging.getLogger("ray.autoscaler").setLevel(logging.WARNING)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            validate_config(prepare_config(deepcopy(config)))
    except (ValidationError, ValueError, KeyError) as error:
        yield f"Ray refuses it: {getattr(error, 'message', None) or error}"
    starts = ray_starts(config)
    heads = [command for command in starts if "--head" in command]
    if not heads or len(heads) == len(starts):
        yield "starts no head, or no worker: head_start_ray_commands and worker_start_ray_commands each run `ray start`"
    for command in starts:
        if not re.search(r"\bRAY_AUTH_MODE=token .*\bray start\b", command):
            yield f"starts Ray without RAY_AUTH_MODE=token: {command}"
    for command in heads:
        if f"--dashboard-host={LOOPBACK} " not in f"{command} ":
            yield f"the dashboard listens beyond loopback, without --dashboard-host={LOOPBACK}: {command}"
        if "--num-cpus=0 " not in f"{command} ":
            yield f"the head offers CPUs, without --num-cpus=0: {command}"
    mounts = config.get("file_mounts") or {}
    yield from _of_mounts(mounts if isinstance(mounts, dict) else {})


def _of_mounts(mounts: dict[str, str]) -> Iterator[str]:
    for remote, local in mounts.items():
        path = ROOT / Path(local).expanduser()
        if not path.exists():
            yield f"file_mounts: {local} does not exist"
        elif Path(remote).name in SECRET_MOUNTS:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                yield f"file_mounts: {local} is open to others: chmod 600"
            if not path.read_text("utf-8").strip():
                yield f"file_mounts: {local} is empty"
        elif path.suffix == ".toml":
            yield from _of_settings(path, local)
    for name in SECRET_MOUNTS:
        if not any(Path(remote).name == name for remote in mounts):
            yield f"file_mounts: nothing brings {name} to the nodes"


def _of_settings(path: Path, name: str) -> Iterator[str]:
    text = path.read_text("utf-8")
    settings = {key for key, value in tomllib.loads(text).items() if not isinstance(value, dict)}
    yield from (f"{name}: {found} is still to be filled in" for found in PLACEHOLDER.findall(_code(text)))
    if "database_url" in settings:
        yield f"{name}: holds database_url, a secret: name the file of it with database_url_file"


def _of_kubernetes(document: dict[str, Any]) -> Iterator[str]:
    if document.get("kind") == "Secret":
        yield "holds a Secret: make it by hand (kubectl create secret)"
    for spec in ray_clusters(document):
        name = f"{document['kind']} {(document.get('metadata') or {}).get('name', 'without name')}"
        if (spec.get("authOptions") or {}).get("mode") != "token":
            yield f"{name}: authOptions.mode is not token"
        if ((spec.get("headGroupSpec") or {}).get("rayStartParams") or {}).get("num-cpus") != "0":
            yield f'{name}: the head offers CPUs, without num-cpus: "0"'


def _of_compose(document: dict[str, Any]) -> Iterator[str]:
    for name, service in document["services"].items():
        command = service.get("command") or []
        command = shlex.split(command) if isinstance(command, str) else command
        if command[:1] in (["ray"], ["rushes"]) and _environment(service).get("RAY_AUTH_MODE") != "token":
            yield f"services.{name}: runs without RAY_AUTH_MODE: token"
        if "--head" in command and "--num-cpus=0" not in command:
            yield f"services.{name}: the head offers CPUs, without --num-cpus=0"
        for port in service.get("ports") or []:
            if not str(port).startswith(f"{LOOPBACK}:"):
                yield f"services.{name}: port {port} is published beyond loopback: {LOOPBACK}:{port}"


def _environment(service: dict[str, Any]) -> dict[str, str]:
    """The environment of a service, which compose takes as a mapping or as a list of NAME=VALUE."""
    given = service.get("environment") or {}
    return given if isinstance(given, dict) else dict(one.partition("=")[::2] for one in given)


def _versions(text: str) -> Iterator[tuple[str, str, str]]:
    """What names a version in the file, the version, and the one it has to be."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pins = [re.match(r"ray\[.*\]==(\S+)$", one) for one in project["dependencies"]]
    (ray,) = [pin[1] for pin in pins if pin]
    yield from (("rayVersion", has, ray) for has in re.findall(r'rayVersion: "?([\w.]+)', text))
    yield from (("ray", has, ray) for has in re.findall(r"\bray(?:\[[\w,]+\])?==([\w.]+)", text))
    yield from (("image rushes", has, project["version"]) for has in re.findall(r"\brushes:(\d[\w.-]*)", text))


def _code(text: str) -> str:
    return re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)


def _hidden(match: str) -> str:
    return f"{match[:4]}... ({len(match)} characters)"


def main(arguments: list[str]) -> int:
    """Print what is wrong with each file; the exit code."""
    if not arguments or arguments[0].startswith("-"):
        print("usage: python deploy/check.py FILE...", file=sys.stderr)
        return 2
    code = 0
    for name in arguments:
        try:
            found = problems(Path(name), Path(name).read_text("utf-8"))
        except (OSError, ValueError, YAMLError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            print(f"{name}: {reason}", file=sys.stderr)
            return 2
        code = 1 if found else code
        print("\n".join(f"{name}: {one}" for one in found) if found else f"{name}: ready")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
