"""`rushes search`: find what was said."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer

from jobs.cli.common import (
    AsJson,
    Channels,
    Collections,
    Config,
    Tags,
    asset_filter,
    clock,
    corpus,
    print_json,
    settings_from,
    short_uri,
)

# A switch of profiles, then a `db gc` that drops the space of before: more often than so nobody switches.
MAX_SWITCHES = 5


def search(
    text: Annotated[str, typer.Argument(help="What to look for: words or a question.")],
    asset: Annotated[str | None, typer.Option(help="Only in this asset.", show_default=False)] = None,
    channel: Channels = None,
    tag: Tags = None,
    collection: Collections = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="At most this many answers.")] = 5,
    rerank: Annotated[bool, typer.Option("--rerank", help="Let the profile's reranker order the best 100.")] = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """The passages that answer, with their times; meaning and words count together."""
    choice = settings_from(config).model_choice("reranker") if rerank else None
    with corpus(config) as conn:
        scope = scope_of(conn, asset, asset_filter(channel, tag, collection))
        hits = find(conn, text, scope, limit) if choice is None else find_reranked(conn, text, scope, limit, choice)
    if as_json:
        print_json([asdict(hit) for hit in hits])
        return
    for line in hit_lines(hits):
        typer.echo(line)
    if len(hits) < limit:
        typer.echo(f"{len(hits)} answer(s): the corpus holds no more that match")


def scope_of(conn: Any, asset: str | None, chosen: Any) -> list[int] | None:
    """The assets to search in; None for all. Raises `UsageError` for a name that nothing has."""
    from cluster.db.filter import matching
    from cluster.db.report import find_asset

    named = [find_asset(conn, asset)["asset_id"]] if asset else None
    return matching(conn, chosen, named) if chosen else named


def find(conn: Any, text: str, asset_ids: list[int] | None, limit: int) -> list[Any]:
    """Hits of the active text space for `text`, in these assets or in all, embedded by that space's own model."""
    from cluster.db.search import SpaceGoneError, search_chunks
    from cluster.db.spaces import active_space
    from cluster.errors import RushesError, UsageError

    if not text.strip():
        raise UsageError("nothing to search for: give some words")
    if not text.isprintable():
        # What the terminal could not decode arrives as surrogates, which no tokenizer takes.
        text = text.encode("utf-8", "replace").decode()
    for _ in range(MAX_SWITCHES):
        space = active_space(conn, "text")
        if space is None:
            raise RushesError("nothing is searchable yet: run `rushes ingest PATH` first")
        vector = embed_query(space, text)
        with suppress(SpaceGoneError):
            return search_chunks(conn, space, vector, text, asset_ids=asset_ids, limit=limit)
    raise RushesError(f"the text space changed {MAX_SWITCHES} times during this search: search again")


def find_reranked(conn: Any, text: str, asset_ids: list[int] | None, limit: int, choice: Any) -> list[Any]:
    """The best `limit` of the first hits, in the order of the cross-encoder `choice`."""
    from actors.rerank import Reranker
    from cluster.db.search import CANDIDATES

    reranker = Reranker(choice, threads=len(os.sched_getaffinity(0)))
    reranker.load()
    try:
        hits = find(conn, text, asset_ids, CANDIDATES)
        scores = reranker.score(text, [hit.text for hit in hits]).tolist()
    finally:
        reranker.close()
    scored = [replace(hit, rerank_score=score) for hit, score in zip(hits, scores, strict=True)]
    return sorted(scored, key=lambda hit: -hit.rerank_score)[:limit]


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
        why = f"{hit.similarity:.2f}" if hit.similarity is not None else "words only"
        if hit.rerank_score is not None:
            why = f"{why}, reranked {hit.rerank_score:.3f}"
        lines.append(f"{short_uri(hit.uri)} {clock(hit.start_ms)}-{clock(hit.end_ms)} ({why})")
        lines.append(f"  {hit.speaker}: {hit.text}" if hit.speaker else f"  {hit.text}")
    return lines
