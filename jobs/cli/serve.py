"""`rushes serve`: the models and the corpus for other programs, over HTTP."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli.common import AsJson, Config, print_json, print_table, settings_from

app = typer.Typer(help="Serve the models and the corpus over HTTP.", no_args_is_help=True)

Host = Annotated[str | None, typer.Option(help="Address to listen at; other machines reach any but loopback.")]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen at.")]
Profile = Annotated[str | None, typer.Option(help="Model profile for every role.")]
Models = Annotated[str | None, typer.Option(help="Some of text,image,reranker,audio; without it all that have models.")]
HaProxy = Annotated[bool, typer.Option("--haproxy", help="HAProxy before the replicas: more requests a second.")]
Cluster = Annotated[str | None, typer.Option(help="Ray cluster to run on, HOST:PORT; none: this machine.")]
Dashboard = Annotated[str, typer.Option(help="Dashboard of the Ray cluster, such as http://head:8265.")]
Service = Annotated[
    str | None, typer.Option(help="Dashboard of the Ray cluster; none: the service that runs here.", show_default=False)
]
ServeConfig = Annotated[Path, typer.Argument(help="Serve config (YAML).")]


@app.command("run")
def run(
    host: Host = None,
    port: Port = None,
    profile: Profile = None,
    models: Models = None,
    haproxy: HaProxy = False,
    address: Cluster = None,
    config: Config = None,
) -> None:
    """Serve here until Ctrl-C."""
    from cluster.db.connect import refuse_embedded_elsewhere
    from jobs.ingest import open_database

    asked = {"host": host, "port": port, "models": models}
    given = {name: value for name, value in asked.items() if value is not None}
    settings = settings_from(config, profile=profile, serve=given or None)
    database = open_database(settings)
    refuse_embedded_elsewhere(database, address)
    _service("serve.main").run(settings, database, address=address, haproxy=haproxy, say=typer.echo)


@app.command("deploy")
def deploy(path: ServeConfig = Path("serve/config.yaml"), address: Dashboard = "http://127.0.0.1:8265") -> None:
    """Put a Serve config on a running cluster and wait until it serves."""
    _service("serve.deploying").deploy(path, address, say=typer.echo)


@app.command("status")
def status(address: Service = None, as_json: AsJson = False, config: Config = None) -> None:
    """What is deployed, and whether it is ready; exit code 1 when it is not."""
    found = _service("serve.deploying").status(address or _here(config))
    if as_json:
        print_json(found)
    else:
        _print(found)
    if not found["ready"]:
        raise typer.Exit(1)


def _service(module: str) -> Any:
    """The other house of this floor, which nothing here may import."""
    return importlib.import_module(module)


def _here(config: Path | None) -> str:
    from cluster.errors import RushesError

    settings = settings_from(config)
    dashboard = _service("serve.surroundings").find_service(settings.data_dir)
    if dashboard is None:
        raise RushesError(f"no service runs on {settings.data_dir}: name a cluster by --address http://HEAD:8265")
    return str(dashboard)


def _print(found: dict[str, Any]) -> None:
    for name, application in found["applications"].items():
        typer.echo(f"{name}: {application['status']}  {application['message']}".rstrip())
        rows = [
            [one["name"], one["status"], _counts(one["replicas"]), one["gpus_each"] or "-", one["message"]]
            for one in application["deployments"]
        ]
        print_table(["deployment", "status", "replicas", "GPUs each", "message"], rows)
    if not found["applications"]:
        typer.echo(f"nothing is deployed at {found['address']}")
        return
    wrong = "; ".join(f"{name}: {said}" for name, said in found["checks"].items() if said != "ok")
    typer.echo(f"ready: {found['url']}" if found["ready"] else f"not ready: {wrong}")


def _counts(replicas: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in replicas.items()) or "-"
