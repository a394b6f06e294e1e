"""Shots, keyframes and hashes of a video in one pass, and single frames again by their timestamps.

Runs inside the media child, never in the caller's process.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from cluster.errors import BadMediaError
from cluster.media.cuts import ContentCuts, Cuts, GivenCuts
from cluster.media.hashing import Stamp
from cluster.media.keyframes import Choice
from cluster.media.look import hash_of, pixels, thumbnail
from cluster.media.pictures import TINY_SHAPE, Keyframe, PictureSpec, Sink, require_room
from cluster.media.places import Clock, Shown, shown, time_base
from cluster.media.probe import best_video, open_media
from cluster.media.reading import Damage, frames, only
from cluster.media.shown import Painter, require_size

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

SAMPLE_MS = 500
# Timestamps cost nothing to write: a few hundred kilobytes can claim weeks, and each half second a hash.
SAMPLED_MS = 48 * 3_600_000


@dataclass(slots=True, eq=False)
class Reel:
    """The moving pictures of one open file."""

    path: str
    container: InputContainer
    track: VideoStream
    damage: Damage
    painter: Painter
    stamp: Stamp
    _looked: tuple[int, tuple[bytes, bool]] | None = None

    def decode(self) -> Iterator[VideoFrame]:
        """Every frame from where the file is read now."""
        return frames(self.container, self.track, self.damage)

    def shown(self) -> Iterator[Shown]:
        """Every frame that is shown, from the start of the file."""
        return shown(self.decode(), Clock(self.container, self.track))

    def look(self, frame: VideoFrame, pts: int) -> tuple[bytes, bool]:
        """Hash and whether it is informative; the last one is kept, which a sample and a keyframe may share."""
        if self._looked is None or self._looked[0] != pts:
            self._looked = pts, hash_of(self.painter.grey(frame))
        return self._looked[1]

    def keyframe(self, frame: VideoFrame, pts: int, t_ms: int, shot: int | None, spec: PictureSpec) -> Keyframe:
        """All that is kept of one frame."""
        phash, informative = self.look(frame, pts)
        picture = self.painter.picture(frame)
        num, den = time_base(self.track).as_integer_ratio()
        return Keyframe(
            shot,
            pts,
            (num, den),
            t_ms,
            phash,
            informative,
            thumbnail(picture),
            pixels(picture, spec.pixels) if spec.pixels else None,
        )

    def nothing(self) -> BadMediaError:
        """What to say of a stream without any frame."""
        why = f": {self.damage.last}" if self.damage.last else ""
        return BadMediaError(f"no picture could be decoded from stream {self.track.index}{why}")


@contextmanager
def open_reel(path: str) -> Iterator[Reel]:
    """Open the video stream that `probe` names; `BadMediaError` when there is none."""
    with open_media(path) as (container, stamp):
        track = best_video(container)
        if track is None:
            raise BadMediaError("it holds no moving pictures")
        require_size(track.width or 1, track.height or 1)
        only(container, track)
        damage = Damage(path)
        yield Reel(path, container, track, damage, Painter(track), stamp)
        damage.settle()


def take_moving(
    path: str, spec: PictureSpec, numbers: Sequence[int] | None, file: BinaryIO, limit_bytes: int
) -> dict[str, Any]:
    """Everything about a video in one pass, written to `file`; the answer is for `read_row`.

    `numbers` are the frames that begin shots; None looks for them. Raises `BadMediaError` when nothing could
    be decoded and `MediaResourceError` when the pictures would take more than `limit_bytes`.
    """
    sink = Sink(file, limit_bytes, spec.pixels)
    with open_reel(path) as reel:
        cuts = ContentCuts(reel.painter) if numbers is None else GivenCuts(numbers)
        found = _pass(reel, spec, cuts, sink)
    return {**sink.finish(*found), **_about(reel)}


def take_tiny(path: str, file: BinaryIO, limit_bytes: int) -> dict[str, Any]:
    """Every frame that is shown at 48 x 27, uint8 RGB, written to `file`; bounded as the pictures are."""
    count = 0
    with open_reel(path) as reel:
        for one in reel.shown():
            count += 1
            require_room(count * math.prod(TINY_SHAPE), limit_bytes)
            file.write(reel.painter.tiny(one.frame).tobytes())
        if not count:
            raise reel.nothing()
    return {"count": count, **_about(reel)}


def pick_moving(
    path: str, spec: PictureSpec, wanted: Sequence[Mapping[str, Any]], file: BinaryIO, limit_bytes: int
) -> dict[str, Any]:
    """Single frames again, by the timestamps and hashes of an earlier pass, written to `file`.

    Each is sought from the key frame before it; a stream that cannot be sought is decoded from its start.
    Raises `BadMediaError` when a frame is not there.
    """
    ordered = sorted(wanted, key=lambda frame: frame["pts"])
    with open_reel(path) as reel:
        found = _seek_all(reel, spec, ordered)
    left = [frame for frame in ordered if frame["idx"] not in found]
    if left:
        with open_reel(path) as reel:
            found |= _meet_all(reel, spec, left)
    sink = Sink(file, limit_bytes, spec.pixels)
    for frame in sorted(wanted, key=lambda frame: frame["idx"]):
        if frame["idx"] not in found:
            raise BadMediaError(f"the frame at {frame['t_ms']} ms (pts {frame['pts']}) is no longer found in it")
        sink.add(found[frame["idx"]], frame["idx"])
    return {**sink.finish(), **_about(reel)}


def _pass(
    reel: Reel, spec: PictureSpec, cuts: Cuts, sink: Sink
) -> tuple[tuple[int, int], list[tuple[int, int]], list[tuple[int, bytes]]]:
    starts_ms: list[int] = []
    samples: list[tuple[int, bytes]] = []
    size, end_ms = None, 0
    choice = Choice(spec, lambda one, shot, flat: _render(reel, one, shot, flat, spec), sink.add)
    for one in reel.shown():
        size = size or reel.painter.size(one.frame)
        starts = cuts.starts_shot(one.frame, one.place)
        if starts:
            starts_ms.append(one.place.t_ms)
        choice.add(one, starts)
        samples += _samples(reel, one, starts_ms[-1] if starts_ms else 0)
        end_ms = one.until_ms
    if size is None:
        raise reel.nothing()
    choice.finish(end_ms / 1000)
    return size, list(zip(starts_ms, [*starts_ms[1:], end_ms], strict=True)), samples


def _render(reel: Reel, one: Shown, shot: int, even_flat: bool, spec: PictureSpec) -> Keyframe | None:
    if not even_flat and not reel.look(one.frame, one.place.pts)[1]:
        # black is looked at twice a second, and a look costs less than its thumbnail and pixels
        return None
    return reel.keyframe(one.frame, one.place.pts, one.place.t_ms, shot, spec)


def _samples(reel: Reel, one: Shown, since_ms: int) -> list[tuple[int, bytes]]:
    """The hash of a frame at each half second since the cut at which it is the one shown, none if it says nothing.

    Counted from the cut, a copy that lacks a beginning is sampled at the same pictures. None after `SAMPLED_MS`.
    """
    first_ms = since_ms - (since_ms - one.place.t_ms) // SAMPLE_MS * SAMPLE_MS
    times = range(first_ms, min(one.until_ms, SAMPLED_MS), SAMPLE_MS)
    if not times:
        return []
    phash, informative = reel.look(one.frame, one.place.pts)
    return [(at, phash) for at in times] if informative else []


def _seek_all(reel: Reel, spec: PictureSpec, wanted: Sequence[Mapping[str, Any]]) -> dict[int, Keyframe]:
    """Those of `wanted` (in order of time) that are found behind the key frame before them."""
    from av import FFmpegError

    found: dict[int, Keyframe] = {}
    reached: int | None = None
    for frame in wanted:
        try:
            reel.container.seek(frame["pts"], stream=reel.track)
        except FFmpegError:
            return found
        for met in reel.decode():
            if met.pts is None or (reached is not None and met.pts <= reached):
                # it leads back to where decoding has been: from the start is cheaper
                return found
            if met.pts >= frame["pts"]:
                _keep(reel, met, frame, spec, found)
                break
        reached = frame["pts"]
    return found


def _meet_all(reel: Reel, spec: PictureSpec, wanted: Sequence[Mapping[str, Any]]) -> dict[int, Keyframe]:
    """Those of `wanted` that are met in a whole pass."""
    found: dict[int, Keyframe] = {}
    left = {frame["pts"]: frame for frame in wanted}
    for one in reel.shown():
        frame = left.pop(one.place.pts, None)
        if frame is not None:
            found[frame["idx"]] = reel.keyframe(one.frame, frame["pts"], frame["t_ms"], frame["shot"], spec)
        if not left:
            break
    return found


def _keep(reel: Reel, met: VideoFrame, frame: Mapping[str, Any], spec: PictureSpec, found: dict[int, Keyframe]) -> None:
    """Keep a frame that was sought when it is the one: a decoder may show rubbish right after a jump."""
    if met.pts is None or met.pts != frame["pts"] or met.is_corrupt:
        return
    again = reel.keyframe(met, met.pts, frame["t_ms"], frame["shot"], spec)
    named = frame["thumbnail_sha256"]
    if again.phash.hex() == frame["phash"] and named in (None, hashlib.sha256(again.thumbnail).hexdigest()):
        found[frame["idx"]] = again


def _about(reel: Reel) -> dict[str, Any]:
    return {"skipped_packets": reel.damage.packets, "stamp": reel.stamp}
