"""`rushes calibrate`: measure what each stage takes on this hardware, so that plans need not estimate it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.common import Address, AsJson, Config, corpus, print_json, print_table, settings_from
from jobs.cli.config import Profile

if TYPE_CHECKING:
    from cluster.db.rates import Measured

Files = Annotated[
    list[str] | None,
    typer.Argument(help="Sound and video to measure on; none: samples that are installed.", show_default=False),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Measure and print; keep nothing.")]


def calibrate(
    files: Files = None,
    profile: Profile = None,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Measure every stage over a few files and keep the rates by hardware for the plan; touches no unit."""
    from dataclasses import asdict

    settings = settings_from(config, profile=profile)
    if dry_run:
        found = _measure(settings, address, files or [])
    else:
        # Before the minutes that it takes: what is measured must be kept.
        with corpus(config):
            pass
        found = _measure(settings, address, files or [])
        with corpus(config) as conn:
            _store(conn, found)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    _print(found)
    typer.echo("nothing kept (--dry-run)" if dry_run else "kept: `rushes plan --explain` uses these now")


def _measure(settings: Any, address: str | None, files: list[str]) -> list[Measured]:
    if address is not None:
        from jobs.calibrate_nodes import calibrate_nodes

        return calibrate_nodes(settings, address, files)
    from jobs.calibrate import bundled_files
    from jobs.calibrate import calibrate as measure

    return measure(settings, files or bundled_files())


def _store(conn: Any, found: list[Measured]) -> None:
    from cluster.db.rates import store_measured

    store_measured(conn, found)


def _print(found: list[Measured]) -> None:
    from jobs.calibrate import by_hardware

    for hardware, stages in by_hardware(found).items():
        typer.echo(f"{hardware}:")
        print_table(
            ["stage", "s per media hour", "x realtime", "load s", "host GiB", "card GiB", "measured on"],
            [
                [one.stage, f"{one.s_per_media_hour:.1f}", f"{3600 / max(one.s_per_media_hour, 1e-6):.0f}",
                 f"{one.load_s:.1f}", f"{one.host_gib:.2f}", f"{one.device_gib:.2f}" if one.device_gib else "-",
                 f"{one.assets} file(s), {one.media_s:.0f} s"]
                for one in stages
            ],
        )  # fmt: skip
