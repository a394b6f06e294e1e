"""Where model weights lie: in an installed package, at a path, or on the hub at a pinned revision.

`package:MODULE/PATH`, `path:/DIR` (or a plain path), `hub:ORG/NAME@REVISION[#SUBFOLDER]`. A
missing one is an error that names the fix; nothing falls back to another model.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
from functools import lru_cache
from pathlib import Path

from cluster.errors import RushesError

_HUB = re.compile(r"hub:(?P<repo>[^@#]+)@(?P<revision>[0-9a-f]{40})(#(?P<folder>.+))?")


def locate(weights: str) -> Path:
    """The local file or folder of `weights`; downloads a hub snapshot that is not there yet."""
    kind, _, rest = weights.partition(":")
    if kind == "package":
        return _package_path(rest)
    if kind == "hub":
        return _hub_path(weights)
    path = Path(rest if kind == "path" else weights).expanduser()
    if not path.exists():
        raise RushesError(f"no weights at {path}: put the model there, or name another with RUSHES_<ROLE>_WEIGHTS")
    return path


def identity(weights: str) -> str:
    """A stable name of the content, for fingerprints and spaces; loads no model.

    A package answers with its version, the hub with its revision, a path with the SHA-256 over its
    files (names, sizes and bytes).
    """
    kind, _, rest = weights.partition(":")
    if kind == "hub":
        _hub_match(weights)
        return weights
    if kind == "package":
        module = rest.partition("/")[0]
        return f"{weights}=={_package_version(module)}"
    return f"sha256:{_tree_sha256(locate(weights))}"


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


def _hub_match(weights: str) -> re.Match[str]:
    match = _HUB.fullmatch(weights)
    if match is None:
        raise RushesError(
            f"{weights} is not pinned: write hub:ORG/NAME@REVISION with the 40 hex digits of a commit, "
            "so that the same name always means the same weights"
        )
    return match


def _hub_path(weights: str) -> Path:
    match = _hub_match(weights)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repo, revision, folder = match["repo"], match["revision"], match["folder"]
    try:
        root = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        root = _download(repo, revision)
    return root / folder if folder else root


def _download(repo: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision))
    except Exception as error:
        raise RushesError(
            f"cannot fetch {repo} at {revision[:8]} ({type(error).__name__}): check the network and HF_TOKEN "
            "(a gated model needs its terms accepted), or put the files somewhere and name that folder with "
            "RUSHES_<ROLE>_WEIGHTS=path:/DIR; RUSHES_PROFILE=bundled needs no download"
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
