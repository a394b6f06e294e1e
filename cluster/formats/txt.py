"""Plain text for reading."""

from __future__ import annotations

from cluster.conversation import Segment
from cluster.formats.model import Transcript, clock

LINE_MS = 60_000


def to_txt(transcript: Transcript) -> str:
    """`[HH:MM:SS] Name: text`, a new line for a new speaker and after a minute of one speaker."""
    return "".join(
        f"[{clock(group[0].start_ms)}] {transcript.speaker_name(group[0])}: "
        f"{' '.join(segment.text for segment in group)}\n"
        for group in _groups(transcript)
    )


def _groups(transcript: Transcript) -> list[list[Segment]]:
    groups: list[list[Segment]] = []
    for segment in (segment for segment in transcript.segments if segment.text):
        if not groups or not _goes_on(transcript, groups[-1][0], segment):
            groups.append([])
        groups[-1].append(segment)
    return groups


def _goes_on(transcript: Transcript, first: Segment, segment: Segment) -> bool:
    same = transcript.speaker_name(segment) == transcript.speaker_name(first)
    return same and segment.end_ms - first.start_ms <= LINE_MS
