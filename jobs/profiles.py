"""Profiles beside each other, and search switched to the spaces of the settings in force."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from actors.lanes import space_identities
from cluster.db import spaces, stored, uses
from cluster.db.patience import Session
from cluster.errors import RushesError
from cluster.lanes import SPACE_OF_LANE
from cluster.profiles import ALL_ROLES, ModelChoice, profile_names
from cluster.settings import Settings
from cluster.weights import locate


@dataclass(frozen=True, slots=True)
class Switch:
    """What became of search for one kind: its space under the settings (None: never made), and whether it is used."""

    kind: str
    profile: str
    space: spaces.Space | None
    active: bool
    missing: int


def list_profiles(settings: Settings) -> list[dict[str, Any]]:
    """Every profile: its roles, whether it is shipped, and the roles that follow it now."""
    own = settings.own_profiles()
    return [
        {
            "profile": name,
            "from": "settings file" if name in own else "shipped",
            "roles": (roles := [role for role in ALL_ROLES if choice_under(settings, role, name) is not None]),
            "in_force": [role for role in roles if settings.profile_of(role) == name],
        }
        for name in profile_names(own)
    ]


def show_profile(settings: Settings, name: str) -> dict[str, dict[str, Any] | None]:
    """Role -> every field of its model, None where the profile has it off; overrides in force count."""
    choices = {role: choice_under(settings, role, name) for role in ALL_ROLES}
    return {role: None if choice is None else asdict(choice) for role, choice in choices.items()}


def choice_under(settings: Settings, role: str, name: str) -> ModelChoice | None:
    """The model of `role` under the profile `name`; `UsageError` for an unknown one."""
    return settings.following(role, name).optional_choice(role)


def compare(settings: Settings, role: str, names: list[str], session: Session | None) -> list[dict[str, Any]]:
    """The role under each profile: model, size of a vector, whether the weights are here, its space and its rate."""
    return [_compared(settings.following(role, name), role, name, session) for name in names]


def _compared(settings: Settings, role: str, name: str, session: Session | None) -> dict[str, Any]:
    choice = settings.optional_choice(role)
    if choice is None:
        return {"profile": name, "weights": "off"}
    row: dict[str, Any] = {
        "profile": name,
        "weights": choice.weights,
        "here": _is_here(choice.weights),
        "device": choice.device,
        "precision": choice.precision,
        "batch_size": choice.batch_size,
    }
    if role in SPACE_OF_LANE.values():
        row |= {"dimension": choice.dimension, "vector_bytes": vector_bytes(choice.dimension or 0)}
        row |= _space_row(settings, role, session)
    return row


def vector_bytes(dimension: int) -> int:
    """What one stored vector takes, header included: 2 bytes a dimension from 512 on, 4 below."""
    return 8 + dimension * (2 if dimension >= spaces.HALFVEC_FROM_DIMENSION else 4)


def _is_here(weights: str) -> bool:
    try:
        locate(weights, download=False)
    except RushesError:
        return False
    return True


def _space_row(settings: Settings, kind: str, session: Session | None) -> dict[str, Any]:
    if session is None:
        return {"space": None}
    try:
        name = spaces.space_name(kind, *space_identities(settings)[kind])
    except RushesError:
        # A folder that is not there has no content to know a space by.
        return {"space": None}
    return session.run(lambda conn: _read_space(conn, kind, name))


def _read_space(conn: Any, kind: str, name: str) -> dict[str, Any]:
    space = spaces.find_space(conn, kind, name)
    if space is None:
        return {"space": None}
    return {
        "space": space.space_id,
        "vectors": spaces.count_vectors(conn, space),
        "assets_missing": spaces.count_missing(conn, space),
        "search_uses_it": space.is_active,
        "texts_per_s": stored.last_texts_per_s(conn).get(space.space_id),
    }


def switch_search(session: Session, settings: Settings) -> list[Switch]:
    """Let search use the spaces of the settings where they hold everything; nothing is computed."""
    made = []
    for kind, (choice, identity) in space_identities(settings).items():
        name = spaces.space_name(kind, choice, identity)
        made.append(session.run(lambda conn, kind=kind, choice=choice, name=name: _switch(conn, kind, choice, name)))
    return made


def _switch(conn: Any, kind: str, choice: ModelChoice, name: str) -> Switch:
    # Held, so that no sweep drops it meanwhile.
    uses.hold(conn, [name])
    space = spaces.find_space(conn, kind, name)
    if space is None:
        return Switch(kind, choice.profile, None, False, 0)
    return Switch(kind, choice.profile, space, *spaces.activate_if_complete(conn, space))
