"""`rushes speakers label` and `enroll`: a person says whose voice it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli.common import MOST_ROWS, AsJson, Config, clock, corpus, print_json, settings_from
from jobs.cli.events import Author, DryRun, author_of
from jobs.cli.speakers.told import asset_names, decide, plain, told

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME ASSET",
        help="The person, and the asset by source path, its ending, or 8+ digits of the SHA-256.",
        show_default=False,
    ),
]
At = Annotated[str | None, typer.Option(metavar="TIME", help="When the voice speaks: seconds, M:SS or H:MM:SS.")]


@dataclass(frozen=True, slots=True)
class _Asked:
    name: str | None
    asset: str | None
    at_ms: int | None
    only_segment: bool
    cluster: int | None


def label(
    words: Words = None,
    at: At = None,
    only_segment: Annotated[
        bool, typer.Option("--only-segment", help="This segment only, not the other ones of the voice.")
    ] = False,
    cluster: Annotated[
        int | None, typer.Option(min=1, max=MOST_ROWS, help="The cluster of this number, instead of an asset.")
    ] = None,
    nobody: Annotated[bool, typer.Option("--nobody", help="Nobody known speaks there; no NAME then.")] = False,
    author: Author = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Say whose voice it is. The cluster of the voice takes the name as far as it is alike; no model is asked.

    Without --at the asset must hold one voice. `rushes speakers undo` takes it back, exactly.
    """
    from cluster.db.speakers.actions import label as do_label
    from cluster.db.speakers.actions import look
    from cluster.db.speakers.names import similar_names

    asked, who = _asked(words or [], at, only_segment, cluster, nobody), author_of(author)
    with corpus(config) as conn:
        target, name, note = _target(conn, config, asked, dry_run=dry_run, quiet=as_json)
        alike = [] if asked.name is None else similar_names(conn, asked.name)
        seen = look(conn, [target])
        found = decide(conn, lambda: do_label(conn, asked.name, [target], who, seen=seen), [target], dry_run=dry_run)
        names = asset_names(conn, [target.asset_id])
    was = seen.voices[target]
    if as_json:
        place = {"asset": name, "start_ms": target.start_ms, "end_ms": target.end_ms, "scope": target.scope}
        before = None if was.speaker is None else {"name": was.speaker.name, "method": was.method}
        print_json(plain(found, names) | place | {"before": before, "alike": alike, "note": note})
        return
    typer.echo(f"{_headline(found, alike)}: {_voice(target, was)} at {clock(target.start_ms)} of {name}{_before(was)}")
    for line in [*([note] if note else []), *told(found, names)]:
        typer.echo(line)


def _asked(words: list[str], at: str | None, only_segment: bool, cluster: int | None, nobody: bool) -> _Asked:
    from cluster.db.speakers.names import clean_name
    from cluster.errors import UsageError
    from jobs.cli.speakers.places import parse_time

    wanted = [*([] if nobody else ["NAME"]), *([] if cluster else ["ASSET"])]
    if nobody and cluster:
        raise UsageError("--nobody is about one voice: give an asset and --at, not a cluster")
    if len(words) != len(wanted):
        raise UsageError(f"give {' and '.join(wanted)}, {len(words)} word(s) are here; a name with spaces needs quotes")
    if cluster and (at is not None or only_segment):
        raise UsageError("--cluster is named as a whole: leave out --at and --only-segment")
    if at is None and (nobody or only_segment):
        raise UsageError(f"{'--nobody' if nobody else '--only-segment'} needs --at TIME, when that voice speaks")
    name = None if nobody else clean_name(words[0])
    asset = None if cluster else words[-1]
    return _Asked(name, asset, None if at is None else parse_time(at), only_segment, cluster)


def _target(
    conn: Any, config: Path | None, asked: _Asked, *, dry_run: bool, quiet: bool
) -> tuple[Any, str, str | None]:
    """Where the person points, the name of that asset, and what became of its missing voices."""
    from cluster.db.report import find_asset
    from cluster.db.speakers.events import point_at
    from cluster.db.speakers.pointing import point_at_cluster, point_at_voice

    if asked.cluster is not None:
        target = point_at_cluster(conn, asked.cluster)
        return target, asset_names(conn, [target.asset_id])[target.asset_id], None
    asset_id = find_asset(conn, asked.asset or "")["asset_id"]
    name = asset_names(conn, [asset_id])[asset_id]
    scope = "segment" if asked.only_segment else "speaker"
    if asked.at_ms is not None:
        point_at(conn, asset_id, name, asked.at_ms)
    note = _with_voices(conn, config, asset_id, name, dry_run=dry_run, quiet=quiet)
    if asked.at_ms is None:
        return point_at_voice(conn, asset_id, name), name, note
    return point_at(conn, asset_id, name, asked.at_ms, scope), name, note


def _with_voices(conn: Any, config: Path | None, asset_id: int, name: str, *, dry_run: bool, quiet: bool) -> str | None:
    from cluster.db.local_voices import has_local_voices
    from cluster.errors import RushesError, first_line
    from jobs.cli.progress import make_reporter
    from jobs.speakers.voices import extract_voices, lacks_voices

    settings = settings_from(config)
    try:
        if not lacks_voices(conn, settings, asset_id):
            return None
        if dry_run:
            return f"the voices of {name} would be extracted first"
        with make_reporter(quiet=quiet, verbose=False) as reporter:
            problem = extract_voices(conn, settings, asset_id, reporter)
    except RushesError as error:
        problem = first_line(error)
    if problem is None:
        return f"the voices of {name} were extracted first, all of them; nothing was transcribed"
    if has_local_voices(conn, asset_id):
        return f"{name} keeps the voices it had under other settings ({problem})"
    return f"{name} has no voices ({problem}): the label stands, but recognises nobody elsewhere"


def _headline(found: dict[str, Any], alike: list[str]) -> str:
    if found["speaker"] is None:
        return "nobody known"
    if not found["is_new"]:
        return found["speaker"]
    hint = f"; if you meant {' or '.join(alike)}, undo this" if alike else ""
    return f"{found['speaker']} (new{hint})"


def _voice(target: Any, was: Any) -> str:
    from cluster.conversation import speaker_letter

    if target.scope == "segment" or was.local_speaker is None:
        return "this segment only"
    return f"voice {speaker_letter(was.local_speaker)}"


def _before(was: Any) -> str:
    if was.speaker is None:
        return ""
    how = {"human": "by a person", "cluster": "by its cluster", "knn": "by recognition"}[was.method]
    return f" (was {was.speaker.name} {how})"


def enroll(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The person.")],
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Recordings of this person alone.")],
    author: Author = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Make a person known by recordings of nobody else: they are taken in, checked, and get the name together.

    Refuses a file with several voices or hardly any speech, and files that do not sound like one person.
    """
    from cluster.db.speakers.actions import label as do_label
    from cluster.db.speakers.actions import look
    from cluster.db.speakers.names import clean_name, similar_names
    from jobs.cli.progress import make_reporter
    from jobs.speakers.enroll import prepare

    name, who = clean_name(name), author_of(author)
    with make_reporter(quiet=as_json, verbose=False) as reporter:
        samples = prepare(settings_from(config), name, files, reporter)
    targets = [sample.target for sample in samples]
    with corpus(config) as conn:
        alike, seen = similar_names(conn, name), look(conn, targets)
        found = decide(conn, lambda: do_label(conn, name, targets, who, kind="enroll", seen=seen), targets)
        names = asset_names(conn, [target.asset_id for target in targets])
    if as_json:
        rows = [{"uri": one.uri, "clean_ms": one.clean_ms, "score": one.score} for one in samples]
        print_json(plain(found, names) | {"alike": alike, "files": rows})
        return
    typer.echo(f"{_headline(found, alike)}: enrolled from {len(samples)} file(s)")
    for sample in samples:
        score = "" if sample.score is None else f", {sample.score:.2f} against the others"
        was = _before(seen.voices[sample.target])
        typer.echo(f"  {sample.uri}: {sample.clean_ms / 1000:.1f} s of clean speech{score}{was}")
    for line in told(found | {"assets": {}}, names):
        typer.echo(line)
