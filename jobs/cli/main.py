"""`rushes`: the command line of the corpus."""

from __future__ import annotations

import os
import sys

import typer

from cluster.errors import RushesError, UsageError
from jobs.cli import (
    assets,
    backfill,
    bench,
    calibrate,
    config,
    db,
    doctor,
    dupes,
    export,
    failures,
    frames,
    images,
    imports,
    ingest,
    keys,
    models,
    plan,
    profiles,
    reembed,
    runs,
    search,
    serve,
    show,
    speakers,
    status,
)

app = typer.Typer(
    name="rushes",
    help="Turn a video archive into a corpus that people can search, name and build on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("ingest")(ingest.ingest)
app.command("backfill")(backfill.backfill)
app.command("reembed")(reembed.reembed)
app.command("status")(status.status)
app.command("forget")(assets.forget)
app.command("search")(search.search)
app.command("show")(show.show)
app.command("export")(export.export)
app.command("import")(imports.import_files)
app.command("plan")(plan.plan)
app.command("calibrate")(calibrate.calibrate)
app.command("doctor")(doctor.doctor)
app.command("bench")(bench.bench)
app.add_typer(assets.app, name="assets")
app.add_typer(runs.app, name="runs")
app.add_typer(failures.app, name="failures")
app.add_typer(frames.app, name="frames")
app.add_typer(images.app, name="images")
app.add_typer(speakers.app, name="speakers")
app.add_typer(dupes.app, name="dupes")
app.add_typer(db.app, name="db")
app.add_typer(config.app, name="config")
app.add_typer(profiles.app, name="profiles")
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")
app.add_typer(serve.app, name="serve")


def main() -> None:
    """Run one command; a user's mistake is one line on standard error, never a traceback."""
    try:
        app()
    except UsageError as error:
        _fail(str(error), 2)
    except RushesError as error:
        _fail(str(error), 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def _fail(message: str, code: int) -> None:
    typer.echo(f"error: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
