"""`rushes doctor`: what is wrong here, and the way out of it."""

from __future__ import annotations

import typer

from jobs.cli.common import AsJson, Config, print_json, settings_from
from jobs.cli.config import Profile


def doctor(
    profile: Profile = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Look at everything that a run needs, in order; each failure comes with its fix. Changes nothing.

    Exit code 1 when a required check fails.
    """
    from dataclasses import asdict

    from cluster.doctor import examine, failed
    from jobs.doctor.checks import Doctor

    findings = []
    with Doctor(settings_from(config, profile=profile)) as patient:
        for finding in examine(patient.checks()):
            findings.append(finding)
            if not as_json:
                typer.echo(f"{finding.state:7} {finding.name}: {finding.found}")
            if finding.fix and not as_json:
                typer.echo(f"        fix: {finding.fix}")
    if as_json:
        print_json([asdict(finding) for finding in findings])
    raise typer.Exit(1 if failed(findings) else 0)
