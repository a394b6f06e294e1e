"""`rushes images`: pictures that look alike, by the vectors of the image model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jobs.cli.common import (
    AsJson,
    Config,
    Limit,
    clock,
    corpus,
    print_json,
    print_table,
    settings_from,
    short_uri,
)

app = typer.Typer(help="Pictures that look alike: cluster them and see.", no_args_is_help=True, rich_markup_mode=None)


@app.command("cluster")
def cluster(
    again: Annotated[bool, typer.Option("--again", help="Decide everything anew, not only what is new.")] = False,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="With --again: least cosine with the leader; else as set.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be decided; write nothing.")] = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Put each picture into the cluster of the leader that it is most like, or let it lead one."""
    from contextlib import closing

    from cluster.db.connect import database_errors
    from cluster.db.patience import Session
    from cluster.errors import UsageError
    from jobs.ingest import open_database
    from jobs.visual import image_space

    if threshold is not None and not again:
        raise UsageError(
            "--threshold is for --again, which decides everything by one; RUSHES_VISUAL_THRESHOLD is for new pictures"
        )
    settings = settings_from(config)
    database = open_database(settings)
    with database_errors(), closing(Session(database.url, settings.database_wait_s)) as session:
        space = session.run(image_space)
        decided = (_decide_again if again else _decide)(
            session, space, settings.visual_threshold if threshold is None else threshold, dry_run
        )
    if as_json:
        print_json(decided)
        return
    typer.echo(_told(decided))
    if dry_run:
        typer.echo("dry run: nothing was written")
    elif threshold is not None and threshold != settings.visual_threshold:
        typer.echo(f"new pictures are decided by {settings.visual_threshold:g} still: RUSHES_VISUAL_THRESHOLD")


def _decide(session: Any, space: Any, threshold: float, dry_run: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from cluster.db.visual import waiting_frames
    from jobs.visual import cluster

    if dry_run:
        return {"waiting": len(session.run(lambda conn: waiting_frames(conn, space)))}
    return asdict(cluster(session, space, threshold))


def _decide_again(session: Any, space: Any, threshold: float, dry_run: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from cluster.db.visual import lead_all
    from jobs.visual import cluster_again

    if dry_run:
        found = session.run(lambda conn: lead_all(conn, space, threshold))
        return {"frames": len(found), "clusters": len({number for _, _, number, _ in found})}
    return asdict(cluster_again(session, space, threshold))


def _told(decided: dict[str, Any]) -> str:
    if "waiting" in decided:
        return f"{decided['waiting']} picture(s) to decide"
    if "joined" in decided:
        return f"{decided['joined']} picture(s) joined a cluster, {decided['led']} lead a new one"
    old = f"; {decided['kept']} kept their number, {decided['dropped']} old ones went" if "kept" in decided else ""
    return f"{decided['frames']} picture(s) in {decided['clusters']} cluster(s){old}"


@app.command("clusters")
def clusters(limit: Limit = 20, as_json: AsJson = False, config: Config = None) -> None:
    """The clusters, the one with most pictures first, each with the picture that stands for it."""
    from cluster.db.visual_cards import count_visual, visual_cards
    from jobs.visual import image_space

    root = settings_from(config).store_root()
    with corpus(config) as conn:
        space = image_space(conn)
        counts, cards = count_visual(conn, space), visual_cards(conn, space, limit)
    if as_json:
        print_json([_card(card, root) for card in cards])
        return
    if cards:
        rows = [
            [card.cluster_id, card.frames, card.assets, f"{card.least_similarity:.2f}", _place(card.picture)]
            for card in cards
        ]
        print_table(["cluster", "pictures", "assets", "least alike", "such as"], rows)
    typer.echo(
        f"{counts['frames']} picture(s) in {counts['clusters']} cluster(s), {counts['alone']} of them alone in theirs"
    )
    if len(cards) < counts["clusters"]:
        typer.echo(f"... and more: {len(cards)} of {counts['clusters']} shown; --limit")
    if counts["waiting"]:
        typer.echo(f"{counts['waiting']} picture(s) are not decided yet: rushes images cluster")


@app.command("show")
def show(
    cluster_id: Annotated[int, typer.Argument(metavar="CLUSTER", min=1, max=2**63 - 1, help="Its number.")],
    limit: Limit = 100,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """The pictures of a cluster, those most like its leader first, with their times and thumbnails."""
    from cluster.db.visual_cards import cluster_pictures, visual_cards
    from cluster.errors import UsageError
    from jobs.visual import image_space

    root = settings_from(config).store_root()
    with corpus(config) as conn:
        space = image_space(conn)
        cards = visual_cards(conn, space, 1, [cluster_id])
        if not cards:
            raise UsageError(f"there is no cluster {cluster_id}: see `rushes images clusters`")
        pictures = cluster_pictures(conn, space, cluster_id, limit)
    if as_json:
        print_json([_picture(picture, root) for picture in pictures])
        return
    for picture in pictures:
        typer.echo(f"{picture.similarity:.2f}  {_place(picture)}  {_picture(picture, root)['thumbnail']}")
    if len(pictures) < cards[0].frames:
        typer.echo(f"... and more: {len(pictures)} of {cards[0].frames} shown; --limit")


def _place(picture: Any) -> str:
    return short_uri(picture.asset) + (f" {clock(picture.t_ms)}" if picture.t_ms is not None else "")


def _picture(picture: Any, root: str) -> dict[str, Any]:
    from dataclasses import asdict

    from cluster.media.blobs import blob_path

    return {**asdict(picture), "thumbnail": blob_path(root, picture.thumbnail_sha256)}


def _card(card: Any, root: str) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(card), "picture": _picture(card.picture, root)}
