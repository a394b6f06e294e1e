"""The stage that gives each keyframe its image vector; the same object embeds a picture or words to search with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.budget import Budget
from actors.open_clip_model import load_model, load_tokenizer, source_of
from actors.texts import torch_device, torch_dtype
from cluster.errors import StageError
from cluster.profiles import ModelChoice, check_choice
from cluster.types import with_column
from cluster.weights import identity, locate

if TYPE_CHECKING:
    import torch


class Images:
    """Pixels of keyframes to unit float32 vectors, joined to `frames` by `idx`.

    The pictures of all rows of a table go through the model together, as many at once as `batch_pixels` allows.
    `calls` counts the calls of the model.
    """

    name = "images"
    version = 1
    lanes = frozenset({"images"})
    needs = ("frames", "pixels")
    adds = ("image_vectors",)
    drops = ("pixels",)

    def __init__(self, choice: ModelChoice, threads: int = 1) -> None:
        """`threads` is torch's thread count on a CPU, set for the whole process by `load`."""
        self.choice = choice
        self.calls = 0
        self._budget = Budget(self.name, choice.batch_pixels, "picture")
        self._threads = threads
        self._model: Any = None
        self._source = ""
        self._tokenizer: Callable[[list[str]], torch.Tensor] | None = None

    def identity(self) -> dict[str, Any]:
        """Model and preprocessing; loads nothing."""
        architecture = self.choice.architecture
        if architecture and architecture.endswith(".json"):
            architecture = identity(f"path:{architecture}")
        return {
            "engine": self.choice.engine,
            "architecture": architecture,
            "weights": identity(self.choice.weights),
            "dimension": self.choice.dimension,
            "precision": self.choice.precision,
            "image_size": self.choice.image_size,
            "image_resize": self.choice.image_resize,
            "image_interpolation": self.choice.image_interpolation,
        }

    def load(self) -> None:
        """Bring the model into memory. Raises `RushesError` when profile and model disagree."""
        if self._model is not None:
            return
        check_choice(self.choice)
        place = locate(self.choice.weights)
        import torch

        torch.set_num_threads(self._threads)
        self._source = source_of(place, self.choice)
        self._model = load_model(place, self._source, self.choice)

    def process(self, table: pa.Table) -> pa.Table:
        """Fill `image_vectors` and drop `pixels`; a keyframe without its pixels raises `StageError`."""
        size = self.choice.image_size
        columns = zip(table.column("frames"), table.column("pixels"), strict=True)
        rows = [_paired(frames, pixels, size) for frames, pixels in columns]
        vectors = iter(self.embed_pictures([rgb for row in rows for _, rgb in row]))
        found = [[{"idx": idx, "vector": vector} for (idx, _), vector in zip(row, vectors)] for row in rows]  # noqa: B905
        return with_column(table, "image_vectors", found).drop_columns(["pixels"])

    def embed_pictures(self, pictures: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Unit vectors, shape (pictures, dimension), of RGB pictures of shape (size, size, 3); none make no call.

        The pictures are cut to the model's size already and not normalised.
        """
        vectors, done = [np.empty((0, self.choice.dimension or 0), np.float32)], 0
        while done < len(pictures):
            see = partial(self._see, pictures[done:])
            vectors.append(self._budget.run(see, len(pictures) - done, self.choice.image_size**2))
            done += len(vectors[-1])
        return _unit(np.concatenate(vectors))

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """The unit vector of words to search with, shape (dimension,); what is over the model's limit is cut."""
        return self.embed_words([text])[0]

    def embed_words(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As `embed_query` for several texts in one call, shape (texts, dimension)."""
        import torch

        self.load()
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._source, self.choice)
        tokens = self._tokenizer(list(texts)).to(torch_device(self.choice))
        self.calls += 1
        with torch.inference_mode():
            return _unit(self._model.encode_text(tokens).float().cpu().numpy())

    @property
    def halvings(self) -> int:
        """How often a batch did not fit the device."""
        return self._budget.halvings

    def close(self) -> None:
        """Let go of the model."""
        self._model = self._tokenizer = None

    def _see(self, pictures: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], count: int) -> NDArray[np.float32]:
        """What the model says of the first `count` pictures."""
        import torch

        self.load()
        device = torch_device(self.choice)
        cfg = self._model.visual.preprocess_cfg
        mean, std = (torch.tensor(cfg[name], device=device).view(3, 1, 1) for name in ("mean", "std"))
        self.calls += 1
        # TF32, torch's default for convolutions, would leave vectors of batch and single off by 1e-3
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            rgb = torch.from_numpy(np.stack(list(pictures[:count]))).to(device).permute(0, 3, 1, 2).contiguous()
            pixels = rgb.float().div(255).sub(mean).div(std).to(torch_dtype(self.choice, device))
            return self._model.encode_image(pixels).float().cpu().numpy()


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _paired(frames: pa.Scalar, pixels: pa.Scalar, size: int) -> list[tuple[int, NDArray[np.uint8]]]:
    """(idx, RGB of shape (size, size, 3)) of every keyframe of a row, as views that copy nothing."""
    if not frames.is_valid or not pixels.is_valid:
        raise StageError("the row has no frames or no pixels: its frames lane has not run")
    wanted = frames.values.field("idx").to_pylist()
    items = pixels.values
    held = dict(zip(items.field("idx").to_pylist(), items.field("rgb"), strict=True))
    if sorted(held) != sorted(wanted) or len(items) != len(held):
        raise StageError(f"pixels of frames {sorted(held)}, but the frames are {sorted(wanted)}")
    return [(idx, _picture(idx, held[idx], size)) for idx in wanted]


def _picture(idx: int, rgb: pa.Scalar, size: int) -> NDArray[np.uint8]:
    buffer = rgb.as_buffer()
    if buffer is None or buffer.size != size * size * 3:
        raise StageError(f"frame {idx}: {buffer.size if buffer else 0} bytes of pixels are not {size}x{size} RGB")
    return np.frombuffer(buffer, np.uint8).reshape(size, size, 3)
