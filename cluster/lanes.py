"""Lanes and fingerprints: what commits by itself, and when it has to be done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from cluster.errors import UsageError

PARENT: Mapping[str, str] = {"voices": "speech", "texts": "speech", "images": "frames"}
LANES = ("speech", "voices", "texts", "frames", "images")
ROOTS = tuple(lane for lane in LANES if lane not in PARENT)
SPACE_OF_LANE: Mapping[str, str] = {"voices": "voice", "texts": "text", "images": "image"}
# Lanes that read the media itself; the others read committed rows.
MEDIA_LANES = frozenset({"speech", "voices", "frames", "images"})
# A lane of an optional role is off where the profile has none.
ROLE_OF_LANE: Mapping[str, str] = {"images": "image"}


def root_of(lane: str) -> str:
    """The lane that begins the chain in which `lane` runs."""
    return PARENT.get(lane, lane)


def parse_lanes(text: str | None, on: Collection[str] = LANES) -> tuple[str, ...]:
    """`speech,texts` as lanes in their order; None means every lane that is `on`. Raises `UsageError`."""
    if text is None:
        return tuple(lane for lane in LANES if lane in on)
    asked = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in asked if name not in LANES]
    if unknown or not asked:
        raise UsageError(f"unknown lane {', '.join(unknown) or text!r}: choose from {', '.join(LANES)}")
    for lane in asked:
        if lane not in on:
            role = ROLE_OF_LANE[lane]
            raise UsageError(
                f"lane {lane} is off: the profile has no {role} model; set RUSHES_{role.upper()}_WEIGHTS, "
                f"or RUSHES_{role.upper()}_PROFILE to a profile that has one (`rushes profiles list`)"
            )
    return tuple(lane for lane in LANES if lane in asked)


def children(lanes: Iterable[str]) -> frozenset[str]:
    """The lanes that read the committed rows of any of `lanes`."""
    parents = set(lanes)
    return frozenset(child for child, parent in PARENT.items() if parent in parents)


def digest(value: Any) -> str:
    """SHA-256 over canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprints(
    identities: Mapping[str, Sequence[Mapping[str, Any]]], known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Lane -> fingerprint over its stages' identities and its parent's fingerprint.

    `known` are fingerprints of parents that stand already, whatever made them.
    """
    found: dict[str, str] = dict(known or {})
    for lane in LANES:
        if lane in identities:
            found[lane] = digest([found.get(PARENT.get(lane, ""), ""), list(identities[lane])])
    return found
