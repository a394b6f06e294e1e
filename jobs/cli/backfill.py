"""`rushes backfill`: the main job, submitted to a cluster and followed to its end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli.asked import asking, spelled, words_of
from jobs.cli.common import Config, settings_from
from jobs.cli.ingest import check_asked, ingest

# The job answers no person and runs where it is sent.
NOT_SENT = ("dry_run", "address", "as_json", "config")

PlanFile = Annotated[
    Path | None, typer.Option("--file", "-f", help="Selection and plan (TOML); flags win.", show_default=False)
]
Dashboard = Annotated[
    str | None,
    typer.Option(help="The cluster's dashboard, http://HEAD:8265; else RAY_API_SERVER_ADDRESS, RAY_ADDRESS."),
]
Code = Annotated[
    str | None,
    typer.Option(help="Checkout that the job runs from, or none: the nodes have the code. Without it, this one."),
]
Retries = Annotated[int, typer.Option(min=0, help="Submit again so often after a failure that may pass.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Submit and return; nothing is retried.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the line that would submit it; submit nothing.")]


@asking(ingest, NOT_SENT)
def backfill(
    asked: dict[str, Any],
    plan_file: PlanFile = None,
    address: Dashboard = None,
    working_dir: Code = None,
    retries: Retries = 3,
    no_wait: NoWait = False,
    dry_run: DryRun = False,
    config: Config = None,
) -> None:
    """Run `rushes ingest` as a job of a Ray cluster: submitted once, followed, tried again when it may help."""
    from cluster.errors import UsageError
    from jobs.ray_job_client import RayJobClient, dashboard_address
    from jobs.submission import job_id_of
    from jobs.supervise import next_job_id

    place = dashboard_address(address)
    if place is None and not dry_run:
        raise UsageError("no cluster is named: add --address http://HEAD:8265, or set RAY_API_SERVER_ADDRESS")
    submission = _submission(asked, plan_file, working_dir, place, config)
    client = RayJobClient(place) if place else None
    job_id = next_job_id(client, submission.key) if client else job_id_of(submission.key, 1)
    typer.echo(submission.ray_line(job_id, wait=not no_wait))
    if client is not None and not dry_run:
        raise typer.Exit(_run(client, submission, job_id, retries, no_wait))


def _submission(
    asked: dict[str, Any], plan_file: Path | None, working_dir: str | None, address: str | None, config: Path | None
) -> Any:
    from jobs.backfill import absolute_inputs, submission_of

    words = words_of(ingest, NOT_SENT)
    plan: dict[str, Any] = {}
    if plan_file is not None:
        asked, plan = _with_file(plan_file, asked, words)
    asked["inputs"] = absolute_inputs(asked["inputs"] or (), asked.pop("list_file") or (), sys.stdin)
    in_force = check_asked(config, asked, plan=plan or None)
    return submission_of(
        asked,
        spelled(words, asked),
        settings_from(config, plan=plan or None),
        in_force,
        working_dir=working_dir,
        address=address,
    )


def _with_file(path: Path, asked: dict[str, Any], words: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    from cluster.errors import UsageError
    from jobs.plan_file import read_plan_file

    chosen, plan = read_plan_file(path, words)
    try:
        checked = {name: words[name].check(value) for name, value in chosen.items()}
    except UsageError as error:
        raise UsageError(f"plan file {path}: {error}") from error
    # Inputs of the command line stand in the place of those of the file, its lists among them.
    if asked["inputs"] or asked["list_file"]:
        checked = {name: value for name, value in checked.items() if name not in ("inputs", "list_file")}
    given = {name: value for name, value in asked.items() if value not in (None, False, [])}
    return {**dict.fromkeys(asked), **checked, **given}, plan


def _run(client: Any, submission: Any, job_id: str, retries: int, no_wait: bool) -> int:
    from jobs.supervise import Waits, how_to, submit, supervise

    submit(client, submission, job_id)
    say(f"submitted as {job_id}")
    if no_wait:
        say(how_to(job_id))
        return 0
    try:
        return supervise(client, submission, job_id, retries, show, say, Waits())
    except KeyboardInterrupt:
        say(f"the job goes on without this command: {how_to(job_id)}")
        return 130


def show(text: str) -> None:
    """What a job prints."""
    typer.echo(text, nl=False)


def say(text: str) -> None:
    """A line about a job."""
    typer.echo(text, err=True)
