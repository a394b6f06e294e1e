"""Whose voice it is, as a client says it: the same decisions as on the command line, and no model is asked."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from actors.lanes import stored_fingerprints
from cluster.db.assets import shas_and_names
from cluster.db.local_voices import has_local_voices
from cluster.db.spaces import active_space
from cluster.db.speakers.actions import Voice, label, look
from cluster.db.speakers.cards import Card, cluster_cards
from cluster.db.speakers.events import Target, point_at
from cluster.db.speakers.names import similar_names
from cluster.db.speakers.pointing import point_at_cluster, point_at_voice
from cluster.db.stored import lacks_child
from cluster.settings import Settings
from cluster.words import short_uri
from serve.decided import Decided, Person, decided, one_decision
from serve.errors import ConflictError, NotFoundError
from serve.fields import Asked, Id, Millis, PersonName, Sha, clip_url
from serve.lookups import asset_ids

Version = Field(
    None, min_length=1, max_length=64, description="The cluster's `version` as it was seen: 409 if changed."
)


class Label(Asked):
    """Whose voice it is: a name or `nobody`, and an asset (with the time when the voice speaks) or a cluster."""

    name: PersonName | None = None
    nobody: bool = Field(False, description="Nobody known speaks there; the machine is not asked again.")
    asset: Sha | None = None
    at_ms: Millis | None = Field(None, description="When the voice speaks; not needed where an asset has one voice.")
    only_segment: bool = Field(False, description="What is said at that time only, not the whole voice.")
    cluster_id: Id | None = None
    version: str | None = Version
    seen_speaker_id: Id | None = Field(None, description="Who it was when it was looked at, null for unknown: 409 if "
                                       "it is somebody else now. Left out: not compared.")  # fmt: skip
    dry_run: bool = False

    @model_validator(mode="after")
    def _one_of(self) -> Label:
        if (self.name is None) != self.nobody:
            raise ValueError("give a name, or nobody: true")
        if (self.asset is None) == (self.cluster_id is None):
            raise ValueError("give an asset, or a cluster_id")
        if self.cluster_id is not None and (self.nobody or self.only_segment or self.at_ms is not None):
            raise ValueError("a cluster_id is named as a whole: leave out nobody, at_ms and only_segment")
        if self.cluster_id is None and self.version is not None:
            raise ValueError("version is that of a cluster: leave it out with an asset")
        if self.at_ms is None and (self.nobody or self.only_segment):
            raise ValueError("nobody and only_segment need at_ms, when that voice speaks")
        return self


class Before(Person):
    """Who the voice was before, and by what: human, cluster or knn."""

    method: str | None


class LabelledAt(BaseModel):
    """The segment that was pointed at."""

    sha256: str
    source: str
    start_ms: int
    end_ms: int
    scope: Literal["segment", "speaker"]
    local_speaker: int | None
    clip_url: str


class Voices(BaseModel):
    """Whether the asset lacks voices, without which its name recognises nobody elsewhere, and the job that extracts."""

    missing: bool
    job_id: str | None = None
    job_url: str | None = None
    note: str | None = None


class Labelled(Decided):
    """What followed from a label; `alike` are other names spelled much the same."""

    place: LabelledAt
    before: Before | None
    alike: list[str]
    voices: Voices


def write_label(conn: Any, settings: Settings, asked: Label, author: str) -> Labelled:
    """Do what was asked, in one transaction. Raises `NotFoundError`, `ConflictError` for what changed meanwhile."""

    def work() -> Labelled:
        target = _target(conn, asked)
        seen = _seen(conn, target, asked)
        alike = [] if asked.name is None else similar_names(conn, asked.name)
        found = decided(
            conn, lambda: label(conn, asked.name, [target], author), author, [target], dry_run=asked.dry_run
        )
        return Labelled(
            **dict(found),
            place=_place(conn, target, seen),
            before=_before(seen),
            alike=alike,
            voices=Voices(missing=_lacks_voices(conn, settings, target.asset_id)),
        )

    return one_decision(conn, work)


def card_of(conn: Any, cluster_id: int, version: str | None = None) -> Card:
    """The cluster of the active space; `NotFoundError` without it, `ConflictError` when `version` is another's."""
    space = active_space(conn, "voice")
    cards = [] if space is None else cluster_cards(conn, space, 1, [cluster_id])
    if not cards:
        raise NotFoundError(f"there is no cluster {cluster_id}", param="cluster_id")
    if version is not None and cards[0].version != version:
        raise ConflictError(
            f"cluster {cluster_id} changed since it was looked at: nothing was changed, look again", param="version"
        )
    return cards[0]


def _target(conn: Any, asked: Label) -> Target:
    if asked.cluster_id is not None:
        card_of(conn, asked.cluster_id, asked.version)
        return point_at_cluster(conn, asked.cluster_id)
    [asset_id] = asset_ids(conn, [asked.asset or ""])
    name = short_uri(shas_and_names(conn, [asset_id])[asset_id][1])
    if asked.at_ms is None:
        return point_at_voice(conn, asset_id, name)
    return point_at(conn, asset_id, name, asked.at_ms, "segment" if asked.only_segment else "speaker")


def _seen(conn: Any, target: Target, asked: Label) -> Voice:
    """Whose voice it is now; `ConflictError` when the client saw somebody else, unless it is whom it names."""
    voice = look(conn, [target]).voices[target]
    if "seen_speaker_id" not in asked.model_fields_set:
        return voice
    now = None if voice.speaker is None else voice.speaker.speaker_id
    if now != asked.seen_speaker_id and (voice.speaker is None or voice.speaker.name != asked.name):
        who = voice.speaker.name if voice.speaker else "unknown"
        raise ConflictError(
            f"somebody else decided about this voice meanwhile: it is {who} now; nothing was changed, look again",
            param="seen_speaker_id",
        )
    return voice


def _before(voice: Voice) -> Before | None:
    who = voice.speaker
    return None if who is None else Before(speaker_id=who.speaker_id, name=who.name, method=voice.method)


def _lacks_voices(conn: Any, settings: Settings, asset_id: int) -> bool:
    """Whether there is a transcript and no voice at all; those made under other settings do."""
    return not has_local_voices(conn, asset_id) and lacks_child(
        conn, asset_id, "voices", lambda speech: stored_fingerprints(settings, speech, "voices")["voices"]
    )


def _place(conn: Any, target: Target, voice: Voice) -> LabelledAt:
    sha256, name = shas_and_names(conn, [target.asset_id])[target.asset_id]
    return LabelledAt(
        sha256=sha256,
        source=short_uri(name),
        start_ms=target.start_ms,
        end_ms=target.end_ms,
        scope=target.scope,
        local_speaker=voice.local_speaker,
        clip_url=clip_url(sha256, target.start_ms, target.end_ms),
    )
