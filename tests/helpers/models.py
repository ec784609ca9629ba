"""Small real architectures of classifiers, with a tokenizer of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

WORDS = [
    "the",
    "a",
    "film",
    "plot",
    "is",
    "was",
    "not",
    "good",
    "bad",
    "dull",
    "fine",
    "very",
    "and",
    "but",
    "long",
    "short",
    "of",
    "in",
    "it",
    "i",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ARCHITECTURES = ("bert", "roberta", "distilbert", "gpt2")
DECODERS = ("gpt2", "llama", "qwen2")
"""They come without a padding token."""


def word_tokenizer(*, pad: bool = True, words: list[str] | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, with BERT's special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *(words or WORDS)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=48, **names, **({"pad_token": "[PAD]"} if pad else {})
    )


BODY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
        "max_position_embeddings": 64}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "bert": BODY,
    "roberta": BODY,
    "electra": {**BODY, "embedding_size": 16},
    "albert": {**BODY, "embedding_size": 16},
    "mpnet": BODY,
    "deberta-v2": {**BODY, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "modernbert": BODY,
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "llama": {**BODY, "num_key_value_heads": 1},
    "qwen2": {**BODY, "num_key_value_heads": 1},
}


def tiny_config(architecture: str, labels: list[str]):
    """A two-layer configuration of a real architecture, with dropout, as real ones have."""
    return AutoConfig.for_model(
        architecture,
        vocab_size=len(SPECIAL) + len(WORDS),
        **SIZES[architecture],
        **({} if architecture in DECODERS else {"pad_token_id": 0}),
        id2label=dict(enumerate(labels)),
        label2id={n: i for i, n in enumerate(labels)},
    )


def save_numbers(folder: Path, architecture: str = "bert", names: tuple[str, ...] = ("target",), seed: int = 0) -> Path:
    """A model folder of random weights with a head for numbers, whose unit is noted."""
    save_tiny(folder, architecture, names, seed)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    unit = {"target_mean": [3.0] * len(names), "target_std": [1.5] * len(names)}
    config |= {"problem_type": "regression", **unit}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def save_tiny(
    folder: Path, architecture: str = "bert", labels: tuple[str, ...] = ("negative", "positive"), seed: int = 0
) -> Path:
    """A model folder of random weights with a head for `labels`; GPT-2 comes without a padding token, as it does."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(tiny_config(architecture, list(labels)))
    model.save_pretrained(folder)
    word_tokenizer(pad=architecture not in DECODERS).save_pretrained(folder)
    return folder
