"""The service on a cluster that runs already, through the REST interface of Serve: put a config there, look at it."""

from __future__ import annotations

import time
import types
import typing
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from cluster.errors import RushesError, UsageError, first_line
from serve.words import one_line

WAIT_S = 900.0
POLL_S = 1.0
PROBE_S = 5.0
# Free by design: what an application is given, what Ray gives to actors.
OPEN = ("args", "user_config", "env_vars", "runtime_env", "resources", "policy_kwargs", "request_router_kwargs")


def read_config(path: Path) -> dict[str, Any]:
    """A Serve config with every key known; `UsageError` names the first that is not, or what Ray says of a value."""
    from ray.serve.schema import ServeDeploySchema

    try:
        config = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no YAML: {first_line(error)}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path} is no Serve config: it holds no applications")
    # Ray takes a misspelt key without a word and goes by its default.
    if unknown := next(unknown_keys(config, ServeDeploySchema), None):
        raise UsageError(f"{path}: Serve knows no key {unknown}")
    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    return config


def unknown_keys(value: Any, kind: Any, place: str = "") -> Iterator[str]:
    """The keys in `value` that the pydantic model `kind` has no field for, at every depth, as `a.b[0].c`."""
    models = list(_models(kind))
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from unknown_keys(one, kind, f"{place}[{number}]")
    elif isinstance(value, dict) and models:
        fields = {name: field.annotation for model in models for name, field in model.model_fields.items()}
        for key, inner in value.items():
            if key not in fields:
                yield f"{place}.{key}".lstrip(".")
            elif key not in OPEN:
                yield from unknown_keys(inner, fields[key], f"{place}.{key}".lstrip("."))


def _models(kind: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation allows."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    elif typing.get_origin(kind) in (typing.Union, types.UnionType, list, typing.Annotated):
        for inner in typing.get_args(kind):
            yield from _models(inner)


def deploy(path: Path, address: str, say: Callable[[str], None]) -> None:
    """Put the config of `path` on the cluster whose dashboard is at `address`, and wait until it runs.

    Raises `UsageError` for a config that Ray would misread and `RushesError` for a cluster or an application that
    does not come up, with its reason.
    """
    config, client = read_config(path), _client(address)
    _asked(address, lambda: client.deploy_applications(config))
    names, deadline, before = [app["name"] for app in config["applications"]], time.monotonic() + WAIT_S, ""
    while time.monotonic() < deadline:
        apps = _asked(address, client.get_serve_details)["applications"]
        states = {name: apps.get(name, {}).get("status", "NOT_STARTED") for name in names}
        if (now := ", ".join(f"{name} {state.lower()}" for name, state in states.items())) != before:
            say(now)
            before = now
        for name, state in states.items():
            if state in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise RushesError(f"{name} does not start: {_why(apps[name])}")
        if set(states.values()) == {"RUNNING"}:
            return
        time.sleep(POLL_S)
    raise RushesError(f"{before} after {WAIT_S:.0f} s; go on looking with `rushes serve status --address {address}`")


def _why(app: dict[str, Any]) -> str:
    """What the deployment says that failed, else the application."""
    said = [one.get("message", "") for one in app.get("deployments", {}).values()]
    return one_line(next((message for message in said if "Error" in message), app.get("message", "")))


def status(address: str) -> dict[str, Any]:
    """What runs on the cluster whose dashboard is at `address`: each deployment, and what `/health/ready` says."""
    client = _client(address)
    details = _asked(address, client.get_serve_details)
    options = details.get("http_options") or {}
    host, port = options.get("host") or "127.0.0.1", options.get("port") or 8000
    applications = {
        name: {
            "status": app["status"].lower(),
            "message": one_line(app.get("message", "")),
            "deployments": [_deployment(one) for one in app.get("deployments", {}).values()],
        }
        for name, app in details.get("applications", {}).items()
    }
    url = http_address(host, port)
    ready, checks = probe(url) if applications else (False, {})
    return {"address": address, "url": url, "ready": ready, "checks": checks, "applications": applications}


def _deployment(one: dict[str, Any]) -> dict[str, Any]:
    states = [replica["state"].lower() for replica in one.get("replicas", [])]
    return {
        "name": one["name"],
        "status": one["status"].lower(),
        "message": one_line(one.get("message", "")),
        "replicas": {state: states.count(state) for state in sorted(set(states))},
        "gpus_each": one["deployment_config"].get("ray_actor_options", {}).get("num_gpus", 0.0),
    }


def http_address(host: str, port: int) -> str:
    """Where a client on this machine finds a service that listens at `host` and `port`."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


def probe(url: str) -> tuple[bool, dict[str, str]]:
    """Whether the service at `url` is ready, and what it says of each of its parts."""
    import json

    try:
        with urllib.request.urlopen(f"{url}/health/ready", timeout=PROBE_S) as answer:
            return True, json.load(answer)["checks"]
    except urllib.error.HTTPError as error:
        try:
            return False, json.load(error)["checks"]
        except (ValueError, KeyError):
            return False, {"http": f"status {error.code}"}
    except (OSError, ValueError, KeyError) as error:
        return False, {"http": first_line(error)}


def _client(address: str) -> Any:
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    if not address.startswith(("http://", "https://")):
        raise UsageError(f"--address {address} is no dashboard: write http://HEAD:8265")
    return _asked(address, lambda: ServeSubmissionClient(address))


def _asked(address: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        raise RushesError(f"the Ray dashboard at {address} does not do it: {one_line(str(error))}") from error
