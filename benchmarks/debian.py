"""Real material out of Debian packages: fetched once into a folder, never part of the project."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path


def fetch_packages(folder: Path, names: Iterable[str]) -> None:
    """Download and unpack, each into a folder of its name, the packages that are not there yet; installs nothing."""
    packages = folder / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing:
        subprocess.run(["apt-get", "download", "-q", *missing], cwd=packages, check=True)
    for name in missing:
        [deb] = packages.glob(f"{name}_*.deb")
        subprocess.run(["dpkg-deb", "-x", deb, folder / name], check=True)
