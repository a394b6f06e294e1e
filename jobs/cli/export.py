"""`rushes export`: a transcript as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli.common import Config, corpus, short_uri


def export(
    asset: Annotated[str, typer.Argument(help="Source path, its ending, or 8+ digits of the SHA-256.")],
    formats: Annotated[str, typer.Option("--format", "-f", help="Some of srt,vtt,rttm,txt,json.")] = "srt",
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "-o", help="Folder for the files; none: print one format.")
    ] = None,
    config: Config = None,
) -> None:
    """Write an asset's transcript as subtitles, speaker turns, text or JSON."""
    from cluster.db.report import find_asset
    from cluster.errors import UsageError
    from cluster.formats import FORMATS

    asked = [name.strip() for name in formats.split(",") if name.strip()]
    unknown = [name for name in asked if name not in FORMATS]
    if unknown or not asked:
        raise UsageError(f"unknown format {', '.join(unknown) or formats!r}: choose from {', '.join(FORMATS)}")
    if output_dir is None and len(asked) > 1:
        raise UsageError(f"{len(asked)} formats need a folder: add -o DIR")
    with corpus(config) as conn:
        transcript = read_transcript(conn, find_asset(conn, asset))
    if output_dir is None:
        typer.echo(FORMATS[asked[0]](transcript), nl=False)
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    for name in asked:
        path = output_dir / f"{transcript.name}.{name}"
        path.write_text(FORMATS[name](transcript), encoding="utf-8")
        typer.echo(str(path))


def read_transcript(conn: Any, found: dict[str, Any]) -> Any:
    """The committed transcript of an asset; `RushesError` when there is none yet."""
    from cluster.conversation import Segment
    from cluster.db import ledger, report
    from cluster.errors import RushesError
    from cluster.formats import Transcript

    row = report.assets_table(conn, [found["asset_id"]])[0]
    segments = [Segment.from_row(segment) for segment in ledger.read_segments(conn, found["asset_id"])]
    # Segments of an earlier pass stay good when a later one is pending or failed.
    if not segments and (row["lanes"] or {}).get("speech") != "done":
        raise RushesError(f"{row['uris'][0]} has no transcript: {row['reason'] or 'run `rushes ingest` on it first'}")
    name = Path(short_uri(row["uris"][0])).stem
    return Transcript(name, row["duration_ms"], report.transcript_language(conn, found["asset_id"]), segments)
