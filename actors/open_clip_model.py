"""A model of open_clip, loaded from a checkpoint, a folder or a tag and checked against its profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.texts import torch_device, torch_dtype
from cluster.errors import RushesError, first_line
from cluster.image_model import FOLDER_CONFIG, TAG, architecture_config, folder_config, pretrained
from cluster.profiles import ModelChoice

if TYPE_CHECKING:
    import torch

# What open_clip looks for in a repository, the safe form first.
CHECKPOINTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# The forms that are read without running code of theirs.
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


def source_of(place: Path, choice: ModelChoice) -> str:
    """How open_clip knows the model: a folder that describes itself, or an architecture."""
    if (place / FOLDER_CONFIG).is_file():
        if choice.architecture:
            _check_architecture(folder_config(place), choice)
        return f"local-dir:{place}"
    if not choice.architecture:
        raise RushesError(f"{choice.weights} does not say what model it is: set RUSHES_IMAGE_ARCHITECTURE")
    if choice.architecture.endswith(".json"):
        import open_clip

        architecture_config(choice.architecture)
        open_clip.add_model_config(Path(choice.architecture).expanduser())
        return Path(choice.architecture).stem
    return choice.architecture


def _check_architecture(held: Mapping[str, Any], choice: ModelChoice) -> None:
    """What decides the vectors and is no weight (activation, heads) would differ in silence."""
    from open_clip import CLIPTextCfg, CLIPVisionCfg

    def decisive(config: Mapping[str, Any]) -> list[Any]:
        towers = (CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"]))
        return [config["embed_dim"], bool(config.get("quick_gelu")), *towers]

    assert choice.architecture is not None
    if decisive(held) != decisive(architecture_config(choice.architecture)):
        raise RushesError(
            f"{choice.weights} holds another model than the architecture {choice.architecture} of profile "
            f"{choice.profile!r}: set RUSHES_IMAGE_ARCHITECTURE to that of the weights, or name other weights"
        )


def load_model(place: Path, source: str, choice: ModelChoice) -> Any:
    """The model of `source_of` in evaluation mode on its device; `RushesError` where it and the choice disagree."""
    import open_clip

    config = _config(source)
    if "hf_model_name" in config["text_cfg"]:
        raise RushesError(f"{source} takes its text model from the hub by itself: name an architecture that does not")
    more: dict[str, Any] = {}
    if not source.startswith("local-dir:"):
        more = {"pretrained": str(_checkpoint(place, choice))}
        if choice.weights.startswith(TAG):
            more["force_preprocess_cfg"] = dict(pretrained(choice.weights))
    device = torch_device(choice)
    try:
        model = open_clip.create_model(source, device=device, require_pretrained=True, **more)
    except Exception as error:
        raise RushesError(
            f"{choice.weights} does not load as {source} ({first_line(error)}): set RUSHES_IMAGE_ARCHITECTURE to the "
            "architecture it was made with, or name other weights"
        ) from error
    _check_model(model, config, choice)
    return model.eval().to(torch_dtype(choice, device))


def _config(source: str) -> dict[str, Any]:
    import open_clip

    config = open_clip.get_model_config(source)
    assert config is not None
    return config


def _checkpoint(place: Path, choice: ModelChoice) -> Path:
    found = next((place / name for name in CHECKPOINTS if (place / name).is_file()), place)
    if not found.is_file() or found.suffix not in SUFFIXES:
        raise RushesError(
            f"{found} is no checkpoint: set RUSHES_IMAGE_WEIGHTS to a file ({', '.join(SUFFIXES)}) or to a folder with "
            f"{FOLDER_CONFIG}"
        )
    return found


def _check_model(model: Any, config: Mapping[str, Any], choice: ModelChoice) -> None:
    cfg = model.visual.preprocess_cfg
    size = cfg["size"]
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise RushesError(f"{choice.weights} takes pictures of {size}, and only square ones are made here")
    for field, held, asked in (
        ("dimension", config["embed_dim"], choice.dimension),
        ("image_size", sides.pop(), choice.image_size),
        ("image_resize", cfg["resize_mode"], choice.image_resize),
        ("image_interpolation", cfg["interpolation"], choice.image_interpolation),
    ):
        if held != asked:
            raise RushesError(
                f"{choice.weights} has the {field} {held}, profile {choice.profile!r} says {asked}: set "
                f"RUSHES_IMAGE_{field.upper()}={held}, or name other weights"
            )


def load_tokenizer(source: str, choice: ModelChoice) -> Callable[[list[str]], torch.Tensor]:
    """Words to tokens of shape (texts, context length), cut there; asks the hub nothing."""
    import open_clip

    if _config(source)["text_cfg"].get("hf_tokenizer_name") and not source.startswith("local-dir:"):
        raise RushesError(
            f"{source} takes its tokenizer from the hub by itself: to search by words set RUSHES_IMAGE_WEIGHTS to "
            f"a folder that holds it beside the weights and {FOLDER_CONFIG}; `rushes search --image` needs none"
        )
    return open_clip.get_tokenizer(source)
