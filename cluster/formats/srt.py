"""SubRip subtitles."""

from __future__ import annotations

from cluster.formats.cues import Cue, cues
from cluster.formats.model import Transcript, clock


def to_srt(transcript: Transcript) -> str:
    """The transcript as SubRip, with `Name: ` where somebody has one; empty when nobody said a word."""
    blocks = [_block(transcript, number, cue) for number, cue in enumerate(cues(transcript.segments), start=1)]
    return "\n".join(blocks)


def _block(transcript: Transcript, number: int, cue: Cue) -> str:
    # SubRip knows no escapes, and some players take any arrow for a timing line
    who = transcript.who(cue.segment)
    name = f"{who.shown}: " if who.is_named else ""
    text = (name + "\n".join(cue.lines)).replace("-->", "->")
    return f"{number}\n{clock(cue.start_ms, ',')} --> {clock(cue.end_ms, ',')}\n{text}\n"
