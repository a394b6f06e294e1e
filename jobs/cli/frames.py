"""`rushes frames`: the keyframes of an asset, and any picture of it as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli.common import AsJson, Config, clock, corpus, print_json, print_table, settings_from

app = typer.Typer(help="What is shown, and when: list it, save it.", no_args_is_help=True, rich_markup_mode=None)
Asset = Annotated[str, typer.Argument(help="Source path, its ending, or 8+ digits of the SHA-256.")]


@app.command("list")
def list_command(asset: Asset, as_json: AsJson = False, config: Config = None) -> None:
    """The keyframes of an asset: when, in which shot, and where the thumbnail lies."""
    from cluster.db.report import find_asset
    from cluster.db.visual_cards import list_frames
    from cluster.media.blobs import blob_path

    root = settings_from(config).store_root()
    with corpus(config) as conn:
        found = find_asset(conn, asset)
        frames = list_frames(conn, found["asset_id"])
    if not frames:
        _refuse(found, asset)
    listed = [{**frame, "thumbnail": blob_path(root, frame["thumbnail_sha256"])} for frame in frames]
    if as_json:
        print_json(listed)
        return
    print_table(["frame", "time", "shot", "", "thumbnail"], [_cells(frame) for frame in listed])


@app.command("save")
def save(
    asset: Asset,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .jpg or .png.")],
    time: Annotated[str, typer.Argument(help="Seconds, M:SS or H:MM:SS; an image needs none.")] = "0",
    config: Config = None,
) -> None:
    """Write the picture that a player shows at a time, in full size, decoded anew from the file."""
    from cluster.db.report import find_asset
    from cluster.errors import RushesError, StageError
    from jobs.cli.speakers.places import parse_time
    from jobs.instants import check_target, picture_at, write_whole

    settings, t_ms = settings_from(config), parse_time(time)
    check_target(output)
    with corpus(config) as conn:
        found = find_asset(conn, asset)
        if found["media_kind"] not in ("image", "video"):
            _refuse(found, asset)
        try:
            picture = picture_at(conn, settings, found, t_ms, output)
        except (StageError, OSError) as error:
            raise RushesError(f"{asset}: {getattr(error, 'strerror', None) or error}") from error
    assert picture.data is not None
    write_whole(output, picture.data)
    shown = "" if picture.t_ms is None else f", shown from {picture.t_ms / 1000:.3f} s"
    typer.echo(f"{output}: {picture.width} x {picture.height}{shown}")


def _cells(frame: dict[str, Any]) -> list[Any]:
    shot = "-"
    if frame["shot"] is not None:
        shot = f"{frame['shot']}: {clock(frame['shot_start_ms'])}-{clock(frame['shot_end_ms'])}"
    flat = "" if frame["is_informative"] else "flat"
    return [frame["idx"], f"{frame['t_ms'] / 1000:.3f}", shot, flat, frame["thumbnail"]]


def _refuse(found: dict[str, Any], asset: str) -> None:
    from cluster.errors import RushesError

    if found["media_kind"] == "audio":
        raise RushesError(f"{asset} is sound alone: it has no frames")
    if found["media_kind"] is None:
        raise RushesError(f"{asset} could not be read, so it has no frames: see `rushes failures show {asset}`")
    raise RushesError(f"{asset} has no frames yet: `rushes ingest --lanes frames` makes them")
