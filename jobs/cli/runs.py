"""`rushes runs`: what was run, what runs, what it prints, and how to end it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli.common import AsJson, Config, Limit, Yes, confirm, corpus, print_json, print_table, settings_from

app = typer.Typer(help="The runs of this corpus, and the cluster's jobs.", no_args_is_help=True, rich_markup_mode=None)
Run = Annotated[str, typer.Argument(help="A run id, its first digits, or the id of a Ray job.", show_default=False)]
Dashboard = Annotated[
    str | None,
    typer.Option("--address", help="Dashboard of the cluster; else RAY_API_SERVER_ADDRESS, RAY_ADDRESS; or none."),
]
Follow = Annotated[bool, typer.Option("--follow", help="Until the job ends.")]


@app.command("list")
def list_runs(limit: Limit = 20, address: Dashboard = None, as_json: AsJson = False, config: Config = None) -> None:
    """The latest runs, and jobs of the cluster that have no run yet."""
    from cluster.db import report

    with corpus(config) as conn:
        rows = report.runs_table(conn, limit)
    jobs, note = _jobs(address)
    listed = [{**row, "job_state": jobs[row["job"]].state if row["job"] in jobs else None} for row in rows]
    known = {row["job"] for row in rows}
    waiting = [job for job in jobs.values() if job.active and job.job_id not in known]
    if as_json:
        print_json({"runs": listed, "jobs": [_job_dict(job) for job in waiting], "note": note})
        return
    _print_runs(listed, waiting)
    if note:
        typer.echo(note, err=True)


def _print_runs(listed: list[dict[str, Any]], waiting: list[Any]) -> None:
    from cluster.db.report import summary_time

    if not listed and not waiting:
        typer.echo("no run yet: start one with `rushes ingest PATH`, or on a cluster with `rushes backfill PATH`")
        return
    rows = [["-", "-", job.state, "", "", "", "", job.job_id, job.state] for job in waiting]
    for row in listed:
        done = row["summary"] or {}
        counts = [done.get("ok", ""), done.get("failed", "")]
        place = [row["job"] or "", row["job_state"] or ""]
        begun = summary_time(row["started_at"])
        rows.append([row["run_id"][:8], row["kind"], _state(row), begun, _or_empty(row["planned"]), *counts, *place])
    print_table(["run", "kind", "state", "started", "planned", "ok", "failed", "job", "job state"], rows)


def _state(row: dict[str, Any]) -> str:
    return "ending" if row["state"] == "running" and row["cancel_asked_at"] else row["state"]


def _or_empty(value: Any) -> Any:
    return "" if value is None else value


@app.command("show")
def show_run(run: Run, address: Dashboard = None, as_json: AsJson = False, config: Config = None) -> None:
    """How far a run is or how it ended, its settings, its job, and what was predicted beside what was measured."""
    from cluster.db import progress
    from jobs.cli.status import print_lines, run_lines

    with corpus(config) as conn:
        found = _found(conn, run)
        view = progress.run_view(conn, found)
    jobs, note = _jobs(address) if found["job"] else ({}, None)
    job = jobs.get(found["job"])
    if as_json:
        print_json({**view, "config": found["config"], "job": found["job"], "ray_job": _job_dict(job)})
        return
    print_lines([*run_lines(view), *_more(found, job)])
    if note:
        typer.echo(note, err=True)


def _more(found: dict[str, Any], job: Any) -> list[str]:
    from jobs.submission import differing

    lines = ["", *_predicted(found["summary"] or {})]
    if found["job"]:
        lines.append(f"job: {found['job']}" + (f", {job.state}" if job else ""))
    if found["cancel_asked_at"]:
        lines.append(f"its end was asked for at {found['cancel_asked_at']:%Y-%m-%d %H:%M:%S %Z}")
    config = differing({name: value for name, value in found["config"].items() if name != "work"})
    return [
        *lines,
        "settings that are not the usual ones:",
        *(f"  {name} = {value}" for name, value in sorted(config.items())),
    ]


def _predicted(summary: dict[str, Any]) -> list[str]:
    expected, measured = summary.get("predicted_hours_per_hour"), summary.get("hours_per_hour")
    if not expected:
        return []
    said = f"{measured:.1f}" if measured else "none"
    return [f"hours per hour: {expected:.1f} predicted, {said} measured"]


@app.command("cancel")
def cancel_run(run: Run, address: Dashboard = None, yes: Yes = False, config: Config = None) -> None:
    """End a run after the commits in progress; what is done stays, and a later run does the rest."""
    from cluster.db import runs

    with corpus(config) as conn:
        if run.startswith("rushes-") and runs.run_of_job(conn, run) is None:
            _stop_job(run, address, yes)
            return
        _cancel(conn, _found(conn, run), yes)


def _cancel(conn: Any, found: dict[str, Any], yes: bool) -> None:
    from uuid import UUID

    from cluster.db import runs
    from cluster.errors import RushesError

    run_id, short = UUID(found["run_id"]), found["run_id"][:8]
    ended = f"run {short} has ended ({found['state']}): there is nothing to cancel"
    if found["state"] != "running":
        raise RushesError(ended)
    if not runs.is_held(conn, run_id):
        raise RushesError(f"the driver of run {short} is gone: the next command takes over what it left")
    if found["kind"] not in WATCHED:
        raise RushesError(f"run {short} is a {found['kind']} run, which looks for no request: end its command")
    if not confirm(f"End run {short} after the commits in progress?", yes):
        typer.echo("nothing was changed")
        return
    if not runs.ask_cancel(conn, run_id):
        raise RushesError(ended)
    typer.echo(f"run {short} ends after the commits in progress: `rushes status {short} --watch` shows it")


# Kinds of runs whose driver looks after its run while it works.
WATCHED = ("ingest", "reembed")


def _stop_job(job_id: str, address: str | None, yes: bool) -> None:
    from cluster.errors import RushesError, UsageError

    client = _client(address)
    if client is None:
        raise UsageError(f"{job_id} has no run yet: name the cluster with --address http://HEAD:8265 to stop it there")
    job = client.find(job_id)
    if job is None:
        raise UsageError(f"neither this corpus nor the cluster knows {job_id}: see `rushes runs list`")
    if not job.active:
        raise RushesError(f"{job_id} has ended ({job.state}): there is nothing to cancel")
    if not confirm(f"Stop {job_id}, which has no run yet?", yes):
        typer.echo("nothing was changed")
        return
    client.stop(job_id)
    typer.echo(f"{job_id} was told to stop")


@app.command("logs")
def logs(run: Run, follow: Follow = False, address: Dashboard = None, config: Config = None) -> None:
    """What a run printed: its job on the cluster, else the files that it left on this machine."""
    if run.startswith("rushes-"):
        _print_job(run, follow, address)
        return
    with corpus(config) as conn:
        found = _found(conn, run)
    if found["job"] and _client(address) is not None:
        _print_job(found["job"], follow, address)
        return
    _print_files(settings_from(config).data_dir, found)


def _print_job(job_id: str, follow: bool, address: str | None) -> None:
    from cluster.errors import UsageError
    from jobs.cli.backfill import say, show
    from jobs.supervise import Waits
    from jobs.supervise import follow as follow_job

    client = _client(address)
    if client is None:
        raise UsageError(f"name the cluster of {job_id}: --address http://HEAD:8265, or RAY_API_SERVER_ADDRESS")
    text = client.logs(job_id)
    if text is None:
        raise UsageError(f"the cluster at {client.address} knows no job {job_id}: see `rushes runs list`")
    if not follow:
        show(text)
        return
    try:
        raise typer.Exit(follow_job(client, job_id, show, say, Waits()).code)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _print_files(data_dir: Path, found: dict[str, Any]) -> None:
    from cluster.errors import RushesError
    from jobs.run_files import run_folder

    folder = run_folder(data_dir, found["run_id"])
    files = [path for path in sorted(folder.glob("*.log")) if path.stat().st_size]
    if not files:
        where = f"; it is the job {found['job']}: add --address http://HEAD:8265" if found["job"] else ""
        raise RushesError(f"run {found['run_id'][:8]} left no log in {folder} on this machine{where}")
    for path in files:
        typer.echo(f"{path}:")
        typer.echo(path.read_text("utf-8", "replace"), nl=False)


def _found(conn: Any, name: str) -> dict[str, Any]:
    from cluster.db import report, runs
    from cluster.errors import UsageError

    run_id = runs.run_of_job(conn, name)
    if run_id is None and name.startswith("rushes-"):
        raise UsageError(
            f"job {name} has no run in this corpus: it waits, ended before it began one, or is none; "
            f"`rushes runs logs {name}` shows what it printed"
        )
    return report.find_run(conn, str(run_id or name))


def _client(address: str | None) -> Any:
    from jobs.ray_job_client import RayJobClient, dashboard_address

    place = dashboard_address(address)
    return RayJobClient(place) if place else None


def _jobs(address: str | None) -> tuple[dict[str, Any], str | None]:
    """Ray's jobs by id, and why they are not known where the dashboard of the environment does not answer."""
    from cluster.errors import RushesError

    try:
        client = _client(address)
        return ({job.job_id: job for job in client.jobs()} if client else {}), None
    except RushesError as error:
        if address is not None:
            raise
        return {}, f"without the cluster's jobs: {error}"


def _job_dict(job: Any) -> dict[str, Any] | None:
    from dataclasses import asdict

    return None if job is None else asdict(job)
