"""Rich Transcription Time Marked (NIST RT-09 evaluation plan, appendix A): who speaks when."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from cluster.conversation import UNKNOWN, Segment
from cluster.errors import RushesError
from cluster.formats.info_json import clean
from cluster.formats.model import Transcript

_SECONDS = re.compile(r"\d{1,9}(\.\d+)?|\.\d+")
# With or without the tenth field, the signal look-ahead time, which RT-09 added.
_FIELDS = (9, 10)
_NOBODY = ("<NA>", UNKNOWN)


@dataclass(frozen=True, slots=True)
class NamedTurn:
    """A span of one voice, as somebody wrote it down; `speaker` is None when unknown."""

    start_ms: int
    end_ms: int
    speaker: str | None


@dataclass(frozen=True, slots=True)
class Rttm:
    """The turns of each file id, sorted by (start, end), then as written; `ignored` counts lines of other types."""

    turns: dict[str, list[NamedTurn]]
    ignored: int


def to_rttm(transcript: Transcript) -> str:
    """One SPEAKER line per segment, worded or not; spaces in names become underscores."""
    return "".join(_line(transcript, segment) for segment in transcript.segments)


def file_id(name: str) -> str:
    """The asset's name as RTTM writes it."""
    return _token(name) or "unnamed"


def parse_rttm(lines: Iterable[str], place: str) -> Rttm:
    """The SPEAKER lines; times are rounded to milliseconds, `UNKNOWN` and `<NA>` are nobody's name.

    Raises `RushesError` that names `place`, the line and what is wrong with it.
    """
    turns: dict[str, list[NamedTurn]] = {}
    ignored = 0
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields or fields[0].startswith(";"):
            continue
        if fields[0] != "SPEAKER":
            ignored += 1
            continue
        try:
            named, turn = _parse(fields)
        except ValueError as error:
            raise RushesError(f"{place}, line {number}: {error}") from error
        turns.setdefault(named, []).append(turn)
    for found in turns.values():
        found.sort(key=lambda turn: (turn.start_ms, turn.end_ms))
    return Rttm(turns, ignored)


def _line(transcript: Transcript, segment: Segment) -> str:
    start, length = segment.start_ms / 1000, (segment.end_ms - segment.start_ms) / 1000
    name = _token(transcript.speaker_name(segment))
    return f"SPEAKER {file_id(transcript.name)} 1 {start:.3f} {length:.3f} <NA> <NA> {name} <NA> <NA>\n"


def _token(text: str) -> str:
    return "_".join(text.split())


def _parse(fields: list[str]) -> tuple[str, NamedTurn]:
    if len(fields) not in _FIELDS:
        raise ValueError(f"a SPEAKER line has 9 or 10 fields, this one {len(fields)}")
    start, length = (_seconds(what, text) for what, text in (("start", fields[3]), ("duration", fields[4])))
    start_ms, end_ms = round(start * 1000), round((start + length) * 1000)
    if end_ms <= start_ms:
        raise ValueError(f"duration {fields[4]!r} is shorter than a millisecond")
    speaker = _token(clean(fields[7]))
    return fields[1], NamedTurn(start_ms, end_ms, None if speaker in ("", *_NOBODY) else speaker)


def _seconds(what: str, text: str) -> Decimal:
    if not _SECONDS.fullmatch(text):
        raise ValueError(f"{what} {text!r} is not a number of seconds, 0 or more")
    return Decimal(text)
