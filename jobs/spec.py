"""What an actor needs to build its stages: small, JSON-able, the same for every runner."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self
from uuid import UUID

from actors.lanes import stages_for, whole_chain
from cluster.db.patience import Session
from cluster.db.spaces import DatabaseVoiceCache, get_space
from cluster.settings import Settings
from cluster.stage import Stage, check_columns
from cluster.types import ROW
from jobs.claim import Claim
from jobs.commit import Commit
from jobs.guard import CrashGuard

CHAIN = "actors.lanes:whole_chain"


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One run's constants.

    `spaces` maps a kind to the id of the space this run writes; `chain` is `module:function` of what makes its stages;
    without `downloads` an actor whose node lacks weights refuses to start.
    """

    run_id: str
    url: str
    settings: dict[str, Any]
    lanes: tuple[str, ...]
    prints: dict[str, str]
    spaces: dict[str, int]
    chain: str = CHAIN
    downloads: bool = True

    def to_json(self) -> str:
        """One line of JSON, small enough for a constructor argument."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        values: dict[str, Any] = json.loads(text)
        values["lanes"] = tuple(values["lanes"])
        return cls(**values)


def build_chain(spec: JobSpec, threads: int) -> tuple[list[Stage], CrashGuard]:
    """Claim, the stages of the wanted lanes, commit, and the guard around them; nothing is loaded.

    One session serves them all. Column algebra is checked.
    """
    settings, run_id = Settings.model_validate(spec.settings), UUID(spec.run_id)
    session = Session(spec.url, settings.database_wait_s)
    spaces = session.run(lambda conn: {kind: get_space(conn, number) for kind, number in spec.spaces.items()})
    cache = DatabaseVoiceCache(session, spaces["voice"]) if "voice" in spaces else None
    chain: list[Stage] = [
        Claim(session, run_id, spec.prints),
        *stages_for(
            _maker(spec.chain)(
                settings,
                voice_cache=cache,
                threads=threads,
                torch_threads=1 if "voices" in spec.lanes or "speech" in spec.lanes else threads,
            ),
            spec.lanes,
        ),
        Commit(session, run_id, spaces, settings.retry_base_s),
    ]
    check_columns(chain, ROW)
    return chain, CrashGuard(session, run_id, settings.stage_base_s, settings.stage_s_per_hour)


def _maker(chain: str) -> Callable[..., list[Stage]]:
    module, _, name = chain.partition(":")
    return getattr(importlib.import_module(module), name)


def chain_names(settings: Settings, lanes: Sequence[str]) -> list[str]:
    """The names of the stages between claim and commit, for the plan."""
    return [stage.name for stage in stages_for(whole_chain(settings), lanes)]
