"""What is known of an image model without torch: its architecture, its pretrained tags, the pixels it takes."""

from __future__ import annotations

import difflib
import importlib.util
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import RushesError, UsageError

if TYPE_CHECKING:
    from cluster.media.pictures import PixelSpec
    from cluster.profiles import ModelChoice

# What open_clip writes beside the weights of a model that describes itself.
FOLDER_CONFIG = "open_clip_config.json"
TAG = "tag:"


def pixel_spec(choice: ModelChoice) -> PixelSpec:
    """The pixels that the model takes, before they are normalised."""
    from cluster.media.pictures import PixelSpec

    return PixelSpec(choice.image_size, choice.image_resize, choice.image_interpolation)


def described(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an image model with what its architecture says of those that are not given.

    A pretrained tag is joined to its architecture, without which it means nothing. Raises `UsageError` when
    neither an architecture nor a folder that describes itself is named.
    """
    weights, architecture = str(values["weights"]), values.get("architecture")
    folder = Path(weights.removeprefix("path:")).expanduser()
    known = _preprocessing(folder)
    if architecture:
        config = architecture_config(architecture)
    elif known:
        config = folder_config(folder)
    else:
        raise UsageError(
            f"{weights} does not say what model it is: set RUSHES_IMAGE_ARCHITECTURE, such as ViT-B-32, or to a "
            f"model config of open_clip (JSON), or name a folder with {FOLDER_CONFIG}"
        )
    if weights.startswith(TAG) and "/" not in weights:
        weights = f"{TAG}{architecture}/{weights.removeprefix(TAG)}"
    known |= {"dimension": config["embed_dim"], "image_size": config["vision_cfg"].get("image_size", 224)}
    return {**known, **values, "weights": weights}


def architecture_config(architecture: str) -> dict[str, Any]:
    """open_clip's model config of a built-in architecture, or of a JSON file; `UsageError` when there is none."""
    if architecture.endswith(".json"):
        return _model_config(Path(architecture).expanduser())
    known = _built_in()
    if architecture not in known:
        close = difflib.get_close_matches(architecture, known, n=8, cutoff=0.3) or sorted(known)[:8]
        raise UsageError(
            f"open_clip has no architecture {architecture!r}: set RUSHES_IMAGE_ARCHITECTURE to one of the "
            f"{len(known)} it has, such as {', '.join(close)}, or to a model config (JSON)"
        )
    return _model_config(known[architecture])


def folder_config(folder: Path) -> dict[str, Any]:
    """The model config of a folder that describes itself; `UsageError` when it is none."""
    return _model_config(folder / FOLDER_CONFIG)


def tag_place(weights: str) -> tuple[str, str | None]:
    """The hub repository of `tag:ARCHITECTURE/NAME`, and the file in it when it is a certain one."""
    place = pretrained(weights)["hf_hub"]
    if not place:
        raise RushesError(f"open_clip names no hub repository for {weights}: fetch it and name it by path:/FILE")
    owner, repo, file = place.split("/", 2)
    return f"{owner}/{repo}", file or None


@cache
def pretrained(weights: str) -> Mapping[str, Any]:
    """What open_clip lists for `tag:ARCHITECTURE/NAME`: place, mean, std, interpolation and resize mode.

    Its list brings torch with it. `RushesError` for an unknown tag names those of the architecture.
    """
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    architecture, _, name = weights.removeprefix(TAG).partition("/")
    known = get_pretrained_cfg(architecture, name)
    if not known:
        tags = ", ".join(list_pretrained_tags_by_model(architecture)) or "none"
        raise RushesError(
            f"open_clip has no pretrained tag {name!r} of {architecture}: set RUSHES_IMAGE_WEIGHTS to tag: and "
            f"one of: {tags}"
        )
    return known


def _preprocessing(folder: Path) -> dict[str, Any]:
    """How a folder that describes itself has its pictures resized; empty for what is no such folder."""
    try:
        found = json.loads((folder / FOLDER_CONFIG).read_text("utf-8")).get("preprocess_cfg", {})
        return {
            "image_resize": found.get("resize_mode", "shortest"),
            "image_interpolation": found.get("interpolation", "bicubic"),
        }
    except (OSError, ValueError, AttributeError):
        return {}


@cache
def _built_in() -> dict[str, Path]:
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise RushesError("open_clip is not installed: run `make install` again")
    folder = Path(spec.submodule_search_locations[0]) / "model_configs"
    return {path.stem: path for path in folder.glob("*.json")}


def _model_config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
        config = found.get("model_cfg", found)
        complete = int(config["embed_dim"]) > 0 and isinstance(config["vision_cfg"], dict) and "text_cfg" in config
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is no model config of open_clip ({type(error).__name__}: {error})") from error
    if not complete:
        raise UsageError(f"{path} is no model config of open_clip: embed_dim, vision_cfg and text_cfg make one")
    return config
