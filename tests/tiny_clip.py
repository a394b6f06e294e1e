"""A small open_clip model with random weights, as a model config and a checkpoint that are loaded like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.profiles import ModelChoice, choose

SIZE = 32
DIMENSION = 32
CONFIG = {
    "embed_dim": DIMENSION,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def tiny_clip(folder: Path, seed: int = 0, suffix: str = ".pt") -> Path:
    """Write `tiny.json` and a checkpoint into `folder`; the checkpoint's path. The same seed, the same vectors."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / "tiny.json")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.create_model("tiny")
    path = folder / f"model{suffix}"
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    return path


def tiny_folder(folder: Path, seed: int = 0, **preprocess: Any) -> Path:
    """The same as a folder that describes itself, as open_clip puts one on the hub."""
    tiny_clip(folder, seed, ".safetensors").rename(folder / "open_clip_model.safetensors")
    described = {"model_cfg": CONFIG, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    return folder


def tiny_choice(checkpoint: Path, **fields: Any) -> ModelChoice:
    """The image role as settings make it of a checkpoint beside its `tiny.json`."""
    asked = {"weights": f"path:{checkpoint}", "architecture": str(checkpoint.parent / "tiny.json"), **fields}
    return choose("image", "bundled", asked, {})
