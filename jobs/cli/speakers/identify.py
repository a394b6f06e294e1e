"""`rushes speakers identify`, `calibrate` and `rank`: whose voices these are, as far as voices tell."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jobs.cli.common import (
    MOST_ROWS,
    Address,
    AsJson,
    Channels,
    Collections,
    Config,
    Tags,
    Yes,
    asset_filter,
    clock,
    confirm,
    corpus,
    print_json,
    print_table,
    settings_from,
    short_uri,
)

SHOWN_ASSETS = 50


def identify(
    assets: Annotated[
        list[str] | None,
        typer.Argument(metavar="ASSET", help="Source paths, their endings, or 8+ digits of the SHA-256; none: all."),
    ] = None,
    channel: Channels = None,
    tag: Tags = None,
    collection: Collections = None,
    again: Annotated[bool, typer.Option("--again", help="Also voices that were recognised before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be found; write nothing.")] = False,
    address: Address = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Give unknown voices the names of the people they are alike enough; who is unlike everybody stays unknown."""
    from cluster.db.speakers.who import voices_of
    from jobs.speakers.identify import identify_job, summary_of

    chosen = asset_filter(channel, tag, collection)
    found, run_id = identify_job(
        settings_from(config), assets or [], chosen, again=again, dry_run=dry_run, address=address
    )
    with corpus(config) as conn:
        labels = _labels(conn, found)
        voices = voices_of(conn, sorted(found.asked_assets))
    if as_json:
        calls = {
            kind: [_call_dict(key, call, labels) for key, call in made]
            for kind, made in (("accepted", found.accepted), ("refused", found.refused))
        }
        per_asset = [
            {"asset": labels.assets[asset_id], "segments": _counts(found_here)}
            for asset_id, found_here in voices.items()
            if asset_id in labels.assets
        ]
        print_json({"run": run_id, **summary_of(found), "assets": per_asset, "closest": calls})
        return
    lines = [*([] if dry_run else _asset_lines(labels.assets, voices)), *_close_lines(found, labels), *_sums(found)]
    for line in lines:
        typer.echo(line)
    if dry_run:
        typer.echo("dry run: nothing was written")


def calibrate(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure; store nothing.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Back to the shipped thresholds.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Measure on the labelled people from which score on a stranger would be taken for one of them."""
    from cluster.db.speakers import calibrate as database
    from jobs.speakers.identify import voice_space

    with corpus(config) as conn:
        space = voice_space(conn)
        if reset:
            _reset(conn, space, dry_run, yes, as_json)
            return
        before = database.taus_in_force(conn, space)
        found = database.calibrate(conn, space, dry_run=dry_run)
    if as_json:
        print_json(
            {"space_id": space.space_id, "speakers": found.speakers, "voices": found.voices, "fpir": found.fpir,
             "taus": found.taus, "before": before.taus, "stored": not dry_run}
        )  # fmt: skip
        return
    from cluster.speakers.thresholds import tau_for

    typer.echo(
        f"voice space {space.space_id} ({space.profile}): {found.voices} voices of {found.speakers} people; "
        f"{found.fpir:.0%} of strangers reach"
    )
    print_table(
        ["people", "score", "before"],
        [[size, f"{tau:.3f}", f"{tau_for(before.taus, size):.3f}"] for size, tau in found.taus],
    )
    typer.echo(
        "dry run: nothing was stored"
        if dry_run
        else "stored; what was recognised before keeps its name: `rushes speakers identify --again` looks anew"
    )


def rank(
    asset: Annotated[str, typer.Argument(help="Source path, its ending, or 8+ digits of the SHA-256.")],
    at: Annotated[str, typer.Option("--at", help="When the voice speaks: SECONDS, M:SS or H:MM:SS.")],
    most: Annotated[int, typer.Option("-k", "--limit", min=1, max=MOST_ROWS, help="At most this many people.")] = 10,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """The people by the average distance of their voices to one voice, nearest first; names nobody."""
    from cluster.db.report import find_asset
    from cluster.db.speakers.events import point_at
    from cluster.db.speakers.means import rank_speakers, voice_at
    from cluster.errors import RushesError
    from jobs.cli.speakers.places import parse_time
    from jobs.speakers.identify import voice_space

    at_ms = parse_time(at)
    with corpus(config) as conn:
        space, found = voice_space(conn), find_asset(conn, asset)
        target = point_at(conn, found["asset_id"], asset, at_ms)
        ranked = rank_speakers(conn, space, voice_at(conn, space, target, asset), most)
    if not ranked:
        raise RushesError("nobody has a name yet, so there is nobody to rank: `rushes speakers label NAME ASSET` first")
    if as_json:
        print_json([{"speaker": one.speaker.name, "distance": one.distance, "voices": one.voices} for one in ranked])
        return
    print_table(
        ["speaker", "average distance", "voices"],
        [[one.speaker.name, f"{one.distance:.4f}", one.voices] for one in ranked],
    )


def _reset(conn: Any, space: Any, dry_run: bool, yes: bool, as_json: bool) -> None:
    from cluster.db.speakers import calibrate as database

    count = database.count_calibrations(conn, space)
    question = f"Delete {count} calibration(s) of voice space {space.space_id}?"
    done = bool(count) and not dry_run and confirm(question, yes)
    deleted = database.reset(conn, space) if done else 0
    if as_json:
        print_json({"space_id": space.space_id, "calibrations": count, "deleted": deleted})
    elif not count:
        typer.echo("nothing to reset: the shipped thresholds are in force")
    else:
        typer.echo("the shipped thresholds are in force" if deleted else f"{count} calibration(s) would be deleted")


class _Labels:
    """What to call the assets and people of a result."""

    def __init__(self, assets: dict[int, str], people: dict[int, str], starts_ms: dict[tuple[int, int], int]) -> None:
        self.assets, self.people, self.starts_ms = assets, people, starts_ms


def _labels(conn: Any, found: Any) -> _Labels:
    from cluster.db.report import asset_names
    from cluster.db.speakers.names import names_of
    from cluster.db.speakers.who import first_heard_ms

    calls = [*found.accepted, *found.refused]
    return _Labels(
        asset_names(conn, found.asked_assets),
        names_of(conn, [call.speaker for _, call in calls]),
        first_heard_ms(conn, [key[0] for key, _ in calls]),
    )


def _asset_lines(assets: dict[int, str], voices: dict[int, Any]) -> list[str]:
    from cluster.speakers.counts import describe

    named = sorted((short_uri(assets[asset_id]), found) for asset_id, found in voices.items() if asset_id in assets)
    lines = [f"{name}: {describe(found)}" for name, found in named[:SHOWN_ASSETS]]
    more = len(named) - SHOWN_ASSETS
    return [*lines, f"... and {more} more assets: --json has them all"] if more > 0 else lines


def _counts(voices: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for who, segments in voices.items():
        name = who.shown if who.speaker_id is not None else "unknown"
        counts[name] = counts.get(name, 0) + segments
    return counts


def _close_lines(found: Any, labels: _Labels) -> list[str]:
    lines: list[str] = []
    for title, calls in (("closest accepted", found.accepted), ("closest refused", found.refused)):
        lines += [f"{title}:"] if calls else []
        for key, call in calls:
            one = _call_dict(key, call, labels)
            margin = "nobody else" if call.margin is None else f"{call.margin:.3f} ahead"
            why = f", refused by {call.refused_by}" if call.refused_by else ""
            place = f"{short_uri(one['asset'])} {clock(one['start_ms'])}"
            lines.append(f"  {place} {one['speaker']}: {call.score:.3f} of {call.tau:.3f}, {margin}{why}")
    return lines


def _call_dict(key: tuple[int, int], call: Any, labels: _Labels) -> dict[str, Any]:
    return {
        "asset": labels.assets.get(key[0], str(key[0])),
        "local_speaker": key[1],
        "start_ms": labels.starts_ms.get(key),
        "speaker": labels.people.get(call.speaker, "?"),
        "score": call.score,
        "margin": call.margin,
        "tau": call.tau,
        "refused_by": call.refused_by,
    }


_REASONS = {
    "score": "unlike everybody",
    "margin": "alike two people",
    "taken": "whose name another voice of the asset has",
    "too little speech": "with too little clean speech",
    "ghost": "that are ghosts",
    "nobody": "that a person set apart",
}


def _sums(found: Any) -> list[str]:
    from cluster.speakers.thresholds import tau_for

    tau = tau_for(found.taus.taus, found.gallery_people)
    reasons = [f"{found.unknown[name]} {words}" for name, words in _REASONS.items() if found.unknown[name]]
    lost = f" - {found.lost} lost" if found.lost else ""
    unknown = found.unknown.total()
    detail = f" ({', '.join(reasons)})" if reasons else ""
    return [
        f"{found.asked} voice(s) compared with {found.gallery_voices} of {found.gallery_people} people, "
        f"accepted from {tau:.3f} ({found.taus.describe()})",
        f"{found.voices} voices: {found.known_before} known before + {found.named} recognised now{lost}"
        f" + {unknown} unknown{detail}",
        found.segments.describe(),
    ]
