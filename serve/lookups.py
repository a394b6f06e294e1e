"""What a client names by id or SHA-256, as the corpus has it; what it has not is told as 404."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cluster.db.assets import ids_by_sha256, read_asset
from cluster.db.speakers.names import Speaker, root_of, speaker_by_id
from cluster.errors import UsageError
from serve.errors import ApiError, NotFoundError


def asset_ids(conn: Any, shas: Sequence[str], param: str = "asset") -> list[int]:
    """The assets of these contents, in this order; `NotFoundError` names one that is not there."""
    found = ids_by_sha256(conn, shas)
    for sha256 in shas:
        if sha256 not in found:
            raise NotFoundError(f"no asset has the SHA-256 {sha256}", param=param)
    return [found[sha256] for sha256 in shas]


def asset_of(conn: Any, sha256: str) -> dict[str, Any]:
    """What is known of the asset of this content, as `read_asset` gives it; `NotFoundError` when there is none."""
    found = read_asset(conn, sha256)
    if found is None:
        raise NotFoundError(f"no asset has the SHA-256 {sha256}", param="sha256")
    return found


def person(conn: Any, speaker_id: int, param: str = "speaker_id") -> Speaker:
    """The person of this id; `NotFoundError` says into whom another one was merged."""
    found = speaker_by_id(conn, speaker_id)
    if found is not None:
        return found
    root = root_of(conn, Speaker(speaker_id, ""))
    merged = speaker_by_id(conn, root.speaker_id)
    what = f": merged into {merged.name}, speaker {merged.speaker_id}" if merged is not None else ""
    raise NotFoundError(f"there is no speaker {speaker_id}{what}", param=param)


@contextmanager
def refused_as(kind: type[ApiError], param: str | None = None) -> Iterator[None]:
    """A request that the corpus refuses is this error; elsewhere it would be 422."""
    try:
        yield
    except UsageError as error:
        raise kind(str(error), param=param) from error
