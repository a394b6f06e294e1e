"""`rushes models`: the weights of a profile: where they lie, fetched ahead, and checked byte by byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.common import Address, AsJson, Config, print_json, print_table, settings_from

if TYPE_CHECKING:
    from cluster.settings import Settings

app = typer.Typer(help="The weights of the models.", no_args_is_help=True, rich_markup_mode=None)
Profile = Annotated[str | None, typer.Option(help="Of this profile; none: of the one in force.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="Of every profile.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched; fetch nothing.")]


@app.command("list")
def list_models(profile: Profile = None, every: All = False, as_json: AsJson = False, config: Config = None) -> None:
    """Each role's weights: here or not, size, pinned revision, licence, place."""
    from dataclasses import asdict

    from cluster.weights import on_hub
    from cluster.weights_check import held
    from jobs.summary import size

    rows: list[dict[str, Any]] = []
    for choice in choices(config, profile, every):
        found = held(choice.weights)
        rows.append({"profile": choice.profile, "role": choice.role, **asdict(found), "here": found.place is not None})
    if as_json:
        print_json(rows)
        return
    print_table(
        ["profile", "role", "weights", "size", "revision", "licence", "place"],
        [
            [r["profile"], r["role"], _short(r["weights"]), size(r["size_bytes"]), r["revision"][:8] or "-",
             r["licence"] + (", gated" if r["gated"] else ""), r["place"] or "not here"]
            for r in rows
        ],
    )  # fmt: skip
    if any(on_hub(row["weights"]) and not row["here"] for row in rows):
        typer.echo("`rushes models pull` fetches what is not here from the hub", err=True)


@app.command("pull")
def pull(
    profile: Profile = None, every: All = False, dry_run: DryRun = False, as_json: AsJson = False, config: Config = None
) -> None:
    """Fetch the hub snapshots of a profile at their pinned revisions, or what is missing of them.

    One that cannot be fetched does not hold back the others; exit 1 then.
    """
    from cluster.weights_check import distinct
    from jobs.summary import size

    wanted, rows = distinct([choice.weights for choice in choices(config, profile, every)]), []
    for weights in wanted:
        away = any(row["away"] for row in rows)
        rows.append(_pulled(weights, dry_run, away))
    if as_json:
        print_json(rows)
    for row in () if as_json else rows:
        place = f": {row['place']} ({size(row['size_bytes'])})" if row["place"] else ""
        typer.echo(f"{row['state']} {row['weights']}{place}")
        if row["problem"] and not dry_run:
            typer.echo(f"error: {row['problem']}", err=True)
    raise typer.Exit(0 if dry_run or all(row["place"] for row in rows) else 1)


def _pulled(weights: str, dry_run: bool, away: bool) -> dict[str, Any]:
    """What came of one snapshot; the hub is not asked when it was `away` before."""
    from cluster.errors import RushesError
    from cluster.weights import HubAwayError, fetch, hub_name, on_hub
    from cluster.weights_check import held

    before, problem = held(weights), ""
    if away and on_hub(weights) and before.place is None:
        problem = (
            f"{weights} was not asked for, the hub is out of reach: pull again later, "
            "or name a folder with RUSHES_<ROLE>_WEIGHTS=path:/DIR"
        )
    if on_hub(weights) and not dry_run and not away:
        if before.place is None:
            typer.echo(f"fetching {weights} ({before.licence}{', gated' if before.gated else ''})", err=True)
        try:
            # also one that is here: an interrupted download may have left it incomplete
            fetch(hub_name(weights))
        except RushesError as error:
            problem, away = str(error), isinstance(error, HubAwayError)
    after = held(weights)
    state = "here" if before.place else "to fetch" if dry_run else "fetched" if after.place else "not here"
    row = {"weights": weights, "state": state, "place": after.place, "size_bytes": after.size_bytes}
    return {**row, "problem": problem or after.problem, "away": away}


@app.command("verify")
def verify(profile: Profile = None, every: All = False, as_json: AsJson = False, config: Config = None) -> None:
    """Read every byte of a profile's weights and compare its sums; exit 1 if any differs or is not here."""
    from dataclasses import asdict

    from cluster import weights_check

    weights = weights_check.distinct([choice.weights for choice in choices(config, profile, every)])
    verdicts = [weights_check.verify(name) for name in weights]
    if as_json:
        print_json([asdict(verdict) for verdict in verdicts])
    for verdict in () if as_json else verdicts:
        good = verdict.state in ("whole", "unlisted")
        for found in verdict.found:
            typer.echo(f"{'ok' if good else 'FAIL':4} {verdict.weights}: {found}")
        if verdict.fix:
            typer.echo(f"     fix: {verdict.fix}")
    raise typer.Exit(1 if any(verdict.state in ("damaged", "absent") for verdict in verdicts) else 0)


@app.command("warm")
def warm(
    profile: Profile = None,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Bring the weights of the profile in force to this machine, or to every node of a cluster, and check each byte.

    Weights in packages and at paths are checked where they lie. Exit 1 if a node lacks any.
    """
    from dataclasses import asdict

    from cluster.weights_check import distinct
    from jobs.summary import size
    from jobs.warming import warm_cluster, warm_here

    settings = settings_from(config, profile=profile)
    wanted = distinct([choice.weights for choice in _of(settings)])
    found, here = [], [warm_here(wanted, dry_run=dry_run)] if address is None else None
    for rows in here or warm_cluster(settings, wanted, address or "", dry_run=dry_run):
        found += rows
        for row in () if as_json else rows:
            typer.echo(
                f"{row.node}: {row.state} {row.weights}" + (f" ({size(row.size_bytes)})" if row.size_bytes else "")
            )
            if row.problem:
                typer.echo(f"error: {row.node}: {row.problem}", err=True)
    if as_json:
        print_json([asdict(row) for row in found])
    raise typer.Exit(0 if found and all(row.ready for row in found) else 1)


def choices(config: Any, profile: str | None, every: bool) -> list[Any]:
    """The model choice of every role that is on, of the profile in force or of every profile."""
    from cluster.errors import UsageError
    from cluster.profiles import profile_names

    settings = settings_from(config, profile=profile)
    if not every:
        return _of(settings)
    if profile is not None:
        raise UsageError("--all and --profile exclude each other: choose one")
    names = profile_names(settings.own_profiles())
    # `--profile` would lose to a role's own profile, of which `--all` knows nothing
    return [choice for name in names for choice in _of_profile(settings, name)]


def _of(settings: Settings) -> list[Any]:
    from cluster.profiles import ALL_ROLES

    return [choice for role in ALL_ROLES if (choice := settings.optional_choice(role)) is not None]


def _of_profile(settings: Settings, name: str) -> list[Any]:
    from cluster.profiles import ALL_ROLES, choose_optional

    own = settings.own_profiles()
    return [choice for role in ALL_ROLES if (choice := choose_optional(role, name, {}, own)) is not None]


def _short(weights: str) -> str:
    """The weights without their revision, which has a column of its own."""
    name, at, rest = weights.partition("@")
    return name + (f"#{rest.partition('#')[2]}" if at and "#" in rest else "")
