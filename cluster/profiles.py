"""Profiles: which model serves which role.

Shipped profiles come from `profiles.toml`, a user's own from `[profiles.NAME.ROLE]` of the
settings file; both are then overridden field by field (`RUSHES_<ROLE>_<FIELD>`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from cluster.errors import UsageError
from cluster.image_model import described

ROLES = ("transcriber", "diarizer", "voice", "text")
# A profile that leaves such a role out has it off.
OPTIONAL_ROLES = ("reranker", "image", "shots")
ALL_ROLES = (*ROLES, *OPTIONAL_ROLES)
ENGINES: Mapping[str, tuple[str, ...]] = {
    "transcriber": ("faster-whisper",),
    "diarizer": ("bundled", "pyannote"),
    "voice": ("ge2e", "pyannote"),
    "text": ("sentence-transformers",),
    "reranker": ("cross-encoder",),
    "image": ("open_clip",),
    "shots": ("transnetv2",),
}
HALF = ("float16", "bfloat16")
TORCH_PRECISIONS = ("default", "float32", *HALF)
# What the transcriber can do depends on the device, so it says so when it loads.
PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "text": TORCH_PRECISIONS,
    "reranker": TORCH_PRECISIONS,
    "image": TORCH_PRECISIONS,
}
# What pictures are made in; open_clip has more.
RESIZES = ("shortest", "squash")
INTERPOLATIONS = ("bicubic", "bilinear")

Roles = Mapping[str, Mapping[str, Any]]


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
    architecture: str | None = None
    image_size: int = 224
    image_resize: Literal["shortest", "squash"] = "shortest"
    image_interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    batch_pixels: int = 64 * 224 * 224

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for the database."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; unknown keys of a newer version are ignored."""
        return cls(**{name: values[name] for name in FIELDS if name in values})


FIELDS = tuple(field.name for field in fields(ModelChoice))
SETTABLE = tuple(name for name in FIELDS if name not in ("role", "profile"))


@cache
def shipped() -> dict[str, dict[str, dict[str, Any]]]:
    """Profile name -> role -> fields, as shipped; not to be written to."""
    return tomllib.loads((Path(__file__).parent / "profiles.toml").read_text("utf-8"))


def profile_names(own: Mapping[str, Roles]) -> list[str]:
    """Every profile there is: the shipped ones, then the user's own."""
    return [*shipped(), *sorted(set(own) - set(shipped()))]


def choose(role: str, profile: str, overrides: Mapping[str, Any], own: Mapping[str, Roles]) -> ModelChoice:
    """The model choice of `role` under `profile`, the user's `own` profiles and `overrides`.

    An own profile may be partial: what it leaves out comes from the profile it `extends`
    (default `bundled`). Raises `UsageError` for an unknown profile, role, field or value, and for an
    optional role that is off.
    """
    values = _profile_values(role, profile, own, ())
    given = {name: value for name, value in overrides.items() if value is not None and name != "profile"}
    unknown = sorted((set(values) | set(given)) - set(SETTABLE))
    if unknown:
        raise UsageError(f"profile {profile!r}, role {role}: unknown field {unknown}; known: {list(SETTABLE)}")
    values |= given
    if role in OPTIONAL_ROLES:
        values.setdefault("engine", ENGINES[role][0])
    if "weights" not in values:
        raise UsageError(_off(role, profile))
    if role == "image":
        values = described(values)
    choice = ModelChoice(role=role, profile=profile, **values)
    check_choice(choice)
    return choice


def choose_optional(
    role: str, profile: str, overrides: Mapping[str, Any], own: Mapping[str, Roles]
) -> ModelChoice | None:
    """As `choose`; None for an optional role that profile and overrides leave off.

    An override that names a model in part is a mistake and raises `UsageError`: the role would be off in silence.
    """
    named = any(overrides.get(field) for field in ("weights", "engine", "architecture"))
    if role in OPTIONAL_ROLES and not named and not _profile_values(role, profile, own, ()):
        return None
    return choose(role, profile, overrides, own)


def check_choice(choice: ModelChoice) -> None:
    """Raise `UsageError` for an engine, a precision or a way to resize that the role does not have."""
    for field, value, known in (
        ("engine", choice.engine, ENGINES[choice.role]),
        ("precision", choice.precision, PRECISIONS.get(choice.role)),
        ("image_resize", choice.image_resize, RESIZES),
        ("image_interpolation", choice.image_interpolation, INTERPOLATIONS),
    ):
        if known is not None and value not in known:
            raise UsageError(
                f"no {choice.role} {field} {value!r} (profile {choice.profile!r}): set "
                f"RUSHES_{choice.role.upper()}_{field.upper()} to {' or '.join(known)}"
            )


def _profile_values(role: str, profile: str, own: Mapping[str, Roles], seen: tuple[str, ...]) -> dict[str, Any]:
    # An own profile may carry the name of a shipped one, and extend that.
    if profile in own and profile not in seen:
        values = {name: value for name, value in own[profile].get(role, {}).items() if value is not None}
        base = values.pop("extends", "bundled")
        return {**_profile_values(role, base, own, (*seen, profile)), **values}
    if profile in shipped():
        return dict(shipped()[profile].get(role, {}))
    if profile in seen:
        raise UsageError(f"the {role} profiles extend each other in a circle: {' > '.join((*seen, profile))}")
    raise UsageError(f"unknown profile {profile!r} for the {role}; known: {', '.join(sorted({*shipped(), *own}))}")


def _off(role: str, profile: str) -> str:
    if role in OPTIONAL_ROLES:
        model = role if role == "reranker" else f"{role} model"
        return f"profile {profile!r} has no {model}: set RUSHES_{role.upper()}_WEIGHTS or RUSHES_{role.upper()}_PROFILE"
    return f"profile {profile!r} names no {role} weights: add them to [profiles.{profile}.{role}] or choose another"
