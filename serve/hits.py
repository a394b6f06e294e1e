"""Hits of the corpus as they are answered: what was found, where to see and hear it."""

from __future__ import annotations

from typing import Any

from cluster.db import search as speech
from cluster.db.knn import Answer
from cluster.db.picture_search import PictureHit
from cluster.db.speakers.means import Ranked
from cluster.db.voice_search import VoiceHit
from cluster.words import short_uri
from serve.fields import clip_url, media_url
from serve.finding import Found, Hit, RankedSpeaker, clip_around, frame_url, matches_of, transcript_url


def found(answer: Answer[Any], hits: list[Hit], space_id: int | None, people: list[Ranked] | None = None) -> Found:
    """The body of an answer."""
    speakers = None if people is None else [
        RankedSpeaker(
            speaker_id=one.speaker.speaker_id, name=one.speaker.name, distance=one.distance, voices=one.voices
        )
        for one in people
    ]  # fmt: skip
    return Found(
        hits=hits,
        is_exact=answer.is_exact,
        ef_search=answer.ef_search,
        why_fewer=answer.why_fewer,
        space_id=space_id,
        speakers=speakers,
    )


def passage(hit: speech.Hit, query: str = "") -> Hit:
    """A passage of speech; `score` is the reranker's where it read it."""
    return _spoken(
        hit,
        matches=matches_of(hit.text, query),
        score=hit.score if hit.rerank_score is None else hit.rerank_score,
        vector_rank=hit.vector_rank,
        text_rank=hit.text_rank,
        rerank_score=hit.rerank_score,
    )


def voice(hit: VoiceHit) -> Hit:
    """A segment whose voice is like the one asked about."""
    return _spoken(hit, score=hit.similarity)


def _spoken(hit: speech.Hit | VoiceHit, **more: Any) -> Hit:
    values = {
        "sha256": hit.sha256,
        "source": short_uri(hit.uri),
        "media_kind": hit.media_kind,
        "start_ms": hit.start_ms,
        "end_ms": hit.end_ms,
        "text": hit.text,
        "speaker": hit.speaker,
        "speaker_id": hit.speaker_id,
        "similarity": hit.similarity,
        "media_url": f"{media_url(hit.sha256)}/original",
        "clip_url": clip_url(hit.sha256, hit.start_ms, hit.end_ms),
        "thumbnail_url": frame_url(hit.sha256, hit.start_ms) if hit.media_kind == "video" else None,
        "transcript_url": transcript_url(hit.sha256),
    }
    return Hit.model_validate({**values, **more})


def picture(hit: PictureHit) -> Hit:
    """A moment that is like what was asked for."""
    is_clip = hit.start_ms is not None and hit.end_ms is not None
    return Hit(
        sha256=hit.sha256,
        source=short_uri(hit.uri),
        media_kind=hit.media_kind,
        start_ms=hit.start_ms,
        end_ms=hit.end_ms,
        t_ms=hit.t_ms,
        score=hit.similarity if hit.similarity is not None else 1 - (hit.distance or 0) / 64,
        similarity=hit.similarity,
        hash_distance=hit.distance,
        copies=[short_uri(uri) for uri in hit.copies],
        media_url=f"{media_url(hit.sha256)}/original",
        clip_url=clip_around(hit.sha256, hit.t_ms, hit.start_ms or 0, hit.end_ms or 0) if is_clip else None,
        thumbnail_url=f"{media_url(hit.sha256)}/thumbnails/{hit.idx}.jpg",
    )
