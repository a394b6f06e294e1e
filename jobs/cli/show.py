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
    from cluster.db import report
    from cluster.db.info import said_of
    from cluster.db.speakers.quality import skipped_voices
    from cluster.db.speakers.who import with_voices
    from cluster.db.transcripts import Named, read_transcript
    from jobs.cli.status import plain

    with corpus(config) as conn:
        found = report.find_asset(conn, asset)
        asset_id = found["asset_id"]
        [row] = with_voices(conn, report.assets_table(conn, [asset_id]))
        transcript = read_transcript(conn, Named(asset_id, found["sha256"], row["name"]))
        row = {**row, **said_of(conn, [asset_id])[asset_id], "skipped_voices": skipped_voices(conn, asset_id)}
    if as_json:
        print_json({**plain(row), "segments": segment_rows(transcript) if transcript else []})
        return
    lines = transcript_lines(transcript) if transcript else []
    for line in [*asset_lines(row), *lines[:limit]]:
        typer.echo(line)
    if limit is not None and len(lines) > limit:
        typer.echo(f"... {len(lines) - limit} more segments")


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
        *_skipped(row["skipped_voices"]),
    ]


def _skipped(reasons: dict[str, int]) -> list[str]:
    parts = [f"{count} {reason}" for reason, count in reasons.items()]
    return [f"  segments without a voice print: {', '.join(parts)}"] if parts else []


def segment_rows(transcript: Any) -> list[dict[str, Any]]:
    """The segments as JSON says them, each with its speaker and how that is known."""
    rows = []
    for segment in transcript.segments:
        who = transcript.who(segment)
        said = {"local_speaker": who.local_speaker, "speaker": who.shown, "method": who.method, "score": who.score}
        rows.append({**segment.to_row(), **said, "is_ghost": who.is_ghost})
    return rows


def transcript_lines(transcript: Any) -> list[str]:
    """`0:00:01.2-0:00:03.4 A: text`, one line a segment."""
    return [
        f"{clock(segment.start_ms)}-{clock(segment.end_ms)} {transcript.speaker_name(segment)}: "
        f"{segment.text or f'[{segment.text_skip_reason}]'}"
        for segment in transcript.segments
    ]
