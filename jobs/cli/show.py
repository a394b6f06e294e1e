"""`rushes show`: one asset with its transcript."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jobs.cli.common import AsJson, Config, clock, corpus, print_json


def show(
    asset: Annotated[str, typer.Argument(help="Source path, its ending, or 8+ digits of the SHA-256.")],
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="At most this many segments.")] = None,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """What an asset is, how its lanes stand, who speaks when."""
    from cluster.db import ledger, report

    with corpus(config) as conn:
        found = report.find_asset(conn, asset)
        row = report.assets_table(conn, [found["asset_id"]])[0]
        segments = ledger.read_segments(conn, found["asset_id"])
    if as_json:
        print_json({**row, "segments": segments})
        return
    for line in asset_lines(row):
        typer.echo(line)
    for line in transcript_lines(segments[:limit]):
        typer.echo(line)
    if limit is not None and len(segments) > limit:
        typer.echo(f"... {len(segments) - limit} more segments")


def asset_lines(row: dict[str, Any]) -> list[str]:
    """Identity, sources and lanes of an asset."""
    from jobs.cli.status import asset_row

    sha, _, length, lanes, what = asset_row(row)
    return [
        f"{sha} {row['media_kind'] or 'unreadable'} {length}",
        *(f"  {uri}" for uri in row["uris"]),
        f"  {lanes}",
        f"  {what}",
    ]


def transcript_lines(segments: list[dict[str, Any]]) -> list[str]:
    """`0:00:01.2-0:00:03.4 A: text`, one line a segment."""
    from cluster.conversation import speaker_letter

    lines = []
    for segment in segments:
        number = segment["local_speaker"]
        who = "UNKNOWN" if number is None else speaker_letter(number)
        text = segment["text"] or f"[{segment['text_skip_reason']}]"
        lines.append(f"{clock(segment['start_ms'])}-{clock(segment['end_ms'])} {who}: {text}")
    return lines
