"""JSON with everything: segments, words, times in milliseconds, confidence."""

from __future__ import annotations

import json
from typing import Any

from cluster.conversation import Segment, speaker_counts
from cluster.formats.model import Transcript, confidence


def to_json(transcript: Transcript) -> str:
    """The whole transcript; `confidence` is the mean word probability, null without words."""
    counts = speaker_counts(transcript.segments)
    content = {
        "name": transcript.name,
        "sha256": transcript.sha256,
        "title": transcript.title,
        "channel": transcript.channel,
        "duration_ms": transcript.duration_ms,
        "language": transcript.language,
        "speakers": [
            {"local_speaker": who, "name": transcript.speaker_name(who), "segments": count}
            for who, count in counts.items()
        ],
        "segments": [_segment(transcript, segment) for segment in transcript.segments],
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _segment(transcript: Transcript, segment: Segment) -> dict[str, Any]:
    row = segment.to_row()
    words = row.pop("words")
    return {
        **row,
        "speaker": transcript.speaker_name(segment.local_speaker),
        "confidence": confidence(segment),
        "words": [
            {**word, "text": word["text"].strip(), "probability": round(word["probability"], 4)} for word in words
        ],
    }
