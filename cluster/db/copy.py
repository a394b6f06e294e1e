"""Bulk writes: binary COPY into a staging table, then an ordered, idempotent INSERT ... SELECT.

COPY in text form is as slow as one INSERT per row for vectors, and concurrent upserts in different
orders deadlock; so rows always travel in binary and are always inserted in key order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, LiteralString

import psycopg
from psycopg import sql


def stage_rows(
    conn: psycopg.Connection[Any], name: str, columns: Mapping[str, LiteralString], rows: Iterable[Sequence[Any]]
) -> None:
    """Fill the temporary table `name` (column -> SQL type) with `rows`; emptied at commit.

    Vector columns are written as `vector`, whatever their dimension, and cast by the INSERT.
    """
    definition = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(kind)) for column, kind in columns.items()
    )
    conn.execute(
        sql.SQL("CREATE TEMP TABLE IF NOT EXISTS {} ({}) ON COMMIT DELETE ROWS").format(
            sql.Identifier(name), definition
        )
    )
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(name), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(list(columns.values()))
        for row in rows:
            copy.write_row(row)
