"""The one picture that a player shows at a time, as a whole image file; the reader's side and the caller's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from cluster.media.hashing import Stamp
from cluster.media.pictures import PictureSpec

if TYPE_CHECKING:
    from PIL.Image import Image

    from cluster.media.moving import Reel
    from cluster.media.places import Shown

FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
_QUALITY = {"JPEG": {"quality": 95, "subsampling": 0}, "PNG": {}}


@dataclass(frozen=True, slots=True, eq=False)
class Instant:
    """An image file, and the milliseconds from and until which its picture is shown; None for an image.

    `data` is None for a time at which nothing is shown any more.
    """

    data: bytes | None
    width: int
    height: int
    t_ms: int | None
    until_ms: int | None
    stamp: Stamp


def take_instant(path: str, asked: Mapping[str, Any], file: BinaryIO) -> dict[str, Any]:
    """The picture at `t_ms`, written to `file` as `format`; the fields of `Instant`, its bytes as their number.

    `kind` is that of the probe. `anchor` is a committed frame at or before the time, in the form of `pick`: the
    video is read from there when it is found there, else from its start. Raises as `take_still` and `take_moving`.
    """
    from cluster.media.stills import read_still

    if asked["kind"] == "image":
        picture, stamp = read_still(path)
        return {**_written(picture, asked["format"], file), "t_ms": None, "until_ms": None, "stamp": stamp}
    found = _at(path, asked, file, asked["anchor"]) if asked["anchor"] else None
    found = found or _at(path, asked, file, None)
    assert found is not None
    return found


def _at(path: str, asked: Mapping[str, Any], file: BinaryIO, anchor: Mapping[str, Any] | None) -> dict[str, Any] | None:
    from cluster.media.moving import open_reel

    with open_reel(path) as reel:
        all_shown = reel.shown() if anchor is None else shown_from(reel, anchor)
        if all_shown is None:
            return None
        last: Shown | None = None
        for last in all_shown:
            if last.until_ms > asked["t_ms"]:
                break
        if last is None:
            raise reel.nothing()
        told: dict[str, Any] = {"size": None, "width": 0, "height": 0}
        if last.until_ms > asked["t_ms"]:
            told = _written(reel.painter.picture(last.frame), asked["format"], file)
    return {**told, "t_ms": last.place.t_ms, "until_ms": last.until_ms, "stamp": reel.stamp}


def shown_from(reel: Reel, anchor: Mapping[str, Any]) -> Iterator[Shown] | None:
    """Every frame that is shown from the anchor on; None when it is not found where its timestamp says.

    Timestamps that were made good in the pass lead elsewhere or nowhere, and the picture there is another.
    """
    from itertools import chain

    from av import FFmpegError

    from cluster.media.places import Clock, shown

    try:
        reel.container.seek(anchor["pts"], stream=reel.track)
    except FFmpegError:
        return None
    decoded = reel.decode()
    for met in decoded:
        if met.pts is None or met.pts > anchor["pts"] or met.is_corrupt:
            return None
        if met.pts == anchor["pts"]:
            again = reel.keyframe(met, met.pts, anchor["t_ms"], anchor["shot"], PictureSpec())
            if again.phash.hex() != anchor["phash"]:
                return None
            return shown(chain([met], decoded), Clock(reel.container, reel.track))
    return None


def _written(picture: Image, form: str, file: BinaryIO) -> dict[str, Any]:
    picture.save(file, form, **_QUALITY[form])
    file.flush()
    return {"size": file.tell(), "width": picture.width, "height": picture.height}
