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
    from cluster.db.info import said_of
    from cluster.db.turns import with_names

    with corpus(config) as conn:
        found = report.find_asset(conn, asset)
        [row] = with_names(conn, report.assets_table(conn, [found["asset_id"]]))
        segments = ledger.read_segments(conn, found["asset_id"])
        row = {**row, **said_of(conn, [found["asset_id"]])[found["asset_id"]]}
    if as_json:
        print_json({**row, "segments": segments})
        return
    for line in asset_lines(row):
        typer.echo(line)
    for line in transcript_lines(segments[:limit], row["names"]):
        typer.echo(line)
    if limit is not None and len(segments) > limit:
        typer.echo(f"... {len(segments) - limit} more segments")


def asset_lines(row: dict[str, Any]) -> list[str]:
    """Identity, sources and lanes of an asset."""
    from jobs.cli.status import asset_row

    sha, _, length, lanes, what = asset_row(row)
    return [
        f"{sha} {row['media_kind'] or 'unreadable'} {length}",
        *(f"  {source['uri']}{' (gone)' if source['gone_at'] else ''}" for source in row["sources"]),
        *(f"  {key}: {value}" for key in ("title", "channel") if (value := row.get(key))),
        *(f"  {key}: {', '.join(values)}" for key in ("tags", "collections") if (values := row.get(key))),
        f"  {lanes}",
        f"  {what}",
    ]


def transcript_lines(segments: list[dict[str, Any]], names: dict[int | None, str] | None = None) -> list[str]:
    """`0:00:01.2-0:00:03.4 A: text`, one line a segment; `names` are those of local speakers."""
    from cluster.conversation import speaker_name

    lines = []
    for segment in segments:
        who = speaker_name(segment["local_speaker"], names or {})
        text = segment["text"] or f"[{segment['text_skip_reason']}]"
        lines.append(f"{clock(segment['start_ms'])}-{clock(segment['end_ms'])} {who}: {text}")
    return lines
