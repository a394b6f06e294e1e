"""The lanes as lists of stages: the one place that says what runs after what."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from actors.decode import Decode
from actors.diarize import Diarize
from actors.images import Images
from actors.pictures import Pictures
from actors.segments import Segments
from actors.speech_activity import SpeechActivity
from actors.texts import Texts
from actors.thumbnails import Thumbnails
from actors.transcribe import Transcribe
from actors.voices import Voices
from cluster.image_model import pixel_spec
from cluster.lanes import LANES, ROLE_OF_LANE, SPACE_OF_LANE
from cluster.lanes import fingerprints as lane_fingerprints
from cluster.media.node_cache import NodeCache
from cluster.media.pictures import PictureSpec
from cluster.ports import VoiceCache
from cluster.profiles import ModelChoice
from cluster.settings import Settings
from cluster.stage import Stage


def speech_chain(
    settings: Settings, *, voice_cache: VoiceCache | None = None, threads: int = 1, torch_threads: int = 1
) -> list[Stage]:
    """Every stage of the speech lane and its children, in order; constructors load nothing.

    `threads` go to the recogniser. Torch keeps one for the whole process where voices are computed: its
    recurrent voice encoder gains an eighth of wall time from a second thread and spends three quarters more CPU.
    """
    low, high = settings.speaker_bounds()
    diarizer = Diarize(settings.model_choice("diarizer"), low, high)
    chain: list[Stage] = [
        Decode(
            settings.decode_base_s,
            settings.decode_s_per_hour,
            settings.decode_memory_bytes,
            node_cache(settings),
        ),
        SpeechActivity(),
        Transcribe(settings.model_choice("transcriber"), settings.language, threads=threads),
        *([diarizer] if settings.segment_source == "diarization" else []),
        Segments(settings.segment_source),
        Voices(settings.model_choice("voice"), voice_cache),
        Texts(settings.model_choice("text"), threads=torch_threads),
    ]
    return chain


def frames_chain(settings: Settings, *, torch_threads: int = 1) -> list[Stage]:
    """Every stage of the frames lane and its child, in order; constructors load nothing."""
    image = settings.optional_choice("image")
    spec = PictureSpec(
        settings.min_frames_per_minute,
        settings.max_frames_per_minute,
        pixel_spec(image) if image is not None else None,
    )
    chain: list[Stage] = [
        Pictures(
            settings.pictures_base_s,
            settings.pictures_s_per_hour,
            settings.decode_memory_bytes,
            node_cache(settings),
            spec,
            settings.optional_choice("shots"),
        ),
        Thumbnails(settings.store_root()),
    ]
    return chain if image is None else [*chain, Images(image, threads=torch_threads)]


def whole_chain(
    settings: Settings, *, voice_cache: VoiceCache | None = None, threads: int = 1, torch_threads: int = 1
) -> list[Stage]:
    """The stages of every lane that is on: the chain of each root lane, one after the other."""
    return [
        *speech_chain(settings, voice_cache=voice_cache, threads=threads, torch_threads=torch_threads),
        *frames_chain(settings, torch_threads=torch_threads),
    ]


def lanes_on(settings: Settings) -> tuple[str, ...]:
    """The lanes that these settings have models for."""
    return tuple(
        lane for lane in LANES if lane not in ROLE_OF_LANE or settings.optional_choice(ROLE_OF_LANE[lane]) is not None
    )


def stages_for(chain: Iterable[Stage], lanes: Iterable[str]) -> list[Stage]:
    """The stages of the chain that serve any of `lanes`."""
    asked = set(lanes)
    return [stage for stage in chain if stage.lanes & asked]


def identities(chain: Iterable[Stage]) -> dict[str, list[dict[str, Any]]]:
    """Lane -> what its own stages are made of; a stage that serves parent and child counts in both."""
    found: dict[str, list[dict[str, Any]]] = {}
    for stage in chain:
        for lane in stage.lanes:
            found.setdefault(lane, []).append({"stage": stage.name, "version": stage.version, **stage.identity()})
    return found


def space_identities(
    settings: Settings, kinds: Iterable[str] = tuple(SPACE_OF_LANE.values())
) -> dict[str, tuple[ModelChoice, dict[str, Any]]]:
    """Kind of space -> the model choice and what else decides its vectors, under these settings."""
    chain = {stage.name: stage for stage in whole_chain(settings)}
    return {
        kind: (settings.model_choice(kind), {"version": _space_version(chain[lane]), **chain[lane].identity()})
        for lane, kind in SPACE_OF_LANE.items()
        if lane in chain and kind in kinds
    }


def _space_version(stage: Stage) -> int:
    """The stage's own word on when its vectors change; a stage without one has no output besides them."""
    return getattr(stage, "space_version", stage.version)


def stored_fingerprints(settings: Settings, speech: str, lane: str = "texts") -> dict[str, str]:
    """The fingerprint of a transcript, and that of a child lane of it under these settings."""
    return lane_fingerprints({lane: identities(speech_chain(settings))[lane]}, {"speech": speech})


def fingerprints(settings: Settings) -> dict[str, str]:
    """Lane that is on -> fingerprint under these settings."""
    found = lane_fingerprints(identities(whole_chain(settings)))
    return {lane: found[lane] for lane in lanes_on(settings)}


def cache_dir(settings: Settings) -> Path:
    """Where this node keeps copies of object-store content."""
    return settings.data_dir / "cache"


def node_cache(settings: Settings) -> NodeCache:
    """That folder, bounded in bytes."""
    return NodeCache(cache_dir(settings), settings.cache_bytes)
