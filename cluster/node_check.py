"""What a node of a cluster must have before it takes work: weights, the driver's code, the database, a cache, a clock.

Runs on the node itself, loads no model and changes nothing; each finding names the way out.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.db.doctor import DatabaseVisit
from cluster.doctor import Check, Finding, Found, examine
from cluster.errors import RushesError
from cluster.media.node_cache import NodeCache, gib
from cluster.settings import Settings
from cluster.weights import locate

# What decides bytes: another version of one of these may give another vector.
PACKAGES = (
    "ray", "pyarrow", "psycopg", "av", "numpy", "torch", "ctranslate2", "faster-whisper", "sentence-transformers",
)  # fmt: skip
# A film of some hours.
LEAST_ROOM_BYTES = 4 << 30
_CODE = (".py", ".sql", ".toml")
_HOUSE = ("cluster", "actors", "jobs")


@dataclass(frozen=True, slots=True)
class Ask:
    """What the driver wants of a node: plain values.

    `weights` are those of the roles (role -> weights) that the plan uses, `versions` and `code` the driver's;
    `caches` says that sources lie in an object store.
    """

    settings: Mapping[str, Any]
    url: str
    weights: Mapping[str, str]
    versions: Mapping[str, str]
    code: str
    caches: bool


def node_checks(ask: Ask, visit: DatabaseVisit) -> list[Check]:
    """Every check of this node, in order."""
    settings = Settings.model_validate(dict(ask.settings))
    return [
        Check("code", partial(code, ask)),
        Check("weights", partial(weights, ask.weights)),
        Check("database", visit.reach),
        Check("clock", visit.clock, ("database",), required=False),
        *([Check("node cache", partial(cache, settings))] if ask.caches else []),
    ]


def check_here(ask: Ask, more: list[Check] | None = None) -> list[Finding]:
    """The findings of this node; `more` are checks of a caller who may import what this floor may not."""
    settings = Settings.model_validate({**ask.settings, "database_url": ask.url})
    with closing(DatabaseVisit(settings)) as visit:
        return list(examine([*node_checks(ask, visit), *(more or [])]))


def versions_here() -> dict[str, str]:
    """Python and the packages that decide what comes out, as they are installed here."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        try:
            # what follows + says for which device a wheel is made
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def code_here() -> str:
    """The SHA-256 (hex) over this program's own files."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for folder in _HOUSE:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in _CODE and path.is_file():
                digest.update(f"{path.relative_to(root)}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def code(ask: Ask) -> Found:
    """Whether program and packages are the driver's."""
    fix = "submit with `rushes backfill`, which brings its own code, or install the same version and lock file there"
    here = versions_here()
    other = [
        f"{name} {here.get(name, 'absent')} (driver: {version})"
        for name, version in ask.versions.items()
        if here.get(name) != version
    ]
    if other:
        return Found("FAIL", ", ".join(other), fix)
    if code_here() != ask.code:
        return Found("FAIL", f"the program in {Path(__file__).parents[1]} is not the driver's", fix)
    return Found("ok", "program and packages are the driver's")


def weights(wanted: Mapping[str, str]) -> Found:
    """Whether the weights of every role are here; nothing is fetched."""
    for role, name in wanted.items():
        try:
            locate(name, download=False)
        except RushesError as error:
            fix = "run `rushes models warm --address ADDRESS`, or put them there at the same path"
            return Found("FAIL", f"{role}: {str(error).partition(':')[0]}", fix)
    return Found("ok", f"{len(wanted)} model(s) are here")


def cache(settings: Settings) -> Found:
    """Whether copies of object-store content find room; a folder that does not exist yet is not made."""
    found = NodeCache(settings.data_dir / "cache", settings.cache_bytes)
    place = next(path for path in (found.folder, *found.folder.absolute().parents) if path.exists())
    fix = "make room, or set RUSHES_DATA_DIR to a disk of this node that takes files"
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return Found("FAIL", f"{place} takes no files: {(error.strerror or str(error)).lower()}", fix)
    used, free = found.size_bytes(), shutil.disk_usage(place).free
    text = f"{gib(used)} of {gib(found.most_bytes)} (RUSHES_CACHE_BYTES), {gib(free)} free at {place}"
    if used + free < min(LEAST_ROOM_BYTES, found.most_bytes):
        return Found("FAIL", text, fix)
    return Found("ok", text)
