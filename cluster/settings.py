"""Settings: flag > environment (`RUSHES_*`) > settings file (TOML) > default."""

from __future__ import annotations

import os
import tomllib
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from cluster.errors import UsageError
from cluster.profiles import ROLES, ModelChoice, choose

_named_config: ContextVar[Path | None] = ContextVar("named_config", default=None)


class RoleSettings(BaseModel):
    """What a user may override for one role; unset fields come from the profile."""

    model_config = ConfigDict(extra="forbid")

    profile: str | None = None
    engine: str | None = None
    weights: str | None = None
    dimension: int | None = Field(None, ge=1, le=4000)
    device: Literal["auto", "cpu", "cuda"] | None = None
    precision: str | None = None
    batch_size: int | None = Field(None, ge=1)
    beam_size: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=8)
    query_prefix: str | None = None
    document_prefix: str | None = None


def default_data_dir() -> Path:
    """Where a user's data lies by default, after the XDG base directory specification."""
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local/share")) / "rushes"


class Settings(BaseSettings):
    """Everything that decides what a run does; one instance per command."""

    model_config = SettingsConfigDict(
        env_prefix="RUSHES_", env_nested_delimiter="_", env_nested_max_split=1, extra="forbid"
    )

    data_dir: Path = Field(default_factory=default_data_dir)
    database_url: SecretStr | None = None
    profile: str = "bundled"
    transcriber: RoleSettings = Field(default_factory=RoleSettings)
    diarizer: RoleSettings = Field(default_factory=RoleSettings)
    voice: RoleSettings = Field(default_factory=RoleSettings)
    text: RoleSettings = Field(default_factory=RoleSettings)
    profiles: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict)

    segment_source: Literal["diarization", "whisper"] = "diarization"
    language: str | None = None
    num_speakers: int | None = Field(None, ge=1)
    min_speakers: int | None = Field(None, ge=1)
    max_speakers: int | None = Field(None, ge=1)

    decode_base_s: float = Field(60.0, gt=0)
    decode_s_per_hour: float = Field(600.0, gt=0)
    database_wait_s: float = Field(60.0, ge=0)
    decode_memory_bytes: int = Field(4 * 2**30, ge=2**28)
    stage_base_s: float = Field(600.0, gt=0)
    stage_s_per_hour: float = Field(18_000.0, gt=0)
    retry_base_s: float = Field(5.0, gt=0)
    runner: Literal["auto", "inline", "worker", "ray"] = "auto"
    cpus: int | None = Field(None, ge=1)
    worker_niceness: int = Field(0, ge=0, le=19)

    @classmethod
    def settings_customise_sources(  # noqa: D102 - pydantic-settings' own hook
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, _config_path()))

    def model_choice(self, role: str) -> ModelChoice:
        """The model of `role` after profile and overrides; raises `UsageError` for unknown names."""
        given: RoleSettings = getattr(self, role)
        profile = given.profile or (_embedding_profile() if role == "text" else None) or self.profile
        return choose(role, profile, given.model_dump(exclude_none=True), self.profiles)

    def speaker_bounds(self) -> tuple[int | None, int | None]:
        """Least and greatest number of speakers per asset; `num_speakers` sets both."""
        if self.num_speakers is not None:
            return self.num_speakers, self.num_speakers
        return self.min_speakers, self.max_speakers


def load_settings(config: Path | None = None, **flags: Any) -> Settings:
    """Settings from flags (None = not given), environment and file; `UsageError` names what is wrong."""
    given = {name: value for name, value in flags.items() if value is not None}
    token = _named_config.set(config)
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise UsageError(_explain(error)) from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"settings file {_config_path()}: {error}") from error
    finally:
        _named_config.reset(token)
    if settings.num_speakers is not None and (settings.min_speakers or settings.max_speakers):
        raise UsageError("--num-speakers and --min-speakers or --max-speakers exclude each other: give one kind")
    low, high = settings.speaker_bounds()
    if low is not None and high is not None and low > high:
        raise UsageError(f"--min-speakers {low} is greater than --max-speakers {high}")
    for role in ROLES:
        settings.model_choice(role)
    return settings


def _config_path() -> Path | None:
    named = _named_config.get() or os.environ.get("RUSHES_CONFIG")
    if named and not Path(named).is_file():
        raise UsageError(f"settings file {named} does not exist: check --config or RUSHES_CONFIG")
    if named:
        return Path(named)
    usual = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config")) / "rushes" / "rushes.toml"
    return usual if usual.is_file() else None


def _embedding_profile() -> str | None:
    return os.environ.get("EMBEDDING_PROFILE") or None


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        lines.append(f"setting {name}: {item['msg']} (got {item.get('input')!r})")
    return "; ".join(lines) + "; see docs/configuration.md"
