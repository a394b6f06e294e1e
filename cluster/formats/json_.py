"""JSON with everything: segments, words, times in milliseconds, confidence."""

from __future__ import annotations

import json
from typing import Any

from cluster.conversation import Segment
from cluster.formats.model import Transcript, confidence, rounded
from cluster.speakers.who import Who, tally


def to_json(transcript: Transcript) -> str:
    """The whole transcript; `confidence` is the mean word probability, null without words."""
    counts = tally(map(transcript.who, transcript.segments))
    content = {
        "name": transcript.name,
        "sha256": transcript.sha256,
        "title": transcript.title,
        "channel": transcript.channel,
        "duration_ms": transcript.duration_ms,
        "language": transcript.language,
        "speakers": [
            {"local_speaker": who.local_speaker, "name": who.shown, **_why(who), "segments": count}
            for who, count in counts.items()
        ],
        "segments": [_segment(transcript, segment) for segment in transcript.segments],
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _segment(transcript: Transcript, segment: Segment) -> dict[str, Any]:
    row = segment.to_row()
    words = row.pop("words")
    who = transcript.who(segment)
    return {
        **row,
        "local_speaker": who.local_speaker,
        "speaker": who.shown,
        **_why(who),
        "confidence": confidence(segment),
        "words": [
            {**word, "text": word["text"].strip(), "probability": round(word["probability"], 4)} for word in words
        ],
    }


def _why(who: Who) -> dict[str, Any]:
    return {"method": who.method, "score": rounded(who.score)}
