"""Profiles: which model serves which role.

Shipped profiles come from `profiles.toml`, a user's own from `[profiles.NAME.ROLE]` of the
settings file; both are then overridden field by field (`RUSHES_<ROLE>_<FIELD>`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from cluster.errors import UsageError

ROLES = ("transcriber", "diarizer", "voice", "text")


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """One role's model: where it lies and how it is run."""

    role: str
    profile: str
    engine: str
    weights: str
    dimension: int | None = None
    device: str = "auto"
    precision: str = "default"
    batch_size: int = 8
    beam_size: int = 5
    max_tokens: int = 256
    query_prefix: str = ""
    document_prefix: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for the database."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; unknown keys of a newer version are ignored."""
        return cls(**{name: values[name] for name in FIELDS if name in values})


FIELDS = tuple(field.name for field in fields(ModelChoice))
SETTABLE = tuple(name for name in FIELDS if name not in ("role", "profile"))


def shipped() -> dict[str, dict[str, dict[str, Any]]]:
    """Profile name -> role -> fields, as shipped."""
    return tomllib.loads((Path(__file__).parent / "profiles.toml").read_text("utf-8"))


def choose(
    role: str, profile: str, overrides: Mapping[str, Any], own: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> ModelChoice:
    """The model choice of `role` under `profile`, the user's `own` profiles and `overrides`.

    An own profile may be partial: what it leaves out comes from the profile it `extends`
    (default `bundled`). Raises `UsageError` for an unknown profile, role or field.
    """
    values = _profile_values(role, profile, {**shipped(), **own}, own)
    given = {name: value for name, value in overrides.items() if value is not None and name != "profile"}
    unknown = sorted((set(values) | set(given)) - set(SETTABLE))
    if unknown:
        raise UsageError(f"profile {profile!r}, role {role}: unknown field {unknown}; known: {list(SETTABLE)}")
    return ModelChoice(role=role, profile=profile, **{**values, **given})


def _profile_values(role: str, profile: str, known: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    if profile not in known:
        raise UsageError(f"unknown profile {profile!r} for the {role}; known: {', '.join(sorted(known))}")
    values = dict(known[profile].get(role, {}))
    base = values.pop("extends", "bundled")
    if profile in own and base != profile:
        values = {**_profile_values(role, base, known, {}), **values}
    if not values:
        raise UsageError(f"profile {profile!r} names no {role}: add [profiles.{profile}.{role}] or choose another")
    return values
