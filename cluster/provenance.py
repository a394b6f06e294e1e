"""Where each setting's value comes from: flag, environment, settings file, profile or default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic_settings import EnvSettingsSource, TomlConfigSettingsSource

from cluster.profiles import ALL_ROLES, ModelChoice, shipped
from cluster.settings import Settings, usual_config_path

PREFIX = "RUSHES_"


@dataclass(frozen=True, slots=True)
class Provenance:
    """One setting, its value in force and the place that decided it; a secret's value stays a `SecretStr`."""

    name: str
    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class ConfigPlace:
    """The settings file in force, or where one would be looked for."""

    path: Path
    named_by: str
    exists: bool


def config_place(config: Path | None) -> ConfigPlace:
    """The settings file that `--config`, `RUSHES_CONFIG` or the usual place names."""
    for path, named_by in ((config, "--config"), (os.environ.get("RUSHES_CONFIG"), "RUSHES_CONFIG")):
        if path:
            return ConfigPlace(Path(path), named_by, Path(path).is_file())
    usual = usual_config_path()
    return ConfigPlace(usual, "the usual place", usual.is_file())


def provenance(settings: Settings, config: Path | None, flags: Mapping[str, Any]) -> list[Provenance]:
    """Every setting of `settings` as `load_settings(config, **flags)` gave them; roles field by field."""
    origin = _Origin(config, flags)
    found: list[Provenance] = []
    for name in Settings.model_fields:
        if name in ALL_ROLES:
            found += _role(settings, name, origin)
        else:
            # of the user's own profiles their names: what they set stands with the roles
            value = sorted(settings.profiles) if name == "profiles" else getattr(settings, name)
            found.append(Provenance(name, value, origin.of(name) or "default"))
    return found


class _Origin:
    """What each place that may name a setting holds."""

    def __init__(self, config: Path | None, flags: Mapping[str, Any]) -> None:
        place = config_place(config)
        self._flags = {name for name, value in flags.items() if value is not None}
        self._path = place.path
        self._environment = EnvSettingsSource(Settings)()
        self._file = TomlConfigSettingsSource(Settings, place.path)() if place.exists else {}

    def of(self, name: str, field: str | None = None) -> str | None:
        """The place that sets `name`, or the `field` of the role `name`; None when no place does."""
        if field is None and name in self._flags:
            return f"flag --{name.replace('_', '-')}"
        if _holds(self._environment, name, field):
            return f"environment {_variable(name, field)}"
        return f"file {self._path}" if _holds(self._file, name, field) else None


def _role(settings: Settings, role: str, origin: _Origin) -> list[Provenance]:
    """The role's model choice field by field; nothing for an optional role that is off."""
    choice = settings.optional_choice(role)
    if choice is None:
        return [Provenance(role, "off", f"profile {settings.profile_of(role)}")]
    found = [Provenance(f"{role}.profile", choice.profile, _profile_source(role, choice, origin))]
    for field, value in choice.to_dict().items():
        if field not in ("role", "profile"):
            source = origin.of(role, field) or _from_profile(settings, choice, field)
            found.append(Provenance(f"{role}.{field}", value, source))
    return found


def _profile_source(role: str, choice: ModelChoice, origin: _Origin) -> str:
    if own := origin.of(role, "profile"):
        return own
    if role == "text" and os.environ.get("EMBEDDING_PROFILE"):
        return "environment EMBEDDING_PROFILE"
    return origin.of("profile") or "default"


def _from_profile(settings: Settings, choice: ModelChoice, field: str) -> str:
    """The profile which names the field, of the chain that `extends` makes."""
    own, seen, name = settings.own_profiles(), set[str](), choice.profile
    while True:
        # an own profile may carry the name of a shipped one, and extend that
        is_own = name in own and name not in seen
        values = (own if is_own else shipped()).get(name, {}).get(choice.role, {})
        if field in values:
            return f"profile {name}"
        if not is_own:
            return "default"
        seen.add(name)
        name = values.get("extends", "bundled")


def _holds(values: Mapping[str, Any], name: str, field: str | None) -> bool:
    if name not in values:
        return False
    return field is None or (isinstance(values[name], Mapping) and values[name].get(field) is not None)


def _variable(name: str, field: str | None) -> str:
    """The variable as the environment spells it; a role may be one JSON value."""
    wanted = [f"{PREFIX}{name}_{field}"] if field else []
    spelled = {variable.upper(): variable for variable in os.environ}
    for variable in (*wanted, f"{PREFIX}{name}"):
        if variable.upper() in spelled:
            return spelled[variable.upper()]
    return (wanted or [f"{PREFIX}{name}"])[0].upper()


def is_secret(value: Any) -> bool:
    """Whether a value must never be printed."""
    return isinstance(value, SecretStr)
