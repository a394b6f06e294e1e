"""`rushes search`: find what was said, and what was shown."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
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


def search(
    text: Annotated[
        str | None, typer.Argument(help="What to look for: words or a question.", show_default=False)
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", help="Look for what is like this picture.", show_default=False)
    ] = None,
    pictures: Annotated[bool, typer.Option("--pictures", help="Look for what was shown, by the words.")] = False,
    asset: Annotated[str | None, typer.Option(help="Only in this asset.", show_default=False)] = None,
    channel: Channels = None,
    tag: Tags = None,
    collection: Collections = None,
    speaker: Annotated[list[str] | None, typer.Option(help="Only while this person speaks; may be repeated.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="At most this many answers.")] = 5,
    rerank: Annotated[bool, typer.Option("--rerank", help="Let the profile's reranker order the best 100.")] = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """The passages that answer, with their times; meaning and words count together.

    With --pictures or --image the moments that show it: keyframes by their image vectors, a picture by its
    hash where there are none.
    """
    _check(text, image, pictures, rerank)
    scoped = (asset, asset_filter(channel, tag, collection), speaker or [])
    if image is not None or pictures:
        _show_pictures(config, text, image, scoped, limit, as_json)
        return
    assert text is not None
    choice = settings_from(config).model_choice("reranker") if rerank else None
    with corpus(config) as conn:
        scope = _scope(conn, *scoped)
        found = find(conn, text, scope, limit) if choice is None else find_reranked(conn, text, scope, limit, choice)
    if as_json:
        print_json([asdict(hit) for hit in found.hits])
        return
    for line in hit_lines(found.hits):
        typer.echo(line)
    _tell_few(found)


def _check(text: str | None, image: Path | None, pictures: bool, rerank: bool) -> None:
    from cluster.errors import UsageError

    if text is not None and image is not None:
        raise UsageError("words and --image exclude each other: give one to look for")
    if text is None and image is None:
        raise UsageError("nothing to search for: give some words, or --image FILE")
    if rerank and (pictures or image is not None):
        raise UsageError("--rerank reads passages of speech: leave it out with --pictures and --image")


def _tell_few(found: Any) -> None:
    if found.why_fewer:
        typer.echo(f"{len(found.hits)} answer(s): {found.why_fewer}")


def _show_pictures(
    config: Path | None, text: str | None, image: Path | None, scoped: tuple[Any, ...], limit: int, as_json: bool
) -> None:
    from cluster.media.blobs import blob_path
    from jobs.picture_search import find_by_image, find_by_words

    settings = settings_from(config)
    with corpus(config) as conn:
        scope = _scope(conn, *scoped)
        if image is not None:
            found = find_by_image(conn, settings, image, scope, limit)
        else:
            found = find_by_words(conn, settings, readable(text or ""), scope, limit)
    hits = found.hits
    paths = [blob_path(settings.store_root(), hit.thumbnail) for hit in hits]
    if as_json:
        print_json([{**asdict(hit), "thumbnail_path": path} for hit, path in zip(hits, paths, strict=True)])
        return
    for hit, path in zip(hits, paths, strict=True):
        for line in picture_lines(hit, path):
            typer.echo(line)
    _tell_few(found)


def _scope(conn: Any, asset: str | None, chosen: Any, speakers: list[str]) -> Any:
    from cluster.db.filter import scope_of
    from cluster.db.report import find_asset

    return scope_of(conn, chosen, speakers, [find_asset(conn, asset)["asset_id"]] if asset else None)


def find(conn: Any, text: str, scope: Any, limit: int) -> Any:
    """Hits of the active text space for `text` in the scope, None for all, embedded by that space's own model."""
    from cluster.db.knn import EVERYWHERE
    from cluster.db.search import search_active, search_chunks
    from cluster.errors import RushesError

    text = readable(text)

    def search(space: Any) -> Any:
        return search_chunks(conn, space, embed_query(space, text), text, scope=scope or EVERYWHERE, limit=limit)

    found = search_active(conn, "text", search)
    if found is None:
        raise RushesError("nothing is searchable yet: run `rushes ingest PATH` first")
    return found


def readable(text: str) -> str:
    """The words as a tokenizer takes them; `UsageError` when there are none."""
    from cluster.errors import UsageError

    if not text.strip():
        raise UsageError("nothing to search for: give some words")
    # What the terminal could not decode arrives as surrogates, which no tokenizer takes.
    return text if text.isprintable() else text.encode("utf-8", "replace").decode()


def find_reranked(conn: Any, text: str, scope: Any, limit: int, choice: Any) -> Any:
    """The best `limit` of the first hits, in the order of the cross-encoder `choice`."""
    from actors.rerank import Reranker
    from cluster.db.search import CANDIDATES

    reranker = Reranker(choice, threads=len(os.sched_getaffinity(0)))
    reranker.load()
    try:
        found = find(conn, text, scope, CANDIDATES)
        scores = reranker.score(text, [hit.text for hit in found.hits]).tolist()
    finally:
        reranker.close()
    scored = [replace(hit, rerank_score=score) for hit, score in zip(found.hits, scores, strict=True)]
    best = sorted(scored, key=lambda hit: -hit.rerank_score)[:limit]
    return replace(found, hits=best, why_fewer=found.why_fewer if len(best) < limit else None)


def embed_query(space: Any, text: str) -> Any:
    """The unit vector of a query in the space, shape (dimension,), float32."""
    from actors.texts import Texts

    stage = Texts(space.choice, threads=len(os.sched_getaffinity(0)))
    stage.load()
    try:
        return stage.embed_query(text)
    finally:
        stage.close()


def picture_lines(hit: Any, path: str) -> list[str]:
    """A moment as a place line, its thumbnail, and the copies that show it too."""
    why = f"{hit.similarity:.2f}" if hit.similarity is not None else f"{hit.distance} of 64 bits differ"
    place = short_uri(hit.uri)
    if hit.start_ms is not None:
        place += f" {clock(hit.t_ms)}, shot {clock(hit.start_ms)}-{clock(hit.end_ms)}"
    lines = [f"{place} ({why})", f"  {path}"]
    if hit.copies:
        lines.append(f"  also in {', '.join(map(short_uri, hit.copies))}")
    return lines


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
