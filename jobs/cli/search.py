"""`rushes search`: find what was said."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.cli.common import AsJson, Config, clock, corpus, print_json, short_uri


def search(
    text: Annotated[str, typer.Argument(help="What to look for: words or a question.")],
    asset: Annotated[str | None, typer.Option(help="Only in this asset.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="At most this many answers.")] = 5,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """The passages that answer, with their times; meaning and words count together."""
    with corpus(config) as conn:
        hits = find(conn, text, asset, limit)
    if as_json:
        print_json([asdict(hit) for hit in hits])
        return
    for line in hit_lines(hits):
        typer.echo(line)
    if len(hits) < limit:
        typer.echo(f"{len(hits)} answer(s): the corpus holds no more that match")


def find(conn: Any, text: str, asset: str | None, limit: int) -> list[Any]:
    """Hits of the active text space for `text`, embedded by that space's own model."""
    from cluster.db.report import find_asset
    from cluster.db.search import search_chunks
    from cluster.db.spaces import active_space
    from cluster.errors import RushesError, UsageError

    if not text.strip():
        raise UsageError("nothing to search for: give some words")
    space = active_space(conn, "text")
    if space is None:
        raise RushesError("nothing is searchable yet: run `rushes ingest PATH` first")
    asset_id = find_asset(conn, asset)["asset_id"] if asset else None
    vector = embed_query(space, text)
    return search_chunks(conn, space, vector, text, asset_id=asset_id, limit=limit)


def embed_query(space: Any, text: str) -> Any:
    """The unit vector of a query in the space, shape (dimension,), float32."""
    from actors.texts import Texts

    stage = Texts(space.choice, threads=len(os.sched_getaffinity(0)))
    stage.load()
    try:
        return stage.embed_query(text)
    finally:
        stage.close()


def hit_lines(hits: list[Any]) -> list[str]:
    """Each hit as a place line and its text."""
    lines = []
    for hit in hits:
        similarity = f"{hit.similarity:.2f}" if hit.similarity is not None else "words only"
        lines.append(f"{short_uri(hit.uri)} {clock(hit.start_ms)}-{clock(hit.end_ms)} ({similarity})")
        lines.append(f"  {hit.text}")
    return lines
