"""Comma-separated values (RFC 4180), one row a segment, harmless in a spreadsheet."""

from __future__ import annotations

import csv
import io

from cluster.conversation import Segment
from cluster.formats.model import Transcript, confidence, rounded

COLUMNS = (
    "asset", "sha256", "title", "channel", "idx", "start_ms", "end_ms", "local_speaker", "speaker", "method",
    "score", "text", "confidence", "text_skip_reason",
)  # fmt: skip
# What a spreadsheet may take for the beginning of a formula, and the mark itself, so that it can be taken off again.
_MARKED = tuple("=+-@\t\r\n'＝＋－＠")  # noqa: RUF001 - some spreadsheets take full-width forms for the same


def to_csv(transcript: Transcript) -> str:
    """A header and a row for each segment, worded or not.

    Text that a spreadsheet would take for a formula begins with an apostrophe; so does text that began
    with one already: without its first apostrophe every such cell reads as it was.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(value) for value in _row(transcript, segment)] for segment in transcript.segments)
    return out.getvalue()


def _row(transcript: Transcript, segment: Segment) -> tuple[str | float | None, ...]:
    who = transcript.who(segment)
    return (
        transcript.name, transcript.sha256, transcript.title, transcript.channel,
        segment.idx, segment.start_ms, segment.end_ms, who.local_speaker, who.shown, who.method, rounded(who.score),
        segment.text, confidence(segment), segment.text_skip_reason,
    )  # fmt: skip


def _cell(value: str | float | None) -> str | float | None:
    return f"'{value}" if isinstance(value, str) and value.startswith(_MARKED) else value
