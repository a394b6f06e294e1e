"""What a downloader noted about a recording: the `.info.json` of yt-dlp, as far as a corpus needs it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.errors import RushesError

SUFFIX = ".info.json"
MAX_BYTES = 64 * 2**20
TITLE_CHARS = 2_000
# The indexes over channels, tags and collections take entries of up to 2,700 bytes.
NAME_CHARS = 300
CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), " ")


@dataclass(frozen=True, slots=True)
class Info:
    """What is said of an asset beside what its content says; None and empty mean that nothing is."""

    title: str | None = None
    channel: str | None = None
    recorded_at: datetime | None = None
    tags: tuple[str, ...] = ()
    collections: tuple[str, ...] = ()


def sidecar_of(path: Path) -> Path:
    """Where the downloader puts the info of the recording at `path`: `NAME.info.json` beside `NAME.ext`."""
    return path.with_suffix(SUFFIX)


def read_info(path: Path) -> Info:
    """The info in the file; `RushesError` that names the file, the key and the value, `OSError` as it is."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise RushesError(f"{path} is larger than {MAX_BYTES >> 20} MiB: that is no {SUFFIX}")
    try:
        return parse_info(json.loads(content))
    except RecursionError as error:
        raise RushesError(f"{path}: nested too deeply to be read") from error
    except ValueError as error:
        what = "not JSON" if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) else "refused"
        raise RushesError(f"{path}: {what}: {error}") from error


def parse_info(values: Any) -> Info:
    """The info in the document; unknown keys and nulls count as absent, a wrong type is a `ValueError`."""
    if not isinstance(values, dict):
        raise ValueError(f"expected an object, got {type(values).__name__}")
    playlist = _text(values, "playlist_title")
    return Info(
        title=_text(values, "title", TITLE_CHARS),
        channel=_text(values, "channel") or _text(values, "uploader"),
        recorded_at=_when(values),
        tags=tuple(dict.fromkeys((*_texts(values, "tags"), *_texts(values, "categories")))),
        collections=(playlist,) if playlist else (),
    )


def clean(text: str) -> str:
    """The text on one line, without what PostgreSQL cannot hold or a terminal would obey."""
    return " ".join(text.translate(CONTROLS).encode("utf-8", "replace").decode().split())


def check_name(what: str, text: str, limit: int = NAME_CHARS) -> str:
    """`clean(text)`; `ValueError` when it is longer than the corpus takes."""
    cleaned = clean(text)
    if len(cleaned) > limit:
        raise ValueError(f"{what} has {len(cleaned)} characters, at most {limit} are taken")
    return cleaned


def _text(values: Mapping[str, Any], key: str, limit: int = NAME_CHARS) -> str | None:
    value = values.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{key} must be text, is {_shown(value)}")
    return check_name(key, value, limit) or None


def _texts(values: Mapping[str, Any], key: str) -> list[str]:
    value = values.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{key} must be a list of texts, is {_shown(value)}")
    return [name for name in (check_name(key, item) for item in value) if name]


def _when(values: Mapping[str, Any]) -> datetime | None:
    stamp, date = values.get("timestamp"), values.get("upload_date")
    if stamp is not None:
        if isinstance(stamp, bool) or not isinstance(stamp, int | float):
            raise ValueError(f"timestamp must be a number of seconds since 1970, is {_shown(stamp)}")
        try:
            return datetime.fromtimestamp(stamp, UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise ValueError(f"timestamp {_shown(stamp)} is no time") from error
    if date is None:
        return None
    try:
        if not isinstance(date, str) or len(date) != 8:
            raise ValueError
        return datetime.strptime(date, "%Y%m%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise ValueError(f"upload_date must be a date such as 20240309, is {_shown(date)}") from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
