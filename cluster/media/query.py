"""A picture to search with, read in the media child as those of the corpus are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import BadMediaError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cluster.media.child import MediaChild
    from cluster.media.pictures import PictureSpec, PixelSpec

READ_DEADLINE_S = 60.0


class NotAPictureError(BadMediaError):
    """The file is media of another kind."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"it holds {kind} and is no picture")
        self.kind = kind


def query_row(child: MediaChild, path: str | Path, spec: PictureSpec, deadline_s: float = READ_DEADLINE_S) -> Any:
    """One row of what the picture is made of, as an Arrow table; raises as the child does, and `NotAPictureError`."""
    kind = child.probe(path, deadline_s).kind
    if kind != "image":
        raise NotAPictureError(kind)
    return child.pictures(path, "image", spec, deadline_s).table


def query_pixels(
    child: MediaChild, path: str | Path, spec: PixelSpec, deadline_s: float = READ_DEADLINE_S
) -> NDArray[np.uint8]:
    """RGB of shape (size, size, 3) as an image model takes it; raises as `query_row` does."""
    import numpy as np

    from cluster.media.pictures import PictureSpec

    (pixels,) = query_row(child, path, PictureSpec(pixels=spec), deadline_s).column("pixels")[0].as_py()
    return np.frombuffer(pixels["rgb"], np.uint8).reshape(spec.size, spec.size, 3)
