"""`rushes config`: the settings in force and where each comes from."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jobs.cli.common import AsJson, Config, print_json, print_table, settings_from

app = typer.Typer(help="The settings in force.", no_args_is_help=True, rich_markup_mode=None)
Profile = Annotated[str | None, typer.Option(help="Model profile for every role.", show_default=False)]


@app.command("show")
def show(profile: Profile = None, as_json: AsJson = False, config: Config = None) -> None:
    """Every setting, its value and where it comes from; secrets never."""
    from cluster.provenance import provenance

    settings = settings_from(config, profile=profile)
    rows = [
        {"setting": item.name, "value": shown(item.name, item.value), "source": item.source}
        for item in provenance(settings, config, {"profile": profile})
    ]
    if as_json:
        print_json(rows)
        return
    print_table(["setting", "value", "source"], [[row["setting"], _text(row["value"]), row["source"]] for row in rows])


@app.command("path")
def path(as_json: AsJson = False, config: Config = None) -> None:
    """The settings file in force, or where one is looked for."""
    from cluster.errors import UsageError
    from cluster.provenance import config_place

    place = config_place(config)
    if not place.exists and place.named_by.startswith(("-", "RUSHES")):
        raise UsageError(f"settings file {place.path} does not exist: check {place.named_by}")
    if as_json:
        print_json({"path": str(place.path), "named_by": place.named_by, "exists": place.exists})
        return
    typer.echo(str(place.path))
    if not place.exists:
        typer.echo("there is no such file yet: every setting comes from flags, environment and defaults", err=True)


def shown(name: str, value: Any) -> Any:
    """The value as it may be printed: of the database its place, of any other secret that it is set."""
    from cluster.provenance import is_secret

    if name == "database_url":
        return "embedded server" if value is None else _place(value.get_secret_value())
    return "(set, not shown)" if is_secret(value) else value


def _place(url: str) -> str:
    from cluster.db.connect import describe_url
    from cluster.errors import RushesError

    try:
        return describe_url(url)
    except RushesError:
        return "(not a PostgreSQL address)"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return repr(value) if value == "" or (isinstance(value, str) and value != value.strip()) else str(value)
