"""Search what was shown: by words or by a picture, through the model of the image space that search uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.db.knn import Answer, Scope
from cluster.db.picture_search import PictureHit, has_frames, search_by_hash, search_by_vector
from cluster.db.search import search_active
from cluster.db.spaces import Space
from cluster.errors import RushesError, StageError, UsageError, os_reason
from cluster.media.child import MediaChild
from cluster.media.pictures import PictureSpec
from cluster.media.query import NotAPictureError, query_pixels, query_row
from cluster.settings import Settings


def find_by_words(conn: Any, settings: Settings, text: str, scope: Scope, limit: int) -> Answer[PictureHit]:
    """The best `limit` moments that show what the words say; `RushesError` with the way out without image vectors."""

    def embed(space: Space) -> NDArray[np.float32]:
        with closing(_stage(space)) as stage:
            return stage.embed_query(text)

    hits = _by_vector(conn, embed, scope, limit)
    if hits is None:
        raise RushesError(_no_vectors(settings))
    return hits


def find_by_image(conn: Any, settings: Settings, path: Path, scope: Scope, limit: int) -> Answer[PictureHit]:
    """The best `limit` moments like the picture in this file: by its image vector, without a space by its hash.

    Raises `UsageError` for what is no picture that can be read.
    """
    if not has_frames(conn):
        raise RushesError("no picture is searchable yet: run `rushes ingest PATH` first")
    with closing(MediaChild(settings.decode_memory_bytes)) as child:

        def embed(space: Space) -> NDArray[np.float32]:
            return _embedded(child, path, space)

        hits = _by_vector(conn, embed, scope, limit)
        if hits is not None:
            return hits
        (frame,) = _told(path, lambda: query_row(child, path, PictureSpec())).column("frames")[0].as_py()
    if not frame["is_informative"]:
        raise UsageError(
            f"{path} is flat or black, so its hash is that of any such picture: give another, or set up image "
            "vectors (RUSHES_IMAGE_WEIGHTS)"
        )
    return search_by_hash(conn, frame["phash"], scope=scope, limit=limit)


def _by_vector(
    conn: Any, embed: Callable[[Space], NDArray[np.float32]], scope: Scope, limit: int
) -> Answer[PictureHit] | None:
    """Hits of the image space that search uses; None without one."""

    def search(space: Space) -> Answer[PictureHit]:
        return search_by_vector(conn, space, embed(space), scope=scope, limit=limit)

    return search_active(conn, "image", search)


def _stage(space: Space) -> Any:
    from actors.images import Images

    stage = Images(space.choice, threads=len(os.sched_getaffinity(0)))
    stage.load()
    return stage


def _embedded(child: MediaChild, path: Path, space: Space) -> NDArray[np.float32]:
    from cluster.image_model import pixel_spec

    rgb = _told(path, lambda: query_pixels(child, path, pixel_spec(space.choice)))
    with closing(_stage(space)) as stage:
        return stage.embed_pictures(rgb[None])[0]


def _told(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except OSError as error:
        raise UsageError(f"{path} cannot be opened: {os_reason(error)}") from error
    except NotAPictureError as error:
        way = "give a picture of it (`rushes frames save`)" if error.kind == "video" else "give a picture"
        raise UsageError(f"{path} holds {error.kind}, and --image takes a picture: {way}") from error
    except StageError as error:
        raise UsageError(f"{path} cannot be read as a picture: {error}") from error


def _no_vectors(settings: Settings) -> str:
    choice = settings.optional_choice("image")
    if choice is not None:
        return "no picture has an image vector yet: run `rushes ingest --lanes images PATH`; --image works without"
    return (
        f"profile {settings.profile_of('image')!r} has no image model, so pictures are not found by words: set "
        "RUSHES_IMAGE_PROFILE=speed, or RUSHES_IMAGE_WEIGHTS and RUSHES_IMAGE_ARCHITECTURE, and run "
        "`rushes ingest --lanes images PATH`; --image FILE finds pictures without a model"
    )
