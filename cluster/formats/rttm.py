"""Rich Transcription Time Marked (NIST RT-09 evaluation plan, appendix A): who speaks when."""

from __future__ import annotations

from cluster.conversation import Segment
from cluster.formats.model import Transcript


def to_rttm(transcript: Transcript) -> str:
    """One SPEAKER line per segment, worded or not; spaces in names become underscores."""
    return "".join(_line(transcript, segment) for segment in transcript.segments)


def _line(transcript: Transcript, segment: Segment) -> str:
    file_id = _token(transcript.name) or "unnamed"
    start, length = segment.start_ms / 1000, (segment.end_ms - segment.start_ms) / 1000
    name = _token(transcript.speaker_name(segment.local_speaker))
    return f"SPEAKER {file_id} 1 {start:.3f} {length:.3f} <NA> <NA> {name} <NA> <NA>\n"


def _token(text: str) -> str:
    return "_".join(text.split())
