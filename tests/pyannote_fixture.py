"""A pyannote pipeline with small random weights, in the layout of the released ones.

It exercises the real classes from a local folder; what it says about speakers means nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

MEL_BINS = 24
DIMENSION = 256
PLDA_DIMENSION = 128
CONFIG = {
    "dependencies": {"pyannote.audio": "4.0.0"},
    "pipeline": {
        "name": "pyannote.audio.pipelines.SpeakerDiarization",
        "params": {
            "clustering": "VBxClustering",
            "segmentation": "$model/segmentation",
            "segmentation_batch_size": 1,
            "embedding": "$model/embedding",
            "embedding_batch_size": 1,
            "embedding_exclude_overlap": True,
            "plda": "$model/plda",
        },
    },
    "params": {
        "clustering": {"threshold": 0.6, "Fa": 0.07, "Fb": 0.8},
        "segmentation": {"min_duration_off": 0.0},
    },
}


def build_pipeline(
    folder: Path, mel_bins: int = MEL_BINS, width: int = 16, layers: int = 1, pauses: bool = True
) -> Path:
    """Write config.yaml, segmentation/, embedding/ and plda/ into `folder`; seeded.

    `width` and `layers` are those of the segmentation's LSTM. Without `pauses` it hears somebody at every moment.
    """
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        _save(_segmentation(width, layers, pauses), folder / "segmentation")
        _save(_embedding(mel_bins), folder / "embedding")
    _save_plda(folder / "plda")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG), "utf-8")
    return folder


def _segmentation(width: int, layers: int, pauses: bool) -> Any:
    import torch
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.segmentation import PyanNet

    model = PyanNet(
        lstm={"hidden_size": width, "num_layers": layers}, linear={"hidden_size": width, "num_layers": min(2, layers)}
    )
    model.specifications = Specifications(
        problem=Problem.MONO_LABEL_CLASSIFICATION,
        resolution=Resolution.FRAME,
        duration=10.0,
        classes=["speaker#1", "speaker#2", "speaker#3"],
        powerset_max_classes=2,
        permutation_invariant=True,
    )
    model.build()
    # sharper than initial weights and without overlap, so that clustering gets vectors to work on
    with torch.no_grad():
        model.classifier.weight.mul_(40)
        model.classifier.bias.copy_(torch.tensor([0.0 if pauses else -1000.0] + [0.0] * 3 + [-1000.0] * 3))
    return model


def _embedding(mel_bins: int) -> Any:
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.embedding.wespeaker import WeSpeakerResNet34

    model = WeSpeakerResNet34(num_mel_bins=mel_bins)
    model.specifications = Specifications(problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=10.0)
    return model


def _save(model: Any, folder: Path) -> None:
    import lightning
    import torch

    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": lightning.__version__,
        "epoch": 0,
        "global_step": 0,
    }
    model.on_save_checkpoint(checkpoint)
    folder.mkdir(parents=True)
    torch.save(checkpoint, folder / "pytorch_model.bin")


def _save_plda(folder: Path) -> None:
    random = np.random.default_rng(7)
    folder.mkdir(parents=True)
    np.savez(
        folder / "xvec_transform.npz",
        mean1=np.zeros(DIMENSION),
        mean2=np.zeros(PLDA_DIMENSION),
        lda=np.linalg.qr(random.normal(size=(DIMENSION, PLDA_DIMENSION)))[0],
    )
    np.savez(
        folder / "plda.npz",
        mu=np.zeros(PLDA_DIMENSION),
        tr=np.linalg.qr(random.normal(size=(PLDA_DIMENSION, PLDA_DIMENSION)))[0],
        psi=np.linspace(3, 0.5, PLDA_DIMENSION),
    )
