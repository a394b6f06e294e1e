"""The engine of each role, as settings choose its model."""

from __future__ import annotations

import os

from actors.lanes import space_identities
from cluster.db.spaces import space_name
from cluster.settings import Settings
from serve.engines.base import Engine
from serve.engines.image import ImageEngine
from serve.engines.rerank import RerankEngine
from serve.engines.text import TextEngine
from serve.models import Role


def engine(role: Role, settings: Settings) -> Engine | None:
    """The engine of a role, unloaded; None where the profile has no such model."""
    if role == "audio":
        return audio_engine(settings)
    return {"text": text_engine, "image": image_engine, "reranker": rerank_engine}[role](settings)


def text_engine(settings: Settings) -> TextEngine:
    """The engine of the text role, which every profile has."""
    return TextEngine(settings.model_choice("text"), name_of_space(settings, "text"), threads_of(settings))


def image_engine(settings: Settings) -> ImageEngine | None:
    """The engine of the image role; None where it is off."""
    choice = settings.optional_choice("image")
    if choice is None:
        return None
    return ImageEngine(choice, name_of_space(settings, "image"), threads_of(settings), settings.decode_memory_bytes)


def rerank_engine(settings: Settings) -> RerankEngine | None:
    """The engine of the reranker; None where it is off."""
    choice = settings.optional_choice("reranker")
    return None if choice is None else RerankEngine(choice, threads_of(settings))


def audio_engine(settings: Settings) -> Engine:
    """The engine of recordings, over the models of transcriber, diarizer and voice."""
    from serve.engines.audio import AudioEngine

    return AudioEngine(settings, threads_of(settings))


def name_of_space(settings: Settings, kind: str) -> str:
    """The name of the space that these settings give vectors of this kind; see `cluster.db.spaces.space_name`."""
    choice, identity = space_identities(settings, [kind])[kind]
    return space_name(kind, choice, identity)


def threads_of(settings: Settings) -> int:
    """How many CPU threads a model may use."""
    return settings.cpus or len(os.sched_getaffinity(0))
