"""`rushes db`: the schema and whether the corpus adds up."""

from __future__ import annotations

import typer

from jobs.cli.common import AsJson, Config, corpus, print_json, settings_from

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
