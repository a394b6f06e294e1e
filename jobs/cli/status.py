"""`rushes status`: what the corpus holds, how far the runs are."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli.common import (
    MOST_ROWS,
    AsJson,
    Config,
    corpus,
    print_json,
    print_table,
    settings_from,
    short_uri,
    table_lines,
)

LIVE_EVERY_S, LINE_EVERY_S = 2.0, 60.0
# A driver that lost its connection takes its lock back sooner, or its run is dead.
GONE_AFTER_S = 60.0


def status(
    run: Annotated[str | None, typer.Argument(help="A run id, or its first digits.", show_default=False)] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Renew until the run ends.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=MOST_ROWS, help="Assets to list.")] = 50,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """The corpus and its latest runs, or one run."""
    if watch:
        _watch_patiently(run, as_json, config)
        return
    with corpus(config) as conn:
        if run is None:
            _corpus(conn, settings_from(config), limit, as_json)
            return
        found = _view(conn, _chosen(conn, run))
    print_json(found) if as_json else print_lines(run_lines(found))


def _watch_patiently(run: str | None, as_json: bool, config: Path | None) -> None:
    """Watch a run for as long as it lasts: the database may restart meanwhile, as it may for the run."""
    from contextlib import closing

    from cluster.db.connect import database_errors
    from cluster.db.patience import Session
    from jobs.ingest import open_database

    settings = settings_from(config)
    database = open_database(settings)
    with database_errors(), closing(Session(database.url, settings.database_wait_s)) as session:
        chosen = session.run(lambda conn: _chosen(conn, run))
        _watch(lambda: session.run(lambda conn: _view(conn, chosen)), as_json)


def print_lines(lines: list[str]) -> None:
    """One after the other on standard output."""
    for line in lines:
        typer.echo(line)


def _chosen(conn: Any, prefix: str | None) -> str:
    from cluster.db import report
    from cluster.errors import UsageError

    if prefix is not None:
        return report.find_run(conn, prefix)["run_id"]
    latest = report.runs_table(conn, 10)
    if not latest:
        raise UsageError("no run yet: start one with `rushes ingest PATH`")
    return next((run for run in latest if run["state"] == "running"), latest[0])["run_id"]


def _view(conn: Any, run_id: str) -> dict[str, Any]:
    from cluster.db import progress, report

    return progress.run_view(conn, report.find_run(conn, run_id))


def _watch(look: Callable[[], dict[str, Any]], as_json: bool) -> None:
    """Renew a table on a terminal, print a line a minute elsewhere, and all of it when the run ends."""
    if sys.stdout.isatty() and not as_json:
        from rich.live import Live
        from rich.text import Text

        with Live(auto_refresh=False, transient=True) as live:
            last = _until_ended(look, lambda view: live.update(Text("\n".join(run_lines(view))), refresh=True), 0.0)
    else:
        last = _until_ended(look, lambda view: typer.echo(run_line(view), err=as_json), LINE_EVERY_S)
    print_json(last) if as_json else print_lines(run_lines(last))


def _until_ended(
    look: Callable[[], dict[str, Any]], show: Callable[[dict[str, Any]], None], every_s: float
) -> dict[str, Any]:
    shown = -every_s
    held = began = time.monotonic()
    while True:
        asked = time.monotonic()
        view, now = look(), time.monotonic()
        # While the database is away nobody holds anything.
        held = now if view["driver"] else held + now - asked
        if view["state"] != "running" or now - held > GONE_AFTER_S:
            return view
        if now - began - shown >= every_s:
            shown = now - began
            show(view)
        time.sleep(LIVE_EVERY_S)


def run_line(view: dict[str, Any]) -> str:
    """A run in one line: state, done of planned, failed, rates, time left."""
    ended = view["summary"] or {}
    counts = [f"{ended[name]} {name}" for name in ("ok", "failed", "skipped") if name in ended]
    parts = [f"{view['planned']} assets planned", *(counts or [f"{view['settled']} settled"]), *_rates(view)]
    return f"run {view['run_id'][:8]} {_state(view)}: {' · '.join(parts)}"


def run_lines(view: dict[str, Any]) -> list[str]:
    """A run as a table by lane, with rates, by node, what runs now, the slowest assets, the last failures."""
    lines = [run_line(view)]
    if view["lanes"]:
        header = ["lane", "done", "total", "running", "failed", "skipped", "to retry"]
        names = ("lane", "done", "total", "running", "failed", "skipped", "retrying")
        lines += [
            "",
            *table_lines(header, [["?" if row[n] is None else row[n] for n in names] for row in view["lanes"]]),
        ]
    if view["nodes"]:
        header = ["node", "at work", "oldest", "done", "failed", "h/h", "last sign"]
        lines += ["", *table_lines(header, [_node_row(node) for node in view["nodes"]])]
    if view["running"]:
        lines += ["", "running now:", *(f"  {_at_work(row)}" for row in view["running"])]
    if view["slowest"]:
        lines += ["", "slowest:", *(f"  {_slow(row)}" for row in view["slowest"])]
    if view["failures"]:
        lines += ["", "last failures:"]
        lines += [f"  {short_uri(r['uri'])}: {r['failure']} in {r['stage']}: {r['message']}" for r in view["failures"]]
    return lines


def _node_row(node: dict[str, Any]) -> list[Any]:
    from jobs.summary import duration

    oldest, quiet, rate = node["oldest_s"], node["quiet_s"], node["hours_per_hour"]
    return [
        node["node"], node["running"], "" if oldest is None else duration(oldest), node["done"], node["failed"],
        "" if rate is None else f"{rate:.1f}",
        ("long ago" if quiet is None else f"{duration(quiet)} ago") + (", silent" if node["is_silent"] else ""),
    ]  # fmt: skip


def _at_work(row: dict[str, Any]) -> str:
    from jobs.summary import duration

    where = f" on {row['node']}" if row["node"] else ""
    return f"{short_uri(row['name'])}: {', '.join(row['lanes'])} for {duration(row['for_s'])}{where}"


def _state(view: dict[str, Any]) -> str:
    return view["state"] if view["driver"] else "running, but its driver is gone (the next command takes it over)"


def _rates(view: dict[str, Any]) -> list[str]:
    from jobs.summary import duration

    running, parts = view["state"] == "running" and view["driver"], []
    if running and view["hours_per_hour_now"] is not None:
        parts.append(f"{view['hours_per_hour_now']:.1f} h/h now")
    if view["hours_per_hour"] is not None:
        parts.append(f"{view['hours_per_hour']:.1f} h/h overall")
    if running and view["eta_s"] is not None:
        parts.append(f"{duration(view['eta_s'])} left")
    return parts


def _slow(row: dict[str, Any]) -> str:
    return (
        f"{short_uri(row['name'])}: {row['x_realtime']:.1f}x realtime, {row['stage']} took "
        f"{row['stage_s']:.1f} of {row['seconds']:.1f} s"
    )


def _corpus(conn: Any, settings: Any, limit: int, as_json: bool) -> None:
    from actors.lanes import fingerprints
    from cluster.db import progress, report, spaces
    from cluster.db.speakers.who import with_voices

    totals, runs = report.totals(conn), report.runs_table(conn, 5)
    totals |= progress.source_counts(conn)
    lanes = progress.lane_table(conn, fingerprints(settings))
    listed = with_voices(conn, report.assets_table(conn, limit=limit))
    if as_json:
        print_json({"totals": totals, "lanes": lanes, "runs": runs, "assets": [plain(row) for row in listed]})
        return
    print_lines(corpus_lines(totals, lanes))
    for space in spaces.list_spaces(conn):
        mark = "active" if space.is_active else "kept"
        typer.echo(f"{space.kind} space {space.space_id}: {space.profile}, {space.dimension}-d, {mark}")
    if runs:
        typer.echo("")
        print_table(["run", "kind", "state", "started", "planned", "ok", "failed"], [_run_row(row) for row in runs])
    if listed:
        typer.echo("")
        print_assets(listed)


def corpus_lines(totals: dict[str, Any], lanes: list[dict[str, Any]]) -> list[str]:
    """What the corpus holds, and per lane what is done under the settings in force."""
    lines = [
        f"{totals['assets']} assets from {totals['sources']} sources, {totals['media_ms'] / 3_600_000:.2f} h, "
        f"{totals['images']} images; "
        f"{totals['segments']} segments, {totals['voices']} voices, {totals['chunks']} chunks, "
        f"{totals['frames']} frames"
    ]
    if totals["gone"]:
        lines.append(f"{totals['gone']} source(s) gone; {totals['vanished']} asset(s) without any source")
    if totals["assets"]:
        header = ["lane", "done", "pending", "running", "failed", "skipped", "total", "hours"]
        lines += ["", *table_lines(header, [_lane_row(row) for row in lanes]), ""]
    return lines


def _lane_row(row: dict[str, Any]) -> list[Any]:
    names = ("lane", "done", "pending", "running", "failed", "skipped", "total")
    return [*(row[name] for name in names), f"{row['done_ms'] / 3_600_000:.2f} of {row['total_ms'] / 3_600_000:.2f}"]


def print_assets(listed: list[dict[str, Any]]) -> None:
    """The table of assets with their segments per local speaker and their frames."""
    print_table(["asset", "source", "length", "lanes", "segments, frames"], [asset_row(row) for row in listed])


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """The row for JSON: its `speakers` are those of `voices`, each with its count of segments."""
    from dataclasses import asdict

    speakers = [{**asdict(who), "shown": who.shown, "segments": count} for who, count in row["voices"].items()]
    return {**{name: value for name, value in row.items() if name != "voices"}, "speakers": speakers}


def asset_row(row: dict[str, Any]) -> list[Any]:
    """One asset as table cells; failed or skipped ones say why."""
    what = "; ".join(part for part in (_heard(row), _seen(row["pictures"])) if part)
    return [row["sha256"][:8], source_cell(row), length_cell(row), lane_states(row["lanes"] or {}), what]


def _heard(row: dict[str, Any]) -> str:
    from cluster.speakers.counts import describe

    speech = (row["lanes"] or {}).get("speech")
    if row["voices"]:
        return describe(row["voices"])
    if row["media_kind"] == "image" and speech == "skipped" and row["pictures"]:
        return ""
    return row["reason"] or ("no speech" if speech == "done" else "")


def _seen(pictures: dict[str, Any] | None) -> str:
    if pictures is None:
        return ""
    size = f"{pictures['width']} x {pictures['height']}"
    return f"{pictures['frames']} frames, {pictures['shots']} shots, {size}" if pictures["shots"] else size


def length_cell(row: dict[str, Any]) -> str:
    """How long the asset is; `?` when nobody knows, `-` for an image."""
    from jobs.summary import duration

    if row["media_kind"] == "image":
        return "-"
    return duration(row["duration_ms"] / 1000) if row["duration_ms"] is not None else "?"


def source_cell(row: dict[str, Any]) -> str:
    """The asset's first source, how many more lead to it, and whether it vanished."""
    there = sum(source["gone_at"] is None for source in row["sources"])
    gone = len(row["sources"]) - there
    more = f" (+{there - 1} same)" if there > 1 else ""
    marks = " (vanished)" if not there else f" ({gone} gone)" if gone else ""
    return short_uri(row["uris"][0]) + more + marks


def lane_states(lanes: dict[str, str]) -> str:
    """`done` when every lane is that has something to do, `failed` when speech is and none is done; else by lane."""
    if not lanes:
        return "-"
    states = {state for state in lanes.values() if state != "skipped"} or {"skipped"}
    if lanes.get("speech") == "failed" and "done" not in states:
        return "failed"
    if len(states) == 1:
        return states.pop()
    return " ".join(f"{lane}:{state}" for lane, state in sorted(lanes.items()))


def _run_row(row: dict[str, Any]) -> list[Any]:
    from cluster.db.report import summary_time

    summary = row["summary"] or {}
    return [
        row["run_id"][:8], row["kind"], row["state"], summary_time(row["started_at"]), row["planned"],
        summary.get("ok", ""), summary.get("failed", ""),
    ]  # fmt: skip
