"""What an actor needs to build its stages: small, JSON-able, the same for every runner."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self
from uuid import UUID

from actors.lanes import speech_chain, stages_for
from cluster.db.connect import open_connection
from cluster.db.patience import Session
from cluster.db.spaces import DatabaseVoiceCache, get_space
from cluster.settings import Settings
from cluster.stage import Stage, check_columns
from cluster.types import ROW
from jobs.claim import Claim
from jobs.commit import Commit
from jobs.guard import CrashGuard


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One run's constants. `spaces` maps a kind to the id of the space this run writes."""

    run_id: str
    url: str
    settings: dict[str, Any]
    lanes: tuple[str, ...]
    prints: dict[str, str]
    spaces: dict[str, int]

    def to_json(self) -> str:
        """One line of JSON, small enough for a constructor argument."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        values: dict[str, Any] = json.loads(text)
        values["lanes"] = tuple(values["lanes"])
        return cls(**values)


def settings_to_dict(settings: Settings) -> dict[str, Any]:
    """Settings without secrets: the database address travels by itself."""
    return settings.model_dump(mode="json", exclude={"database_url"})


def build_chain(spec: JobSpec, threads: int) -> list[Stage]:
    """Claim, the stages of the wanted lanes, commit; column algebra checked, nothing loaded."""
    settings = Settings.model_validate(spec.settings)
    with open_connection(spec.url) as conn:
        spaces = {kind: get_space(conn, space_id) for kind, space_id in spec.spaces.items()}
    run_id = UUID(spec.run_id)
    wait_s = settings.database_wait_s
    cache = DatabaseVoiceCache(spec.url, spaces["voice"], wait_s) if "voice" in spaces else None
    chain: list[Stage] = [
        Claim(spec.url, run_id, spec.prints, wait_s),
        *stages_for(speech_chain(settings, voice_cache=cache, threads=threads), spec.lanes),
        Commit(spec.url, run_id, spaces, wait_s, settings.retry_base_s),
    ]
    check_columns(chain, ROW)
    return chain


def build_guard(spec: JobSpec) -> CrashGuard:
    """What stands around the stages of a process that may die."""
    settings = Settings.model_validate(spec.settings)
    session = Session(spec.url, settings.database_wait_s)
    return CrashGuard(session, UUID(spec.run_id), settings.stage_base_s, settings.stage_s_per_hour)


def chain_names(settings: Settings, lanes: Sequence[str]) -> list[str]:
    """The names of the stages between claim and commit, for the plan."""
    return [stage.name for stage in stages_for(speech_chain(settings), lanes)]
