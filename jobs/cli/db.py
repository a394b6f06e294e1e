"""`rushes db`: the schema and whether the corpus adds up."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jobs.cli.common import AsJson, Config, Yes, confirm, corpus, print_json, print_table, settings_from

app = typer.Typer(help="The database: schema and soundness.", no_args_is_help=True, rich_markup_mode=None)


@app.command("migrate")
def migrate_schema(config: Config = None) -> None:
    """Bring the schema up to date."""
    from cluster.db.connect import find_database
    from cluster.db.migrate import migrate

    with find_database(settings_from(config)).connect() as conn:
        done = migrate(conn)
    for migration in done:
        typer.echo(f"applied {migration.version:04} {migration.name}")
    if not done:
        typer.echo("the schema is up to date")


@app.command("status")
def schema_status(as_json: AsJson = False, config: Config = None) -> None:
    """Where the database is, its versions and migrations."""
    from cluster.db.connect import describe_url, find_database
    from cluster.db.migrate import applied, pending

    database = find_database(settings_from(config))
    with database.connect() as conn:
        row = conn.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
        found = {
            "database": describe_url(database.url),
            "embedded": database.embedded,
            "postgresql": conn.info.server_version // 10_000,
            "pgvector": row[0] if row else None,
            "applied": sorted(applied(conn)),
            "pending": [migration.version for migration in pending(conn)],
        }
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        typer.echo(f"{name}: {value}")


@app.command("check")
def check(as_json: AsJson = False, config: Config = None) -> None:
    """Count what does not add up; exit 1 if anything does not."""
    from cluster.db.check import check_corpus

    with corpus(config) as conn:
        found = check_corpus(conn)
    if as_json:
        print_json(found)
    else:
        for name, count in found.items():
            typer.echo(f"{'ok' if count == 0 else f'{count} WRONG'}: {name}")
    raise typer.Exit(1 if any(found.values()) else 0)


@app.command("index")
def build_indexes(as_json: AsJson = False, config: Config = None) -> None:
    """Build the vector indexes that are missing; small spaces need none."""
    from cluster.db.spaces import INDEX_FROM_ROWS, count_vectors, ensure_index, list_spaces

    with corpus(config) as conn:
        rows = []
        for space in list_spaces(conn):
            is_indexed = ensure_index(conn, space)
            if space.kind == "image":
                ensure_index(conn, space, space.leaders_table)
            vectors = count_vectors(conn, space)
            rows.append({"space": space.space_id, "kind": space.kind, "vectors": vectors, "index": is_indexed})
    if as_json:
        print_json(rows)
        return
    for row in rows:
        state = "indexed" if row["index"] else f"searched exactly (an index pays off from {INDEX_FROM_ROWS} vectors)"
        typer.echo(f"{row['kind']} space {row['space']}: {row['vectors']} vectors, {state}")


@app.command("recall")
def recall(
    kind: Annotated[str | None, typer.Option(help="Only spaces of text, voice or image.", show_default=False)] = None,
    queries: Annotated[int, typer.Option(min=1, max=10_000, help="So many stored vectors ask.")] = 100,
    k: Annotated[int, typer.Option("-k", min=1, max=500, help="For so many nearest ones.")] = 10,
    target: Annotated[float, typer.Option(min=0.0, max=1.0, help="Recall that searches are to have.")] = 0.95,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and tell; set nothing.")] = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Measure what vector searches find of what is there, and set how many candidates they keep to reach the target."""
    from dataclasses import asdict

    from cluster.db.recall import keep_recall, measure_recall
    from cluster.db.spaces import OWNER, list_spaces
    from cluster.errors import UsageError

    if kind is not None and kind not in OWNER:
        raise UsageError(f"--kind {kind!r} is no kind of space: there are {', '.join(sorted(OWNER))}")
    found = []
    with corpus(config) as conn:
        for space in list_spaces(conn):
            if kind in (None, space.kind):
                found.append(measure_recall(conn, space, queries=queries, k=k, target=target))
                if not dry_run:
                    keep_recall(conn, found[-1])
    if as_json:
        print_json([asdict(one) for one in found])
        return
    for one in found:
        for line in _recall_lines(one, dry_run):
            typer.echo(line)
    if not found:
        typer.echo("there is no space yet: `rushes ingest PATH` makes them")


def _recall_lines(found: Any, dry_run: bool) -> list[str]:
    name = f"{found.kind} space {found.space_id}: {found.vectors} vectors"
    if found.exact_ms is None:
        return [f"{name}, nothing to measure"]
    if found.is_exact:
        return [f"{name}, searched exactly, without an index (all compared: {found.exact_ms:.1f} ms)"]
    lines = [f"{name}, recall@{found.k} of {found.queries} of them (all compared: {found.exact_ms:.1f} ms)"]
    for one in found.curve:
        times = f"p50 {one.p50_ms:.1f} ms, p95 {one.p95_ms:.1f} ms"
        lines.append(f"  ef_search {one.ef_search:>3}: {one.recall:.3f}, {times}")
    what = f"searches {'would keep' if dry_run else 'keep'} {found.ef_search} candidates"
    if not found.reaches:
        what += f": none of these reaches {found.target:g}"
    return [*lines, f"  {what}"]


@app.command("gc")
def collect(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; drop nothing.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Drop retired spaces, what old settings left, and thumbnails and copies of content that nothing needs."""
    from contextlib import closing

    from cluster.db.connect import database_errors
    from cluster.db.patience import Session
    from cluster.errors import UsageError
    from jobs.gc import survey, sweep
    from jobs.ingest import open_database
    from jobs.summary import size

    settings = settings_from(config)
    database = open_database(settings)
    with database_errors(), closing(Session(database.url, settings.database_wait_s)) as session:
        unneeded = survey(session, settings)
        if as_json and (dry_run or not unneeded):
            print_json(_unneeded_dict(unneeded))
        elif not as_json:
            _print_unneeded(unneeded)
        if dry_run or not unneeded:
            return
        if as_json and not yes:
            raise UsageError("--json asks nobody: add --yes to drop this, or --dry-run to look")
        if not confirm("Drop all this?", yes):
            raise typer.Exit(1)
        swept = sweep(session, settings, unneeded)
    if as_json:
        print_json({**_unneeded_dict(unneeded), "swept": _swept_dict(swept)})
        return
    for name in swept.left:
        typer.echo(f"left: {name} is in use by now")
    typer.echo(
        f"freed {size(swept.database_freed_bytes)} in the database, {size(swept.copies_freed_bytes)} of copies and "
        f"{size(swept.thumbnails_freed_bytes)} in the store"
    )


def _print_unneeded(unneeded: Any) -> None:
    from jobs.summary import size

    if not unneeded:
        typer.echo("nothing to drop")
        return
    rows = [[f.what, f.name, f"{f.rows} rows", size(f.size_bytes or None)] for f in unneeded.found]
    if unneeded.copies:
        rows.append(
            ["copies", "of content no source needs", f"{len(unneeded.copies)} files", size(unneeded.copies_bytes)]
        )
    if unneeded.thumbnails:
        count = f"{len(unneeded.thumbnails)} files"
        rows.append(["thumbnails", "of no frame", count, size(unneeded.thumbnails_bytes)])
    print_table(["what", "which", "how many", "size"], rows)


def _unneeded_dict(unneeded: Any) -> dict[str, Any]:
    found = [{"what": f.what, "which": f.name, "rows": f.rows, "bytes": f.size_bytes} for f in unneeded.found]
    return {
        "found": found, "copies": len(unneeded.copies), "copies_bytes": unneeded.copies_bytes,
        "thumbnails": len(unneeded.thumbnails), "thumbnails_bytes": unneeded.thumbnails_bytes,
    }  # fmt: skip


def _swept_dict(swept: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(swept)
