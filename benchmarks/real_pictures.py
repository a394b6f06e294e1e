"""Photographs from Debian packages: fetched once into a folder, never part of the project.

    python -m benchmarks.real_pictures FOLDER

needs a Debian machine (`apt-get download`, nothing is installed). The pictures: desktop backgrounds of MATE (nature
only; GPL-2 or later), Lomiri (CC BY-SA 3.0 and 4.0, CC BY 4.0, CC0) and UKUI (GPL-2 or later). They are scaled to at
most 1,280 pixels once, which stands for the original from then on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from benchmarks.debian import fetch_packages

LONGEST_PX = 1280
FOLDERS = {
    "mate-backgrounds": "usr/share/backgrounds/mate/nature",
    "lomiri-wallpapers-16.04": "usr/share/backgrounds",
    "lomiri-wallpapers-20.04": "usr/share/backgrounds",
    "ukui-wallpapers": "usr/share/backgrounds",
}


def fetch(folder: Path) -> None:
    """Download and unpack the packages that are not there yet."""
    fetch_packages(folder, FOLDERS)


def originals(folder: Path | None, plain: Sequence[Path], into: Path) -> list[Path]:
    """The photographs of a fetched folder and the `plain` ones, scaled, as PNG in `into`."""
    sources = list(plain)
    for name, place in FOLDERS.items() if folder is not None else ():
        found = (folder or Path()) / name / place
        sources += sorted(path for path in found.glob("*.*") if path.suffix in (".jpg", ".png"))
    made = []
    for number, source in enumerate(sources):
        target = into / f"{number:03}.png"
        with Image.open(source) as picture:
            picture = picture.convert("RGB")
            picture.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.LANCZOS)
            picture.save(target, compress_level=1)
        made.append(target)
    return made


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
