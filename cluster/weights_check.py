"""What is known of weights without loading them: where, how large, whose licence, and whether they are whole.

Weights in packages are compared with the SHA-256 of every file in `weights.toml`. A hub snapshot carries
its own sums: the listing that came with it, or the names of its blobs (SHA-256 of large files, git's SHA-1
of the others). A path has nothing to be compared with and is told by its own sum.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from cluster.errors import RushesError
from cluster.weights import hub_name, identity, locate, on_hub, package_version

_LICENCE = re.compile(r"\A---\n.*?^license:\s*(\S+)", re.DOTALL | re.MULTILINE)
_SUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Held:
    """One weights string on this machine; `place` is None and `problem` says why when it is not here."""

    weights: str
    place: Path | None
    size_bytes: int | None
    revision: str
    licence: str
    gated: bool
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`whole`, `damaged`, `absent`, or `unlisted` when there is nothing to compare with; `found` says what."""

    weights: str
    state: Literal["whole", "damaged", "absent", "unlisted"]
    found: tuple[str, ...]
    fix: str = ""


def held(weights: str) -> Held:
    """Where `weights` lie and what is known of them; fetches nothing, and an absent one is no error."""
    known = _entry(weights)
    try:
        place = locate(weights, download=False)
    except RushesError as error:
        return Held(weights, None, None, _revision(weights), _licence(known, None), _gated(known), str(error))
    size_bytes = sum(path.stat().st_size for path in _files(place) if path.exists())
    return Held(weights, place, size_bytes, _revision(weights), _licence(known, place), _gated(known))


def verify(weights: str) -> Verdict:
    """Read every byte of `weights` and compare it with what it must be."""
    try:
        place = locate(weights, download=False)
    except RushesError as error:
        return Verdict(weights, "absent", (str(error),))
    if on_hub(weights):
        return _judged(weights, list(_hub_damage(_snapshot(weights, place))))
    if weights.startswith("package:"):
        return _verify_package(weights, place)
    return Verdict(weights, "unlisted", (f"own files, {identity(weights)}",))


def distinct(weights: list[str]) -> list[str]:
    """The weights that differ in content: a folder of a snapshot is part of the snapshot."""
    return list(dict.fromkeys(name.partition("#")[0] if on_hub(name) else name for name in weights))


def _verify_package(weights: str, place: Path) -> Verdict:
    entry = _entry(weights)
    if "sha256" not in entry:
        return Verdict(weights, "unlisted", (f"no sums are shipped for it, {identity(weights)}",))
    version = package_version(weights)
    if version != entry["version"]:
        problem = f"version {version} is installed, the sums are those of {entry['version']}"
        return _judged(weights, [problem])
    return _judged(weights, list(_package_damage(place, entry["sha256"])))


def _judged(weights: str, problems: list[str]) -> Verdict:
    if problems:
        return Verdict(weights, "damaged", tuple(problems), _way_out(weights))
    return Verdict(weights, "whole", ("every file is what it must be",))


def _way_out(weights: str) -> str:
    if on_hub(weights):
        return "remove the named files and run `rushes models pull`"
    if weights.startswith("package:"):
        return "run `make install` again, after `uv pip uninstall` of the package"
    return "put the model there, or name another with RUSHES_<ROLE>_WEIGHTS"


def _package_damage(place: Path, sums: dict[str, str]) -> Iterator[str]:
    folder = place.parent if place.is_file() else place
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file():
            yield f"{path} is missing"
        elif _sha256(path) != expected:
            yield f"{path} differs from what was published"
    if place.is_dir():
        extra = sorted(str(path) for path in _files(place) if str(path.relative_to(place)) not in sums)
        yield from (f"{path} does not belong there" for path in extra)


def _hub_damage(root: Path) -> Iterator[str]:
    expected = _blob_names(root) | _listing(root)
    if not expected:
        yield f"{root} holds no file"
    for name, digest in sorted(expected.items()):
        path = root / name
        if not path.is_file():
            yield f"{path} is missing"
        elif digest is None:
            yield f"{path} has no sum to compare with"
        elif digest != (_sha256(path) if len(digest) == 64 else _git_sha1(path)):
            yield f"{path} ({path.resolve()}) differs from what was published"


def _blob_names(root: Path) -> dict[str, str | None]:
    """File -> the sum that its blob is named by; None for a file that is no link into the blobs."""
    names = {path: path.readlink().name if path.is_symlink() else "" for path in _files(root)}
    return {str(path.relative_to(root)): blob if _SUM.fullmatch(blob) else None for path, blob in names.items()}


def _listing(root: Path) -> dict[str, str | None]:
    """File -> sum as the hub listed them when the snapshot was fetched; empty when that was not kept."""
    try:
        listing = json.loads((root.parents[1] / "trees" / f"{root.name}.json").read_text("utf-8"))
        return {name: file.get("lfs_sha256") or file["blob_id"] for name, file in listing["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _snapshot(weights: str, place: Path) -> Path:
    name = hub_name(weights)
    return place.parents[len(Path(name.folder).parts) - 1] if name.folder else place


def _files(place: Path) -> list[Path]:
    """Every file below, broken links too; what Python compiles beside modules is none of a package's weights."""
    if place.is_file():
        return [place]
    found = (path for path in place.rglob("*") if path.is_symlink() or path.is_file())
    return [path for path in found if "__pycache__" not in path.parts]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_sha1(path: Path) -> str:
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _revision(weights: str) -> str:
    try:
        if on_hub(weights):
            return hub_name(identity(weights)).revision
        return package_version(weights) if weights.startswith("package:") else ""
    except RushesError:
        return ""


def _gated(known: dict[str, Any]) -> bool:
    return bool(known.get("gated", False))


def _licence(known: dict[str, Any], place: Path | None) -> str:
    if "licence" in known:
        return known["licence"]
    try:
        match = _LICENCE.search((place / "README.md").read_text("utf-8", "replace")) if place else None
    except OSError:
        match = None
    return match[1] if match else "unknown"


def _entry(weights: str) -> dict[str, Any]:
    kind, _, rest = weights.partition(":")
    if kind == "tag":
        try:
            kind, rest = "hub", hub_name(weights).repo
        except RushesError:
            return {}
    return _catalogue().get(kind, {}).get(rest.partition("@")[0], {})


@lru_cache(maxsize=1)
def _catalogue() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "weights.toml").read_text("utf-8"))
