"""`rushes status`: what the corpus holds, what the runs did."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from jobs.cli.common import AsJson, Config, corpus, print_json, print_table, short_uri

WATCH_S = 2.0


def status(
    run: Annotated[str | None, typer.Argument(help="A run id, or its first digits.", show_default=False)] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Renew until the run ends.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Assets to list.")] = 50,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """The corpus and its latest runs, or one run."""
    with corpus(config) as conn:
        if run is None and not watch:
            _corpus(conn, limit, as_json)
            return
        while True:
            found = _run(conn, run)
            print_json(found) if as_json else typer.echo(_run_line(found))
            if not watch or found["state"] != "running":
                return
            time.sleep(WATCH_S)


def _corpus(conn: Any, limit: int, as_json: bool) -> None:
    from cluster.db import report, spaces

    totals, runs = report.totals(conn), report.runs_table(conn, 5)
    listed = report.assets_table(conn, limit=limit)
    if as_json:
        print_json({"totals": totals, "runs": runs, "assets": listed})
        return
    typer.echo(
        f"{totals['assets']} assets from {totals['sources']} sources, {totals['media_ms'] / 3_600_000:.2f} h; "
        f"{totals['segments']} segments, {totals['voices']} voices, {totals['chunks']} chunks; "
        f"{totals['pending']} units pending under any settings, {totals['failed']} assets failed"
    )
    for space in spaces.list_spaces(conn):
        mark = "active" if space.is_active else "kept"
        typer.echo(f"{space.kind} space {space.space_id}: {space.profile}, {space.dimension}-d, {mark}")
    if runs:
        print_table(["run", "state", "started", "planned", "ok", "failed"], [_run_row(row) for row in runs])
    if listed:
        typer.echo("")
        print_assets(listed)


def print_assets(listed: list[dict[str, Any]]) -> None:
    """The table of assets with their segments per local speaker."""
    print_table(["asset", "source", "length", "lanes", "segments"], [asset_row(row) for row in listed])


def asset_row(row: dict[str, Any]) -> list[Any]:
    """One asset as table cells; failed or skipped ones say why."""
    from cluster.conversation import describe_counts
    from jobs.summary import duration

    uris = row["uris"] or ["?"]
    more = f" (+{len(uris) - 1} same)" if len(uris) > 1 else ""
    length = duration(row["duration_ms"] / 1000) if row["duration_ms"] is not None else "?"
    lanes = lane_states(row["lanes"] or {})
    what = row["reason"] or ""
    if row["speakers"]:
        what = describe_counts(dict(row["speakers"]))
    elif not what and (row["lanes"] or {}).get("speech") == "done":
        what = "no speech"
    return [row["sha256"][:8], short_uri(uris[0]) + more, length, lanes, what]


def lane_states(lanes: dict[str, str]) -> str:
    """`done` when every lane is, `failed` when speech is; else lane by lane."""
    if len(set(lanes.values())) == 1 or lanes.get("speech") == "failed":
        return lanes["speech"] if "speech" in lanes else next(iter(lanes.values()))
    return " ".join(f"{lane}:{state}" for lane, state in sorted(lanes.items()))


def _run(conn: Any, prefix: str | None) -> dict[str, Any]:
    from cluster.db import report
    from cluster.errors import UsageError

    if prefix is None:
        latest = report.runs_table(conn, 1)
        if not latest:
            raise UsageError("no run yet: start one with `rushes ingest PATH`")
        prefix = latest[0]["run_id"]
    found = report.find_run(conn, prefix)
    return {**found, "units": report.run_progress(conn, found["run_id"])}


def _run_line(found: dict[str, Any]) -> str:
    units = ", ".join(f"{count} {state}" for state, count in sorted(found["units"].items()))
    summary = found["summary"] or {}
    rate = f" · {summary['hours_per_hour']} h/h · {summary['ok']} ok · {summary['failed']} failed" if summary else ""
    return (
        f"run {found['run_id'][:8]} {found['state']}: {found['planned']} assets planned; units: {units or 'none'}{rate}"
    )


def _run_row(row: dict[str, Any]) -> list[Any]:
    from cluster.db.report import summary_time

    summary = row["summary"] or {}
    return [
        row["run_id"][:8], row["state"], summary_time(row["started_at"]), row["planned"],
        summary.get("ok", ""), summary.get("failed", ""),
    ]  # fmt: skip
