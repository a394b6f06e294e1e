"""The stage that joins words with turns into segments."""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa

from cluster.conversation import (
    MAX_PAUSE_MS,
    MAX_SEGMENT_MS,
    STRAY_GAP_MS,
    Turn,
    Word,
    segments_from_given,
    segments_from_turns,
    segments_from_utterances,
)
from cluster.errors import StageError
from cluster.types import with_column

Source = Literal["diarization", "whisper"]


class Segments:
    """Words with the diarizer's `turns`, or with the recogniser's own `utterances`, to `segments`.

    Turns that a person gave (`given_turns`) outdo both.
    """

    name = "segments"
    version = 1
    lanes = frozenset({"speech"})
    adds = ("segments",)

    def __init__(self, source: Source = "diarization") -> None:
        """`source` says which spans the segments follow: who speaks, or what the recogniser heard."""
        self.source = source
        self._spans = "turns" if source == "diarization" else "utterances"
        self._join = segments_from_turns if source == "diarization" else segments_from_utterances
        self.needs: tuple[str, ...] = ("words", self._spans, "given_turns")
        diarized = ("turns",) if source == "diarization" else ()
        self.drops: tuple[str, ...] = ("words", *diarized, "utterances", "speech")

    def identity(self) -> dict[str, Any]:
        """The source and the limits in milliseconds."""
        return {
            "source": self.source,
            "max_segment_ms": MAX_SEGMENT_MS,
            "max_pause_ms": MAX_PAUSE_MS,
            "stray_gap_ms": STRAY_GAP_MS,
        }

    def load(self) -> None:
        """Nothing to load."""

    def process(self, table: pa.Table) -> pa.Table:
        """Fill `segments`; a row without words or spans (null, not empty) raises `StageError`."""
        rows = range(table.num_rows)
        return with_column(table, "segments", [self._segments(table, row) for row in rows])

    def close(self) -> None:
        """Nothing to close."""

    def _segments(self, table: pa.Table, row: int) -> list[dict[str, Any]]:
        words = [Word.from_row(word) for word in _list(table, "words", row)]
        given = table.column("given_turns")[row].as_py()
        join = self._join if given is None else segments_from_given
        spans = _list(table, self._spans, row) if given is None else given
        return [segment.to_row() for segment in join([Turn.from_row(span) for span in spans], words)]


def _list(table: pa.Table, name: str, row: int) -> list[dict[str, Any]]:
    values = table.column(name)[row].as_py()
    if values is None:
        raise StageError(f"the row has no {name}: the stage that adds them left it null")
    return values
