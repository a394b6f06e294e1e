"""`rushes speakers list`, `show`, `unknown` and `forget`: who is known, where they speak, who is not known yet."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jobs.cli.common import (
    MOST_ROWS,
    AsJson,
    Config,
    Limit,
    Yes,
    clock,
    confirm,
    corpus,
    print_json,
    print_table,
    short_uri,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The person's name.")]


def list_people(as_json: AsJson = False, config: Config = None) -> None:
    """The people: what they said, in how many assets, and how that is known."""
    from cluster.db.speakers.people import list_people as read
    from cluster.db.speakers.people import speech_total

    with corpus(config) as conn:
        rows, total = read(conn), speech_total(conn)
    if as_json:
        print_json({"people": rows, "total": total})
        return
    if rows:
        header = ["speaker", "segments", "minutes", "assets", "human", "cluster", "knn", "last decision"]
        print_table(header, [_cells(row) for row in rows])
    else:
        typer.echo("nobody has a name yet: `rushes speakers label`")
    typer.echo(total_line(total))


def total_line(total: dict[str, Any]) -> str:
    """`labels 83 % of speech: 12.3 of 14.8 minutes; 77 segments: 60 of known speakers, 17 unknown`."""
    from cluster.speakers.counts import Counts

    share = 100 * total["known_ms"] / total["speech_ms"] if total["speech_ms"] else 0
    counts = Counts(total["segments"], total["known"], total["unknown"])
    spoken = f"{_minutes(total['known_ms'])} of {_minutes(total['speech_ms'])} minutes"
    return f"labels {share:.0f} % of speech: {spoken}; {counts.describe()}"


def _cells(row: dict[str, Any]) -> list[Any]:
    from cluster.db.report import summary_time

    methods = [row["segments_by_method"].get(method, 0) for method in ("human", "cluster", "knn")]
    return [row["name"], row["segments"], _minutes(row["speech_ms"]), row["assets"], *methods,
            summary_time(row["last_decision"])]  # fmt: skip


def _minutes(ms: int) -> str:
    return f"{ms / 60_000:.1f}"


def show(
    name: Name,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=MOST_ROWS, help="At most this many assets.")] = 50,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """One person: the assets with counts and where to listen, and what was decided about them."""
    from cluster.db.report import summary_time
    from cluster.db.speakers.names import known_speaker
    from cluster.db.speakers.people import assets_of, events_about

    with corpus(config) as conn:
        person = known_speaker(conn, name)
        assets, events = assets_of(conn, person.speaker_id), events_about(conn, person.speaker_id)
    if as_json:
        print_json({"name": person.name, "assets": assets, "events": events})
        return
    typer.echo(f"{person.name}: {sum(row['segments'] for row in assets)} segments in {len(assets)} asset(s)")
    for row in assets[:limit]:
        methods = ", ".join(f"{count} {method}" for method, count in row["segments_by_method"].items())
        typer.echo(
            f"  {short_uri(row['name'])}: {row['segments']} segments, {_minutes(row['speech_ms'])} min ({methods})"
        )
        for spoken in row["longest"]:
            typer.echo(f"    {clock(spoken['start_ms'])}-{clock(spoken['end_ms'])} {spoken['text'] or '[no words]'}")
    if len(assets) > limit:
        typer.echo(f"  ... {len(assets) - limit} more assets: --limit")
    for event in events:
        back = "" if event["stands"] else " (taken back)"
        other = f" -> {event['into']}" if event["into"] else ""
        typer.echo(f"  event {event['event_id']}: {event['kind']} {event['name']}{other}"
                   f" by {event['author']}, {summary_time(event['at'])}{back}")  # fmt: skip


def unknown(
    limit: Limit = 20,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """The voices nobody has named, most speech first: where to listen, and how to name them. Ghosts are left out."""
    from cluster.conversation import speaker_letter
    from cluster.db.speakers.people import count_ghosts, unknown_voices

    with corpus(config) as conn:
        rows, ghosts = unknown_voices(conn, limit), count_ghosts(conn)
    if as_json:
        print_json({"voices": rows, "ghosts": ghosts})
        return
    if rows:
        header = ["asset", "voice", "segments", "minutes", "listen at", "says"]
        print_table(header, [
            [short_uri(row["name"]), speaker_letter(row["local_speaker"]), row["segments"], _minutes(row["speech_ms"]),
             clock(row["start_ms"]), row["text"][:60]] for row in rows
        ])  # fmt: skip
        typer.echo("name one: rushes speakers label NAME ASSET --at TIME")
    else:
        typer.echo("every voice has a name")
    if ghosts:
        typer.echo(f"{ghosts} ghost(s) left out: under 2 % of the speech of their asset, and never over 2 s")


def forget(
    name: Name,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted; do nothing.")] = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Delete a person and every voice print of theirs; this cannot be undone. Transcripts and media stay."""
    from dataclasses import asdict

    from cluster.db.speakers.forget import forget_speaker

    with corpus(config) as conn:
        found = forget_speaker(conn, name, dry_run=True)
        if not as_json:
            typer.echo(_what_goes(found))
        if not dry_run and not confirm(f"Forget {found.name} for good? This cannot be undone.", yes):
            typer.echo("nothing was forgotten", err=True)
            raise typer.Exit(1)
        done = None if dry_run else forget_speaker(conn, name)
    if as_json:
        print_json({"forgotten": done and asdict(done), "found": asdict(found)})
    elif done is None:
        typer.echo("dry run: nothing was deleted")
    else:
        typer.echo(f"forgotten: {done.name}; no later ingest keeps a voice print of these times again")


def _what_goes(found: Any) -> str:
    also = f" with {', '.join(found.also)}" if found.also else ""
    return (
        f"{found.name}{also}: {found.vectors} voice vectors, {found.cached} cached ones, {found.events} decisions;"
        f" {found.segments} segments become unknown and keep their text"
    )
