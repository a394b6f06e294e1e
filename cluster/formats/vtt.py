"""WebVTT subtitles with voices (W3C WebVTT, section 4: syntax)."""

from __future__ import annotations

import html

from cluster.formats.cues import Cue, cues
from cluster.formats.model import Transcript, clock


def to_vtt(transcript: Transcript) -> str:
    """The transcript as WebVTT, each cue in the voice of its speaker (`<v Name>`)."""
    return "\n".join(["WEBVTT\n", *(_block(transcript, cue) for cue in cues(transcript.segments))])


def _block(transcript: Transcript, cue: Cue) -> str:
    name = html.escape(transcript.speaker_name(cue.segment), quote=False)
    text = html.escape("\n".join(cue.lines), quote=False)
    return f"{clock(cue.start_ms, '.')} --> {clock(cue.end_ms, '.')}\n<v {name}>{text}</v>\n"
