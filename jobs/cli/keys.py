"""`rushes keys`: who may use the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.common import AsJson, Config, Yes, confirm, corpus, print_json, print_table

if TYPE_CHECKING:
    from cluster.db.api_keys import ApiKey, Scope

app = typer.Typer(help="Keys of the service: make, list, revoke.", no_args_is_help=True, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(help="Whose key it is; what its holder writes is recorded under it.")]


@app.command("create")
def create(
    name: Name,
    scope: Annotated[str, typer.Option(help="read, or write: that includes read.")] = "read",
    config: Config = None,
) -> None:
    """Make a key and print it, once: only its hash is kept."""
    from cluster.db.api_keys import create_key

    checked = _scope(scope)
    with corpus(config) as conn:
        key = create_key(conn, name, checked)
    typer.echo(f"the key {name.strip()!r} may {scope}; it is printed this once:", err=True)
    typer.echo(key)


@app.command("list")
def list_all(as_json: AsJson = False, config: Config = None) -> None:
    """Every key by name, revoked ones too; never the key itself."""
    from cluster.db.api_keys import list_keys

    with corpus(config) as conn:
        rows = [_row(key) for key in list_keys(conn)]
    if as_json:
        print_json(rows)
        return
    if not rows:
        typer.echo("no keys: `rushes keys create NAME` makes one")
        return
    print_table(
        ["name", "scope", "made", "state"], [[r["name"], r["scope"], _day(r["created_at"]), _state(r)] for r in rows]
    )


@app.command("revoke")
def revoke(name: Name, yes: Yes = False, config: Config = None) -> None:
    """Let a key open nothing any more; a running service hears of it within seconds."""
    from cluster.db.api_keys import find_key, revoke_key

    with corpus(config) as conn:
        key = find_key(conn, name)
        if not confirm(f"Revoke the key {key.name!r} ({key.scope})?", yes):
            raise typer.Exit(1)
        revoke_key(conn, key.name)
    typer.echo(f"revoked {key.name!r}")


def _scope(text: str) -> Scope:
    from cluster.errors import UsageError

    if text == "read":
        return "read"
    if text == "write":
        return "write"
    raise UsageError(f"--scope {text!r}: choose from read, write")


def _row(key: ApiKey) -> dict[str, Any]:
    return {name: getattr(key, name) for name in ("name", "scope", "created_at", "revoked_at")}


def _state(row: dict[str, Any]) -> str:
    return "in force" if row["revoked_at"] is None else f"revoked {_day(row['revoked_at'])}"


def _day(at: Any) -> str:
    return f"{at.astimezone():%Y-%m-%d}"
