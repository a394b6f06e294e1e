"""`rushes export`: transcripts and vectors as files."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli.common import AsJson, Channels, Collections, Config, Tags, asset_filter, corpus, print_json, settings_from


def export(
    assets: Annotated[
        list[str] | None,
        typer.Argument(metavar="ASSET", help="Source paths, their endings, or 8+ digits of the SHA-256."),
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", "-f", help="Some of srt,vtt,rttm,txt,json,csv,parquet,wav.")
    ] = "srt",
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", "-o", help="Folder for the files; none: print one format of one asset."),
    ] = None,
    channels: Channels = None,
    tags: Tags = None,
    collections: Collections = None,
    every: Annotated[bool, typer.Option("--all", help="Every asset.")] = False,
    beside_media: Annotated[
        bool, typer.Option("--beside-media", help="Write NAME.srt next to each local source.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="With --beside-media: replace files that differ.")
    ] = False,
    by: Annotated[str | None, typer.Option("--by", help="speaker: one file per speaker.", show_default=False)] = None,
    speaker: Annotated[
        str | None, typer.Option("--speaker", help="Only what this person says, in every asset.", show_default=False)
    ] = None,
    spaces: Annotated[
        list[int] | None, typer.Option("--space", help="Parquet: vectors of this space, not of the active one.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which files would be written.")] = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Write transcripts as subtitles, speaker turns, text, JSON, CSV or Parquet; one person's clips as WAV."""
    from contextlib import ExitStack

    from cluster.db.speakers.names import known_speaker
    from cluster.errors import UsageError
    from jobs.export import WAV, ExportOptions

    chosen = asset_filter(channels, tags, collections)
    asked = _formats(formats)
    _refuse_misfits(asked, output_dir, beside_media, overwrite, by)
    _refuse_speaker_misfits(asked, output_dir, speaker, by)
    if every and (assets or chosen):
        raise UsageError("--all is every asset: leave out the names and filters, or --all")
    with corpus(config) as conn, ExitStack() as stack:
        person = None if speaker is None else known_speaker(conn, speaker)
        named = _select(conn, assets or [], chosen, every, person)
        if output_dir is None and not beside_media:
            _print(conn, named, asked[0], alone=not (by or person or dry_run or as_json))
            return
        clips = stack.enter_context(_clips(config)) if WAV in asked else None
        options = ExportOptions(
            asked, output_dir, by == "speaker", overwrite, tuple(spaces or ()), dry_run, person, clips
        )
        _export(conn, named, options, bool(assets), as_json)


def _print(conn: Any, named: Sequence[Any], kind: str, *, alone: bool) -> None:
    from cluster.db.transcripts import transcript_of
    from cluster.errors import UsageError
    from cluster.formats import FORMATS

    if len(named) != 1 or not alone:
        flags = "--by, --speaker, --dry-run and --json need"
        what = f"{len(named)} assets need" if len(named) != 1 else flags
        raise UsageError(f"{what} a folder for the files: add -o DIR, or --beside-media")
    typer.echo(FORMATS[kind](transcript_of(conn, named[0])), nl=False)


def _formats(text: str) -> list[str]:
    from cluster.errors import UsageError
    from cluster.formats import FORMATS
    from jobs.export import PARQUET, WAV

    known = (*FORMATS, PARQUET, WAV)
    asked = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in asked if name not in known]
    if unknown or not asked:
        raise UsageError(f"unknown format {', '.join(unknown) or text!r}: choose from {', '.join(known)}")
    return asked


def _clips(config: Path | None) -> Any:
    from contextlib import closing

    from jobs.clips import Clips

    return closing(Clips(settings_from(config)))


def _refuse_speaker_misfits(asked: Sequence[str], output_dir: Path | None, speaker: str | None, by: str | None) -> None:
    from cluster.errors import UsageError
    from jobs.export import WAV

    if speaker is not None and by is not None:
        raise UsageError("--speaker writes the files of one speaker: leave out --by")
    if WAV in asked and speaker is None:
        raise UsageError("wav is the clips of one person: say whose with --speaker NAME")
    if WAV in asked and output_dir is None:
        raise UsageError("wav is many files: add -o DIR")


def _refuse_misfits(
    asked: Sequence[str], output_dir: Path | None, beside_media: bool, overwrite: bool, by: str | None
) -> None:
    from cluster.errors import UsageError
    from jobs.export import PARQUET

    folder = output_dir is not None
    if by not in (None, "speaker"):
        raise UsageError(f"--by {by!r}: choose speaker")
    if folder and beside_media:
        raise UsageError("-o and --beside-media are two places: choose one")
    if output_dir is not None and os.path.exists(output_dir) and not output_dir.is_dir():  # noqa: PTH110
        raise UsageError(f"-o {output_dir} is a file: name a folder")
    if overwrite and not beside_media:
        raise UsageError("--overwrite belongs to --beside-media: files in a folder of -o are replaced anyway")
    if PARQUET in asked and not folder:
        raise UsageError("parquet is a folder of files: add -o DIR")
    if len(asked) > 1 and not folder and not beside_media:
        raise UsageError(f"{len(asked)} formats need a folder: add -o DIR")


def _select(conn: Any, assets: Sequence[str], chosen: Any, every: bool, person: Any) -> list[Any]:
    from cluster.db.filter import matching
    from cluster.db.report import find_asset
    from cluster.db.speakers.who import assets_heard
    from cluster.db.transcripts import name_assets
    from cluster.errors import UsageError

    if not (assets or chosen or every or person):
        raise UsageError("export what? Name assets, or choose with --channel, --tag, --collection, --speaker or --all")
    ids = [find_asset(conn, asset)["asset_id"] for asset in assets] if assets else None
    wanted = set(matching(conn, chosen, ids))
    if person is not None:
        wanted &= assets_heard(conn, [person.speaker_id])
    return [named for named in name_assets(conn) if named.asset_id in wanted]


def _export(conn: Any, named: Sequence[Any], options: Any, by_name: bool, as_json: bool) -> None:
    from cluster.db.transcripts import missing_reason
    from jobs.export import export as write

    would = "would write " if options.dry_run else ""
    done = write(conn, named, options, lambda path: None if as_json else typer.echo(f"{would}{path}"))
    if by_name:
        absent = [item for item in named if item.name in done.without_transcript]
        done.failures.extend({"what": item.name, "reason": missing_reason(conn, item)} for item in absent)
        done.without_transcript.clear()
    if as_json:
        print_json(
            {
                "files": done.files,
                "unchanged": done.unchanged,
                "without_transcript": done.without_transcript,
                "failures": done.failures,
                "dry_run": options.dry_run,
            }
        )
    for failure in done.failures:
        typer.echo(f"failed: {failure['what']}: {failure['reason']}", err=True)
    typer.echo(_total(done, len(named), would), err=True)
    if done.failures:
        raise typer.Exit(3)


def _total(done: Any, assets: int, would: str) -> str:
    parts = [f"{would}{len(done.files)} file(s) of {assets} asset(s)"]
    for count, what in (
        (len(done.unchanged), "unchanged"),
        (len(done.without_transcript), "asset(s) without a transcript"),
        (len(done.failures), "failed"),
    ):
        if count:
            parts.append(f"{count} {what}")
    return " \N{MIDDLE DOT} ".join(parts)
