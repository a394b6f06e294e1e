"""`rushes profiles`: which models there are, how they compare, and which are in force."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli.common import AsJson, Config, print_json, print_table, settings_from

app = typer.Typer(help="Model profiles: compare and choose.", no_args_is_help=True, rich_markup_mode=None)
COLUMNS = {
    "profile": "profile", "weights": "weights", "here": "here", "dimension": "dim", "vector_bytes": "bytes/vector",
    "space": "space", "vectors": "vectors", "assets_missing": "assets missing", "search_uses_it": "searched",
    "texts_per_s": "texts/s",
}  # fmt: skip


@app.command("list")
def list_all(as_json: AsJson = False, config: Config = None) -> None:
    """Every profile, the roles it names, and the roles that follow it now."""
    from jobs.profiles import list_profiles

    rows = list_profiles(settings_from(config))
    if as_json:
        print_json(rows)
        return
    cells = [[row["profile"], row["from"], ", ".join(row["roles"]), ", ".join(row["in_force"]) or "-"] for row in rows]
    print_table(["profile", "from", "roles", "in force for"], cells)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="The profile.")], as_json: AsJson = False, config: Config = None
) -> None:
    """Every field of every role under a profile, with what is overridden by hand."""
    from jobs.profiles import show_profile

    roles = show_profile(settings_from(config), name)
    if as_json:
        print_json(roles)
        return
    rows = [
        [role, field, _text(value)]
        for role, fields in roles.items()
        for field, value in (fields or {"": "off"}).items()
        if field not in ("role", "profile")
    ]
    print_table(["role", "field", "value"], rows)


@app.command("compare")
def compare_two(
    names: Annotated[list[str] | None, typer.Argument(help="Profiles; none: all.", show_default=False)] = None,
    role: Annotated[str, typer.Option(help="The role to compare.")] = "text",
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Profiles side by side: model, vector size, whether the weights are here, what is stored, measured speed."""
    rows = _compared(config, _checked(role), names or None)
    if as_json:
        print_json(rows)
    else:
        _print_compared(rows)


@app.command("use")
def use(
    name: Annotated[str | None, typer.Argument(help="The profile; none: ask.", show_default=False)] = None,
    role: Annotated[str | None, typer.Option(help="Only for this role.", show_default=False)] = None,
    interactive: Annotated[bool, typer.Option("--interactive", help="Compare and ask.")] = False,
    config: Config = None,
) -> None:
    """Write the profile into the settings file; search switches at once to a space that is complete."""
    from actors.lanes import space_identities
    from cluster.errors import UsageError
    from cluster.lanes import SPACE_OF_LANE
    from cluster.profiles import ALL_ROLES
    from cluster.settings import config_path, usual_config_path
    from cluster.settings_file import set_value
    from jobs.profiles import choice_under

    if role is not None:
        _checked(role)
    if name is None and not (interactive or sys.stdin.isatty()):
        raise UsageError("no profile named, and no terminal to ask on: rushes profiles use NAME (rushes profiles list)")
    if name is None or interactive:
        name = _ask(config, role or "text", name)
    settings = settings_from(config)
    for one in ALL_ROLES if role is None else [role]:
        choice_under(settings, one, name)
        settings = settings.following(one, name)
    if role in (None, *SPACE_OF_LANE.values()):
        # Weights that are not there are said before anything is written.
        space_identities(settings)
    path = config_path(config) or usual_config_path()
    set_value(path, role, "profile", name)
    typer.echo(f"{path}: {f'[{role}] ' if role else ''}profile = {name}")
    for line in [*_exceptions(config, role, name), *_switched(config, role)]:
        typer.echo(line)


def _checked(role: str) -> str:
    from cluster.errors import UsageError
    from cluster.profiles import ALL_ROLES

    if role not in ALL_ROLES:
        raise UsageError(f"--role {role!r}: choose from {', '.join(ALL_ROLES)}")
    return role


def _ask(config: Path | None, role: str, name: str | None) -> str:
    rows = _compared(config, role, None)
    _print_compared(rows)
    names = [row["profile"] for row in rows]
    now = settings_from(config).profile_of(role)
    chosen: str = typer.prompt(f"profile ({', '.join(names)})", default=name or now)
    return chosen.strip()


def _compared(config: Path | None, role: str, names: list[str] | None) -> list[dict[str, Any]]:
    from cluster.profiles import profile_names
    from jobs.profiles import compare

    settings = settings_from(config)
    with _session_if_any(settings) as session:
        return compare(settings, role, names or profile_names(settings.own_profiles()), session)


def _print_compared(rows: list[dict[str, Any]]) -> None:
    shown = [name for name in COLUMNS if any(name in row for row in rows)]
    print_table([COLUMNS[name] for name in shown], [[_text(row.get(name)) for name in shown] for row in rows])


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}"
    return "-" if value is None else repr(value) if value == "" or str(value) != str(value).strip() else str(value)


@contextmanager
def _session_if_any(settings: Any) -> Iterator[Any]:
    """The database, None where nothing was ever stored: no server is made for a question."""
    from cluster.db.connect import database_errors
    from cluster.db.patience import Session
    from jobs.ingest import open_database

    if settings.database_url is None and not (settings.data_dir / "postgres").exists():
        yield None
        return
    database = open_database(settings)
    with database_errors(), closing(Session(database.url, 0.0)) as session:
        yield session


def _exceptions(config: Path | None, role: str | None, name: str) -> list[str]:
    """What wins over the value just written, role by role."""
    from cluster.profiles import ALL_ROLES

    settings, lines = settings_from(config), []
    for one in ALL_ROLES if role is None else [role]:
        found = settings.profile_of(one)
        if found == name:
            continue
        names = [f"RUSHES_{one.upper()}_PROFILE", *(["EMBEDDING_PROFILE"] if one == "text" else []), "RUSHES_PROFILE"]
        wins = (variable for variable in names if os.environ.get(variable) == found)
        winner = next(wins, f"[{one}] profile in the file")
        lines.append(f"but the {one} follows {found}: {winner} wins; take it away to change that")
    return lines


def _switched(config: Path | None, role: str | None) -> list[str]:
    """Search moved to the spaces of the settings now in force, in words."""
    from jobs.profiles import switch_search

    if role not in (None, "voice", "text"):
        return []
    settings = settings_from(config)
    with _session_if_any(settings) as session:
        switches = [] if session is None else switch_search(session, settings)
    return [_switch_line(switch) for switch in switches if role in (None, switch.kind)]


def _switch_line(switch: Any) -> str:
    way = "rushes reembed" if switch.kind == "text" else "rushes ingest --lanes voices"
    if switch.space is None:
        return f"no {switch.kind} space of {switch.profile} yet: run `{way}`; until then the old one is used"
    space = f"{switch.kind} space {switch.space.space_id} ({switch.profile}, {switch.space.dimension}-d)"
    if switch.missing:
        return f"{space} lacks {switch.missing} asset(s): run `{way}`; until then the old one is used"
    return f"{space} is complete and in use"
