"""Where model weights lie: in an installed package, at a path, or on the hub at a pinned revision.

`package:MODULE/PATH`, `path:/DIR` (or a plain path), `hub:ORG/NAME@REVISION[#SUBFOLDER]`. For the image role
also `tag:ARCHITECTURE/NAME`, a pretrained tag of open_clip: its hub repository as it was when it was pulled. A
missing one is an error that names the fix; nothing falls back to another model.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import logging
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cluster.errors import RushesError
from cluster.image_model import tag_place

_NEWEST = "main"
_HUB = re.compile(r"hub:(?P<repo>[^@#]+)@(?P<revision>[0-9a-f]{40})(#(?P<folder>.+))?")


@dataclass(frozen=True, slots=True)
class HubName:
    """A model hub repository at a revision of 40 hex digits, or for a tag at its newest when it is pulled.

    `folder` is the part of it that is meant.
    """

    repo: str
    revision: str
    folder: str | None


def locate(weights: str, *, download: bool = True) -> Path:
    """The local file or folder of `weights`; fetches a hub snapshot that is not there yet, if it may.

    A tag is never fetched here, because it may mean something else by now. Raises `RushesError` with the way out
    when it is nowhere.
    """
    kind, _, rest = weights.partition(":")
    if kind == "package":
        return _package_path(rest)
    if on_hub(weights):
        name = hub_name(weights)
        root = _hub_root(name, download and kind == "hub")
        return root / name.folder if name.folder else root
    path = Path(rest if kind == "path" else weights).expanduser()
    if not path.exists():
        raise RushesError(f"no weights at {path}: put the model there, or name another with RUSHES_<ROLE>_WEIGHTS")
    return path


def identity(weights: str) -> str:
    """A stable name of the content, for fingerprints and spaces; loads no model.

    A package answers with its version, the hub with its revision (a tag with that which was pulled), a path with
    the SHA-256 over its files (names, sizes and bytes).
    """
    kind = weights.partition(":")[0]
    if kind == "hub":
        hub_name(weights)
        return weights
    if kind == "tag":
        name = hub_name(weights)
        pinned = f"hub:{name.repo}@{_hub_root(name, download=False).name}"
        return f"{pinned}#{name.folder}" if name.folder else pinned
    if kind == "package":
        return f"{weights}=={package_version(weights)}"
    return f"sha256:{_tree_sha256(locate(weights))}"


def package_version(weights: str) -> str:
    """The version of the package in `package:MODULE/PATH`; `RushesError` when it is not installed."""
    return _package_version(weights.partition(":")[2].partition("/")[0])


def on_hub(weights: str) -> bool:
    """Whether the weights come from the model hub."""
    return weights.startswith(("hub:", "tag:"))


def hub_name(weights: str) -> HubName:
    """The parts of `hub:ORG/NAME@REVISION[#FOLDER]`, or what a tag stands for; `RushesError` when it is not pinned."""
    if weights.startswith("tag:"):
        repo, file = tag_place(weights)
        return HubName(repo, _NEWEST, file)
    match = _HUB.fullmatch(weights)
    if match is None:
        raise RushesError(
            f"{weights} is not pinned: write hub:ORG/NAME@REVISION with the 40 hex digits of a commit, "
            "so that the same name always means the same weights"
        )
    return HubName(match["repo"], match["revision"], match["folder"])


class HubAwayError(RushesError):
    """The hub does not answer, or may not be asked: no other snapshot would come either."""


def fetch(name: HubName) -> Path:
    """Bring what is missing of a hub snapshot; `RushesError` when the hub does not give it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    # it tells of every attempt on standard error; what came of them is said below
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return Path(snapshot_download(name.repo, revision=name.revision))
    except Exception as error:
        kind = HubAwayError if isinstance(error, LocalEntryNotFoundError) else RushesError
        raise kind(
            f"cannot fetch {name.repo} at {name.revision[:8]} ({type(error).__name__}): check the network and HF_TOKEN "
            "(a gated model needs its terms accepted), or put the files somewhere and name that folder with "
            "RUSHES_<ROLE>_WEIGHTS=path:/DIR; RUSHES_PROFILE=bundled needs no download"
        ) from error


def _package_path(rest: str) -> Path:
    module, _, inner = rest.partition("/")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise RushesError(f"weights package {module} is not installed: run `make install` again")
    path = Path(spec.submodule_search_locations[0]) / inner
    if not path.exists():
        raise RushesError(f"package {module} holds no {inner}: install the version named in requirements.lock")
    return path


@lru_cache(maxsize=32)
def _package_version(module: str) -> str:
    for name in (module, module.replace("_", "-")):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise RushesError(f"weights package {module} is not installed: run `make install` again")


def _hub_root(name: HubName, download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name.repo, revision=name.revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        if download:
            return fetch(name)
        raise RushesError(
            f"{name.repo} at {name.revision[:8]} is not on this machine, or not all of it: run `rushes models pull`, "
            "or name a folder with RUSHES_<ROLE>_WEIGHTS=path:/DIR"
        ) from error


@lru_cache(maxsize=32)
def _tree_sha256(root: Path) -> str:
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
