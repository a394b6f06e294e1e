"""`rushes speakers cluster` and `clusters`: unknown voices in groups, and what there is to hear of each group."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jobs.cli.common import (
    Address,
    AsJson,
    Channels,
    Collections,
    Config,
    Limit,
    Tags,
    asset_filter,
    clock,
    corpus,
    print_json,
    settings_from,
    short_uri,
)


def cluster(
    assets: Annotated[
        list[str] | None,
        typer.Argument(metavar="ASSET", help="Source paths, their endings, or 8+ digits of the SHA-256; none: all."),
    ] = None,
    channel: Channels = None,
    tag: Tags = None,
    collection: Collections = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be found; write nothing.")] = False,
    address: Address = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Group the unknown voices by how alike they are; whoever is like nobody stays apart."""
    from jobs.speakers.cluster import cluster_job

    chosen = asset_filter(channel, tag, collection)
    result = cluster_job(settings_from(config), assets or [], chosen, dry_run=dry_run, address=address)
    if as_json:
        print_json({"run": result.run_id, **result.to_dict()})
        return
    for line in _told(result, dry_run):
        typer.echo(line)


def _told(result: Any, dry_run: bool) -> list[str]:
    found = result.clustered
    inside, inside_ms = found.segments - found.noise_segments, found.speech_ms - found.noise_ms
    lines = [
        f"{_count(found.points, 'voice')}: {_count(found.clusters, 'cluster')} with {found.members}, "
        f"{found.noise} apart",
        f"{_count(found.segments, 'segment')}, {clock(found.speech_ms)}: {inside} in clusters, {clock(inside_ms)}; "
        f"{found.noise_segments} apart, {clock(found.noise_ms)}",
    ]
    if found.vanished:
        lines.append(f"left alone: {found.vanished} voice(s) that changed or got a name meanwhile")
    if result.lacking:
        lines.append(
            f"not looked at: {result.lacking} asset(s) without voices; `rushes ingest --lanes voices` makes them"
        )
    if dry_run:
        return [*lines, "dry run: nothing was written"]
    return [*lines, *(["listen and name them: rushes speakers clusters"] if found.clusters else [])]


def clusters(
    cluster_ids: Annotated[
        list[int] | None, typer.Argument(metavar="CLUSTER", min=1, max=2**63 - 1, help="Only these; none: all.")
    ] = None,
    noise: Annotated[bool, typer.Option("--noise", help="The unknown voices that are in no cluster.")] = False,
    limit: Limit = 20,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """The clusters, the one with most speech of unknown people first: how large, how alike, where to listen."""
    from dataclasses import asdict

    from cluster.db.speakers.cards import count_unnamed
    from cluster.errors import UsageError
    from jobs.speakers.identify import voice_space

    if noise and cluster_ids:
        raise UsageError("--noise lists voices in no cluster: leave out the cluster numbers")
    with corpus(config) as conn:
        space = voice_space(conn)
        total, inside, apart = count_unnamed(conn, space)
        found = _lone(conn, space, limit) if noise else _cards(conn, space, limit, cluster_ids)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    for line in [line for one in found for line in (_lone_lines(one) if noise else _card_lines(one))]:
        typer.echo(line)
    typer.echo(f"{_count(inside + apart, 'unknown voice')}: {inside} in clusters, {apart} apart")
    if not total and not noise:
        typer.echo("no cluster yet: rushes speakers cluster")
    elif not cluster_ids and len(found) < (apart if noise else total):
        typer.echo(f"... and more: {len(found)} of {apart if noise else total} shown; --limit")


def _lone(conn: Any, space: Any, limit: int) -> list[Any]:
    from cluster.db.speakers.cards import lone_voices

    return lone_voices(conn, space, limit)


def _cards(conn: Any, space: Any, limit: int, cluster_ids: list[int] | None) -> list[Any]:
    from cluster.db.speakers.cards import cluster_cards
    from cluster.errors import UsageError

    if not cluster_ids:
        return cluster_cards(conn, space, limit)
    found = cluster_cards(conn, space, len(cluster_ids), cluster_ids)
    missing = set(cluster_ids) - {card.cluster_id for card in found}
    if missing:
        raise UsageError(f"there is no cluster {min(missing)}: see `rushes speakers clusters`")
    return found


def _card_lines(card: Any) -> list[str]:
    names = ", ".join(card.names) or "unknown"
    if card.names and card.unnamed:
        names += f"; {card.unnamed} of {card.members} unknown"
    head = (
        f"cluster {card.cluster_id}: {_count(card.members, 'voice')} in {_count(card.assets, 'asset')}, "
        f"{_count(card.segments, 'segment')}, {_minutes(card.speech_ms)}, "
        f"cohesion {card.cohesion:.2f} (5 % below {card.cohesion_p5:.2f}): {names}"
    )
    return [head, *(_snippet_line(one, f"{one.place:<8} {one.similarity:.2f}") for one in card.snippets)]


def _lone_lines(one: Any) -> list[str]:
    size = f"{_count(one.segments, 'segment')}, {_minutes(one.speech_ms)}"
    return [_snippet_line(one.snippet, size)] if one.snippet else []


def _snippet_line(snippet: Any, what: str) -> str:
    from cluster.conversation import speaker_letter

    when = f"{clock(snippet.start_ms)}-{clock(snippet.end_ms)}"
    text = snippet.text if len(snippet.text) <= 80 else snippet.text[:79] + "..."
    return f"  {what}  {short_uri(snippet.asset)} {when} {speaker_letter(snippet.local_speaker)}: {text}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _minutes(ms: int) -> str:
    return f"{ms / 60_000:.1f} min"
