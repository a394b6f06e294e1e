"""`rushes speakers merge`, `split`, `rename`, `undo` and `history`: what persons decided, and the way back."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jobs.cli.common import MOST_ROWS, AsJson, Config, Limit, corpus, print_json
from jobs.cli.events import Author, DryRun, author_of, print_events
from jobs.cli.speakers.told import asset_names, decide, plain, told

Name = Annotated[str, typer.Argument(metavar="NAME", help="The person.")]


def merge(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who is somebody else.")],
    into: Annotated[str, typer.Argument(metavar="INTO", help="Who that is.")],
    author: Author = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Say that two names are one person: NAME becomes INTO, with all that is named so."""
    from cluster.db.speakers.actions import merge as do_merge

    who = author_of(author)
    with corpus(config) as conn:
        found = decide(conn, lambda: do_merge(conn, name, into, who), dry_run=dry_run)
    _print(f"{name} is {found['speaker']}", found, {}, as_json)


def split(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The person who is two.")] = None,
    places: Annotated[
        list[str] | None,
        typer.Argument(metavar="ASSET[@TIME]", help="Voices that are the other's; @TIME where an asset has several."),
    ] = None,
    into: Annotated[str | None, typer.Option(metavar="NAME", help="The name of the other.")] = None,
    cluster: Annotated[int | None, typer.Option(min=1, max=MOST_ROWS, help="Divide this cluster instead.")] = None,
    parts: Annotated[int | None, typer.Option(min=2, help="Into so many parts; --cluster only.")] = None,
    author: Author = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Take voices from a person and give them to another; or divide a cluster that holds several people."""
    from cluster.db.speakers.actions import look
    from cluster.db.speakers.actions import split as do_split
    from cluster.errors import UsageError

    who = author_of(author)
    if cluster is not None:
        if name is not None or into is not None:
            raise UsageError("--cluster divides by voice: leave out NAME, ASSET and --into")
        _split_cluster(cluster, parts, who, dry_run, as_json, config)
        return
    if name is None or not places or into is None or parts is not None:
        raise UsageError("give NAME --into OTHER ASSET[@TIME]..., or --cluster N with --parts K or without")
    with corpus(config) as conn:
        targets = [_target(conn, place) for place in places]
        seen = look(conn, targets)
        found = decide(conn, lambda: do_split(conn, name, into, targets, who, seen=seen), targets, dry_run=dry_run)
        names = asset_names(conn, [target.asset_id for target in targets])
    _print(f"{len(targets)} voice(s) of {name} are {found['speaker']}", found, names, as_json)


def _target(conn: Any, place: str) -> Any:
    from cluster.db.speakers.events import point_at
    from cluster.db.speakers.pointing import point_at_voice
    from jobs.cli.speakers.places import parse_place

    asset, at_ms = parse_place(conn, place)
    asset_id = asset["asset_id"]
    name = asset_names(conn, [asset_id])[asset_id]
    return point_at_voice(conn, asset_id, name) if at_ms is None else point_at(conn, asset_id, name, at_ms)


def rename(
    name: Name,
    new_name: Annotated[str, typer.Argument(metavar="NEW", help="What the person is called from now on.")],
    author: Author = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Give a person another name, everywhere at once."""
    from cluster.db.speakers.actions import rename as do_rename

    who = author_of(author)
    with corpus(config) as conn:
        found = decide(conn, lambda: do_rename(conn, name, new_name, who))
    _print(f"{name} is called {found['speaker']}", found, {}, as_json)


def _print(headline: str, found: dict[str, Any], names: dict[int, str], as_json: bool) -> None:
    if as_json:
        print_json(plain(found, names))
        return
    for line in [headline, *told(found, names)]:
        typer.echo(line)


def undo(
    event: Annotated[
        int | None, typer.Argument(metavar="EVENT", min=1, max=2**63 - 1, help="Its number; none: the latest.")
    ] = None,
    author: Author = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Take a decision back; all that followed from it goes with it. Undoing an undo brings the decision back."""
    from cluster.db.speakers.actions import undo as do_undo
    from cluster.db.speakers.events import assets_marked, read_event, targets_of
    from cluster.db.speakers.history import read_history

    who = author_of(author)
    with corpus(config) as conn:
        # the number now: of two who take the latest back at once, one would take back the one before
        number = read_event(conn, event).event_id
        about = read_event(conn, number).undoes or number
        targets = targets_of(conn, about)
        found = decide(conn, lambda: do_undo(conn, number, who), targets, dry_run=dry_run)
        [entry] = read_history(conn, event_ids=[about])
        names = asset_names(conn, sorted(assets_marked(conn, about)))
    headline = f"{'took back' if number == about else 'brought back'} event {about} ({entry.in_words()})"
    _print(headline, found | {"undoes": about}, names, as_json)


def history(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Only what is about this person.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """What persons decided, latest first: number, time, author, what, and whether it stands."""
    from cluster.db.speakers.history import bearers, read_history
    from cluster.db.speakers.names import clean_name, known_speaker

    with corpus(config) as conn:
        people = None if name is None else bearers(conn, clean_name(name))
        if name is not None and not people:
            known_speaker(conn, name)
        entries = read_history(conn, people=people, limit=limit + 1)
    print_events(entries, limit, as_json, _standing)


def _standing(entry: Any) -> str:
    if entry.kind in ("undo", "redo"):
        return "-"
    return "stands" if entry.stands else f"undone by {entry.undone_by}"


def _split_cluster(cluster: int, parts: int | None, author: str, dry_run: bool, as_json: bool, config: Any) -> None:
    from cluster.db.speakers.splits import parts_of_event, split_cluster

    made: list[tuple[int, int]] = []

    def action(conn: Any) -> Any:
        done = split_cluster(conn, cluster, parts, author)
        made.extend(parts_of_event(conn, done.event_id))
        return done

    with corpus(config) as conn:
        found = decide(conn, lambda: action(conn), dry_run=dry_run)
    listed = ", ".join(f"{count} voice(s) in {f'cluster {number}' if not dry_run else 'one'}" for number, count in made)
    if as_json:
        print_json(plain(found, {}) | {"parts": [{"cluster": number, "voices": count} for number, count in made]})
        return
    for line in [f"cluster {cluster} is divided: {listed}", *told(found, {})]:
        typer.echo(line)
