"""Settings: flag > environment (`RUSHES_*`) > settings file (TOML) > default."""

from __future__ import annotations

import os
import tomllib
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from cluster.errors import UsageError
from cluster.hardware import parse_nodes
from cluster.media.remote import refuse_secrets
from cluster.profiles import ALL_ROLES, ModelChoice, choose, choose_optional

_named_config: ContextVar[Path | None] = ContextVar("named_config", default=None)


class ModelFields(BaseModel):
    """What a model choice is made of; unset fields come from elsewhere."""

    model_config = ConfigDict(extra="forbid")

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
    architecture: str | None = None
    image_size: int | None = Field(None, ge=16, le=1024)
    image_resize: Literal["shortest", "squash"] | None = None
    image_interpolation: Literal["bicubic", "bilinear"] | None = None
    batch_pixels: int | None = Field(None, ge=1)


class RoleSettings(ModelFields):
    """What a user may override for one role; unset fields come from the profile."""

    profile: str | None = None


class OwnProfile(ModelFields):
    """One role of a profile of the user's own; unset fields come from the profile it extends."""

    extends: str | None = None


class ServeSettings(BaseModel):
    """What the service offers and how much it takes on; `RUSHES_SERVE_<FIELD>`."""

    model_config = ConfigDict(extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    models: tuple[Literal["text", "image", "reranker", "audio"], ...] = ("text", "image", "reranker", "audio")
    gpu_share: float = Field(0.25, ge=0, le=1)
    max_replicas: int = Field(1, ge=1)
    connections: int = Field(8, ge=1, le=64)
    in_flight: int = Field(2048, ge=1)
    max_items: int = Field(2048, ge=1)
    max_body_bytes: int = Field(32 * 2**20, ge=1024)
    max_audio_bytes: int = Field(512 * 2**20, ge=1024)
    max_audio_s: float = Field(10_800.0, gt=0)
    timeout_s: float = Field(60.0, gt=0)
    audio_timeout_s: float = Field(1_800.0, gt=0)

    @field_validator("models", mode="before")
    @classmethod
    def _listed(cls, models: Any) -> Any:
        """`text,audio` in an environment variable."""
        return [name.strip() for name in models.split(",") if name.strip()] if isinstance(models, str) else models


class GroupSettings(BaseModel):
    """One line of a plan: stages that share an actor, on every node that has room; unset fields are planned."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    stages: tuple[str, ...] = Field(min_length=1)
    actors: int | None = Field(None, ge=1)
    gpu_share: float | None = Field(None, ge=0, le=1)
    cpus: float | None = Field(None, gt=0)
    threads: int | None = Field(None, ge=1)


class PlanSettings(BaseModel):
    """What a person decides of the plan: its groups, the nodes asked of a cluster, prices per node and hour."""

    model_config = ConfigDict(extra="forbid")

    groups: tuple[GroupSettings, ...] = ()
    nodes: str | None = None
    prices: dict[str, Annotated[float, Field(ge=0, lt=1e9)]] = Field(default_factory=dict)

    @field_validator("nodes")
    @classmethod
    def _known(cls, nodes: str | None) -> str | None:
        """A cluster that is asked for nodes has read every source by then."""
        try:
            if nodes is not None:
                parse_nodes(nodes)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return nodes


def default_data_dir() -> Path:
    """Where a user's data lies by default, after the XDG base directory specification."""
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local/share")) / "rushes"


class Settings(BaseSettings):
    """Everything that decides what a run does; one instance per command."""

    model_config = SettingsConfigDict(
        env_prefix="RUSHES_", env_nested_delimiter="_", env_nested_max_split=1, extra="forbid"
    )

    data_dir: Path = Field(default_factory=default_data_dir)
    store: str | None = None
    database_url: SecretStr | None = None
    database_url_file: Path | None = None
    cache_bytes: int = Field(100 * 2**30, ge=2**20)
    profile: str = "bundled"
    transcriber: RoleSettings = Field(default_factory=RoleSettings)
    diarizer: RoleSettings = Field(default_factory=RoleSettings)
    voice: RoleSettings = Field(default_factory=RoleSettings)
    text: RoleSettings = Field(default_factory=RoleSettings)
    reranker: RoleSettings = Field(default_factory=RoleSettings)
    image: RoleSettings = Field(default_factory=RoleSettings)
    shots: RoleSettings = Field(default_factory=RoleSettings)
    profiles: dict[
        str, dict[Literal["transcriber", "diarizer", "voice", "text", "reranker", "image", "shots"], OwnProfile]
    ] = Field(default_factory=dict)

    segment_source: Literal["diarization", "whisper"] = "diarization"
    language: str | None = None
    num_speakers: int | None = Field(None, ge=1)
    min_speakers: int | None = Field(None, ge=1)
    max_speakers: int | None = Field(None, ge=1)
    identify: bool = False
    min_frames_per_minute: float = Field(6.0, gt=0, le=60)
    max_frames_per_minute: float = Field(20.0, gt=0, le=600)
    visual_threshold: float = Field(0.72, ge=0, le=1)

    decode_base_s: float = Field(60.0, gt=0)
    decode_s_per_hour: float = Field(600.0, gt=0)
    pictures_base_s: float = Field(60.0, gt=0)
    pictures_s_per_hour: float = Field(7_200.0, gt=0)
    database_wait_s: float = Field(60.0, ge=0)
    decode_memory_bytes: int = Field(4 * 2**30, ge=2**28)
    stage_base_s: float = Field(600.0, gt=0)
    stage_s_per_hour: float = Field(18_000.0, gt=0)
    retry_base_s: float = Field(5.0, gt=0)
    runner: Literal["auto", "inline", "worker", "ray"] = "auto"
    cpus: int | None = Field(None, ge=1)
    worker_niceness: int = Field(0, ge=0, le=19)
    serve: ServeSettings = Field(default_factory=ServeSettings)
    plan: PlanSettings = Field(default_factory=PlanSettings)

    @classmethod
    def settings_customise_sources(  # noqa: D102 - pydantic-settings' own hook
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_path()))

    @field_validator("store")
    @classmethod
    def _same_everywhere(cls, store: str | None) -> str | None:
        """An actor's working folder is another than that of the command."""
        return store if not store or "://" in store else str(Path(store).expanduser().absolute())

    def store_root(self) -> str:
        """Where thumbnails lie: a local folder or an object-store address."""
        return self.store or str(self.data_dir.absolute() / "store")

    def model_choice(self, role: str) -> ModelChoice:
        """The model of `role` after profile and overrides; raises `UsageError` for unknown names."""
        return choose(*self._asked(role))

    def optional_choice(self, role: str) -> ModelChoice | None:
        """The model of `role`, None for a role that is off."""
        return choose_optional(*self._asked(role))

    def own_profiles(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Name -> role -> fields of the user's own profiles."""
        return {
            name: {role: fields.model_dump(exclude_none=True) for role, fields in roles.items()}
            for name, roles in self.profiles.items()
        }

    def profile_of(self, role: str) -> str:
        """The name of the profile that `role` follows."""
        given: RoleSettings = getattr(self, role)
        return given.profile or self.profile

    def following(self, role: str, profile: str) -> Settings:
        """These settings with `role` under another profile; what is overridden by hand stays."""
        return self.model_copy(update={role: getattr(self, role).model_copy(update={"profile": profile})})

    def _asked(self, role: str) -> tuple[str, str, dict[str, Any], dict[str, dict[str, dict[str, Any]]]]:
        given: RoleSettings = getattr(self, role)
        return role, self.profile_of(role), given.model_dump(exclude_none=True), self.own_profiles()

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
    except SettingsError as error:
        # It names the field, and says nothing of the value.
        raise UsageError(f"{error}: its variable holds no JSON; see docs/configuration.md") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"settings file {config_path()}: {error}") from error
    finally:
        _named_config.reset(token)
    if settings.database_url is None and settings.database_url_file is not None:
        settings.database_url = _read_secret(settings.database_url_file)
    if settings.store is not None:
        refuse_secrets(settings.store)
    # Into the settings, because actors on other nodes do not see this environment.
    settings.text.profile = settings.text.profile or os.environ.get("EMBEDDING_PROFILE") or None
    if settings.num_speakers is not None and (settings.min_speakers or settings.max_speakers):
        raise UsageError("--num-speakers and --min-speakers or --max-speakers exclude each other: give one kind")
    low, high = settings.speaker_bounds()
    if low is not None and high is not None and low > high:
        raise UsageError(f"--min-speakers {low} is greater than --max-speakers {high}")
    if settings.min_frames_per_minute > settings.max_frames_per_minute:
        raise UsageError(
            f"min_frames_per_minute {settings.min_frames_per_minute} is greater than max_frames_per_minute "
            f"{settings.max_frames_per_minute}"
        )
    for role in ALL_ROLES:
        settings.optional_choice(role)
    return settings


def _read_secret(path: Path) -> SecretStr:
    try:
        text = path.expanduser().read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"database_url_file {path}: {reason}; it holds the address of the database alone") from error
    if not text:
        raise UsageError(f"database_url_file {path} is empty: it holds the address of the database alone")
    return SecretStr(text)


def settings_to_dict(settings: Settings) -> dict[str, Any]:
    """Settings without secrets: the database address travels by itself."""
    return settings.model_dump(mode="json", exclude={"database_url"})


def usual_config_path() -> Path:
    """Where the settings file of this user lies when none is named."""
    return Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config")) / "rushes" / "rushes.toml"


def config_path(named: Path | None = None) -> Path | None:
    """The settings file in force, None without one; `UsageError` when the named one does not exist."""
    given = named or _named_config.get() or os.environ.get("RUSHES_CONFIG")
    if given and not Path(given).is_file():
        raise UsageError(f"settings file {given} does not exist: check --config or RUSHES_CONFIG")
    if given:
        return Path(given)
    usual = usual_config_path()
    return usual if usual.is_file() else None


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        # The address holds a password, and an unknown name may be that of a token.
        secret = name.startswith("database_url") or item["type"] == "extra_forbidden"
        lines.append(f"setting {name}: {item['msg']}" + ("" if secret else f" (got {item.get('input')!r})"))
    return "; ".join(lines) + "; see docs/configuration.md"
